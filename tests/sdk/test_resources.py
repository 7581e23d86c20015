"""Resources of sessions through the official SDK, unmodified."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from corral.kernel.ids import SessionId
from tests.sdk.conftest import Server, take_inbox

UPLOADS = "/mnt/session/uploads"


@pytest.fixture
def strict(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as made:
        yield made


@pytest.fixture
def file_id(client: anthropic.Anthropic) -> str:
    return client.files.upload(file=("data.csv", b"a,b\n")).id


@pytest.fixture
def create(strict: anthropic.Anthropic, agent_id: str, environment_id: str) -> Callable[..., Any]:
    def created(*resources: Any, **fields: Any) -> Any:
        return strict.beta.sessions.create(
            agent=agent_id, environment_id=environment_id, resources=resources, **fields
        )

    return created


def test_a_session_made_with_files(
    strict: anthropic.Anthropic, create: Callable[..., Any], file_id: str
) -> None:
    session = create(
        {"type": "file", "file_id": file_id},
        {"type": "file", "file_id": file_id, "mount_path": "/tables/data.csv"},
    )
    first, second = session.resources
    assert (first.mount_path, second.mount_path) == (f"{UPLOADS}/{file_id}", f"{UPLOADS}/tables/data.csv")
    assert first.id.startswith("sesrsc_") and len({first.file_id, second.file_id, file_id}) == 3
    assert strict.beta.sessions.retrieve(session.id).resources == [first, second]
    assert next(iter(strict.beta.sessions.list())).resources == [first, second]
    resources = strict.beta.sessions.resources
    assert resources.retrieve(first.id, session_id=session.id) == first
    assert list(resources.list(session.id)) == [first, second]
    page = resources.list(session.id, limit=1)
    assert (page.data, page.has_next_page()) == ([first], True)
    assert list(page) == [first, second]
    copy = strict.beta.files.retrieve_metadata(first.file_id)
    assert (copy.filename, copy.size_bytes, copy.downloadable) == ("data.csv", 4, False)
    assert copy.scope is not None and copy.scope.id == session.id
    scoped = strict.beta.files.list(scope_id=session.id)
    assert {each.id for each in scoped} == {first.file_id, second.file_id}
    with pytest.raises(anthropic.ConflictError, match="delete that one"):
        strict.beta.files.delete(first.file_id)
    strict.beta.files.delete(file_id)  # the session has its own
    strict.beta.sessions.delete(session.id)
    assert strict.beta.files.list(ids=[first.file_id, second.file_id]).data == []


def test_files_come_and_go(strict: anthropic.Anthropic, session_id: str, file_id: str) -> None:
    resources = strict.beta.sessions.resources
    before = strict.beta.sessions.retrieve(session_id).updated_at
    added = resources.add(session_id, type="file", file_id=file_id, mount_path="data.csv")
    assert added.mount_path == f"{UPLOADS}/data.csv"
    session = strict.beta.sessions.retrieve(session_id)
    assert session.resources == [added] and session.updated_at >= before
    with pytest.raises(anthropic.BadRequestError, match="mounted already"):
        resources.add(session_id, type="file", file_id=file_id, mount_path="/data.csv")
    with pytest.raises(anthropic.BadRequestError, match="a file has none"):
        resources.update(added.id, session_id=session_id, authorization_token="x")
    deleted = resources.delete(added.id, session_id=session_id)
    assert (deleted.id, deleted.type) == (added.id, "session_resource_deleted")
    assert list(resources.list(session_id)) == []
    for action in (
        lambda: resources.retrieve(added.id, session_id=session_id),
        lambda: resources.delete(added.id, session_id=session_id),
        lambda: resources.update(added.id, session_id=session_id, authorization_token="x"),
        lambda: strict.beta.files.retrieve_metadata(added.file_id),
        lambda: resources.list("sesn_none"),
        lambda: resources.add("sesn_none", type="file", file_id=file_id),
        lambda: resources.add(session_id, type="file", file_id="file_none"),
    ):
        with pytest.raises(anthropic.NotFoundError):
            action()
    again = resources.add(session_id, type="file", file_id=file_id, mount_path="/data.csv")
    assert again.id != added.id
    strict.beta.sessions.archive(session_id)
    for ended in (
        lambda: resources.add(session_id, type="file", file_id=file_id),
        lambda: resources.delete(again.id, session_id=session_id),
    ):
        with pytest.raises(anthropic.ConflictError):
            ended()


async def test_the_async_client(server: Server, session_id: str, file_id: str) -> None:
    async with server.async_client(_strict_response_validation=True) as client:
        resources = client.beta.sessions.resources
        added = await resources.add(session_id, type="file", file_id=file_id)
        assert [each async for each in resources.list(session_id)] == [added]
        assert await resources.retrieve(added.id, session_id=session_id) == added
        assert (await resources.delete(added.id, session_id=session_id)).id == added.id


def test_while_the_session_runs(
    strict: anthropic.Anthropic, server: Server, create: Callable[..., Any], file_id: str
) -> None:
    text: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
    session = create({"type": "file", "file_id": file_id}, initial_events=[text])
    assert session.status == "running"
    resources = strict.beta.sessions.resources
    added = resources.add(session.id, type="file", file_id=file_id, mount_path="/b")
    resources.delete(session.resources[0].id, session_id=session.id)
    server.run(take_inbox(server.deps, SessionId(session.id)))
    assert strict.beta.sessions.retrieve(session.id).resources == [added]


@pytest.mark.parametrize(
    ("asked", "mounted"),
    [
        ("/data.csv", "data.csv"),
        ("data.csv", "data.csv"),
        (f"{UPLOADS}/a/b", "a/b"),
        ("/workspace/ä b.csv", "workspace/ä b.csv"),
        ("/mnt/session/uploadsx", "mnt/session/uploadsx"),
        (".hidden", ".hidden"),
        ("..a/b..", "..a/b.."),
        ("/".join("x" * 250 for _ in range(4)), "/".join("x" * 250 for _ in range(4))),
    ],
)
def test_where_a_file_is_mounted(
    create: Callable[..., Any], file_id: str, asked: str, mounted: str
) -> None:
    [resource] = create({"type": "file", "file_id": file_id, "mount_path": asked}).resources
    assert resource.mount_path == f"{UPLOADS}/{mounted}"


FILE = {"type": "file", "file_id": "FILE"}


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([{**FILE, "mount_path": path}], "resources.0.mount_path: ")
        for path in (
            "", "/", "..", "../a", "/a/../b", "a/..", "./a", "a//b", "a/", f"{UPLOADS}/", f"{UPLOADS}/../x",
            "a\nb", "a\x7fb", "x" * 256, "/".join("x" * 200 for _ in range(6)), "//a",
        )
    ]
    + [
        ([FILE, FILE], "resources.1.mount_path"),
        ([{**FILE, "mount_path": "a"}, {**FILE, "mount_path": "/a"}], "resources.1.mount_path"),
        ([{**FILE, "mount_path": "a/b"}, {**FILE, "mount_path": "a"}], "resources.1.mount_path"),
        ([{**FILE, "mount_path": "a"}, {**FILE, "mount_path": "a/b/c"}], "resources.1.mount_path"),
        ([{**FILE, "mount_path": f"{n}"} for n in range(501)], "at most 500 files"),
        ([{"type": "file"}], "resources.0.file_id"),
        ([{**FILE, "access": "read_only"}], "resources.0.access"),
        ([{"type": "directory"}], "resources.0.type"),
        ([{"type": "file", "file_id": ""}], "resources.0.file_id"),
    ],
)  # fmt: skip
def test_resources_that_are_refused(
    create: Callable[..., Any], file_id: str, resources: list[Any], message: str
) -> None:
    asked = [
        {**each, **({"file_id": file_id} if each.get("file_id") == "FILE" else {})} for each in resources
    ]
    with pytest.raises(anthropic.BadRequestError) as refused:
        create(*asked)
    assert message in refused.value.message


def test_a_file_that_is_not_there(create: Callable[..., Any], strict: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="file_none"):
        create({"type": "file", "file_id": "file_none"})


def test_pages(http: httpx2.Client, create: Callable[..., Any], file_id: str) -> None:
    made = create(*({"type": "file", "file_id": file_id, "mount_path": f"{n}"} for n in range(5)))
    path, ids = f"/v1/sessions/{made.id}/resources", [each.id for each in made.resources]
    first = http.get(f"{path}?limit=2").json()
    assert [each["id"] for each in first["data"]] == ids[:2]
    http.delete(f"{path}/{ids[1]}").raise_for_status()  # the one that the cursor names
    rest = http.get(path, params={"page": first["next_page"]}).json()
    assert ([each["id"] for each in rest["data"]], rest["next_page"]) == (ids[2:], None)
    assert len(http.get(path).json()["data"]) == 4
    for query in ("limit=0", "limit=1001", "page=x", f"page={first['next_page']}x", "order=asc"):
        assert http.get(f"{path}?{query}").status_code == 400, query
    other = create()
    elsewhere = http.get(f"/v1/sessions/{other.id}/resources", params={"page": first["next_page"]})
    assert elsewhere.status_code == 400


def test_changes_take_effect_once(http: httpx2.Client, session_id: str, file_id: str) -> None:
    path = f"/v1/sessions/{session_id}/resources"
    once = {"idempotency-key": "add"}
    body = {"type": "file", "file_id": file_id}
    first, again = (http.post(path, json=body, headers=once) for _ in range(2))
    assert first.status_code == 200 and again.json() == first.json()
    assert len(http.get(path).json()["data"]) == 1
    one = f"{path}/{first.json()['id']}"
    assert [http.delete(one, headers=once).status_code for _ in range(2)] == [200, 200]
    for bad in ({}, {"authorization_token": ""}, {"authorization_token": "x", "url": "y"}):
        assert http.post(one, json=bad).status_code == 400, bad
