"""Memory stores through the official SDK, strictly validated."""

import hashlib
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from corral.kernel.limits import MEMORY_CONTENT_BYTES_MAX
from tests.sdk.conftest import Server

BOTH = "managed-agents-2026-04-01,agent-memory-2026-07-22"


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as made:
        yield made


@pytest.fixture
def stores(client: anthropic.Anthropic) -> Any:
    return client.beta.memory_stores


@pytest.fixture
def store_id(stores: Any) -> str:
    return str(stores.create(name="Notes").id)


def error_of(raised: pytest.ExceptionInfo[anthropic.APIStatusError]) -> Any:
    return raised.value.body["error"]  # type: ignore[index,call-overload]


def sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def test_store_life(stores: Any) -> None:
    made = stores.create(name="Notes on ä", metadata={"user": "1", "team": "a"})
    assert made.id.startswith("memstore_")
    assert (made.type, made.description, made.archived_at) == ("memory_store", "", None)
    assert made.created_at == made.updated_at
    assert stores.retrieve(made.id) == made
    changed = stores.update(made.id, description="D", metadata={"user": None, "x": ""})
    assert (changed.name, changed.description, changed.metadata) == (
        "Notes on ä",
        "D",
        {"team": "a", "x": ""},
    )
    assert changed.updated_at > made.updated_at
    assert stores.update(made.id, description="").description == ""
    assert stores.create(name="Notes on ä").id != made.id
    archived = stores.archive(made.id)
    assert archived.archived_at == archived.updated_at
    assert stores.archive(made.id) == archived
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        stores.update(made.id, name="B")
    assert made.id not in [store.id for store in stores.list()]
    assert made.id in [store.id for store in stores.list(include_archived=True)]
    gone = stores.delete(made.id)
    assert (gone.id, gone.type) == (made.id, "memory_store_deleted")
    for call in (stores.retrieve, stores.delete, stores.archive, stores.memories.list):
        with pytest.raises(anthropic.NotFoundError):
            call(made.id)


def test_store_pages(stores: Any) -> None:
    made = [stores.create(name=f"p{n}") for n in range(3)]
    first = stores.list(limit=2)
    assert [store.id for store in first.data] == [made[2].id, made[1].id]
    assert [store.id for store in stores.list(limit=1)][:3] == [store.id for store in reversed(made)]
    between = stores.list(created_at_gte=made[1].created_at, created_at_lte=made[1].created_at)
    assert [store.id for store in between] == [made[1].id]
    for wrong in ({"limit": 0}, {"limit": 101}, {"page": "bm9uc2Vuc2U"}):
        with pytest.raises(anthropic.BadRequestError):
            stores.list(**wrong)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\x7fb"}, "name"),
        ({"name": "n", "description": "x" * 1025}, "description"),
        ({"name": "n", "metadata": {f"k{n}": "" for n in range(17)}}, "metadata"),
        ({"name": "n", "metadata": {"": "v"}}, "metadata"),
        ({"name": "n", "metadata": {"k" * 65: "v"}}, "metadata"),
        ({"name": "n", "metadata": {"k": "v" * 513}}, "metadata"),
        ({"name": "n", "extra_body": {"shape": "round"}}, "shape"),
    ],
)
def test_what_no_store_may_be(stores: Any, fields: Any, where: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=where):
        stores.create(**fields)
    stores.create(name="x" * 255, description="x" * 1024, metadata={"k" * 64: "v" * 512})


def test_memory_life(stores: Any, store_id: str) -> None:
    memories, versions = stores.memories, stores.memory_versions
    made = memories.create(store_id, path="/projects/ä.md", content="é\n")
    assert made.id.startswith("mem_") and made.memory_version_id.startswith("memver_")
    assert (made.type, made.content, made.memory_store_id) == ("memory", None, store_id)
    assert (made.content_sha256, made.content_size_bytes) == (sha("é\n"), 3)
    read = memories.retrieve(made.id, memory_store_id=store_id)
    assert read == made.model_copy(update={"content": "é\n"})
    assert memories.retrieve(made.id, memory_store_id=store_id, view="basic") == made
    assert memories.create(store_id, path="/empty", content="", view="full").content == ""

    renamed = memories.update(made.id, memory_store_id=store_id, path="/b.md", view="full")
    assert (renamed.path, renamed.content, renamed.id) == ("/b.md", "é\n", made.id)
    changed = memories.update(
        made.id,
        memory_store_id=store_id,
        content="new",
        path=None,
        precondition={"type": "content_sha256", "content_sha256": sha("é\n")},
    )
    assert (changed.path, changed.content, changed.content_sha256) == ("/b.md", None, sha("new"))
    assert changed.memory_version_id != renamed.memory_version_id
    assert stores.retrieve(store_id).updated_at == stores.retrieve(store_id).created_at

    with pytest.raises(anthropic.ConflictError) as stale:
        memories.delete(made.id, memory_store_id=store_id, expected_content_sha256=sha("x"))
    assert error_of(stale)["type"] == "memory_precondition_failed_error"
    gone = memories.delete(made.id, memory_store_id=store_id, expected_content_sha256=sha("new"))
    assert (gone.id, gone.type) == (made.id, "memory_deleted")
    with pytest.raises(anthropic.NotFoundError):
        memories.retrieve(made.id, memory_store_id=store_id)

    history = list(versions.list(store_id, memory_id=made.id, view="full"))
    assert [(v.operation, v.path, v.content) for v in history] == [
        ("deleted", "/b.md", None),
        ("modified", "/b.md", "new"),
        ("modified", "/b.md", "é\n"),
        ("created", "/projects/ä.md", "é\n"),
    ]
    assert history[0].content_sha256 is None and history[0].content_size_bytes is None
    assert {v.created_by.type for v in history} == {"api_actor"}
    key_id = history[0].created_by.api_key_id
    assert key_id.startswith("apikey_")
    assert len(list(versions.list(store_id, api_key_id=key_id, limit=2))) == 5
    assert [v.path for v in versions.list(store_id, operation="created")] == ["/empty", "/projects/ä.md"]
    assert list(versions.list(store_id, session_id="sesn_none")) == []
    assert list(versions.list(store_id, service_account_id="svac_none")) == []
    since = versions.list(
        store_id, created_at_gte=history[1].created_at, created_at_lte=history[0].created_at
    )
    assert [v.id for v in since] == [history[0].id, history[1].id]
    first = versions.retrieve(history[3].id, memory_store_id=store_id)
    assert first == history[3]
    assert versions.retrieve(first.id, memory_store_id=store_id, view="basic").content is None


def test_conflicts(stores: Any, store_id: str) -> None:
    memories = stores.memories
    one = memories.create(store_id, path="/a/one", content="1")
    two = memories.create(store_id, path="/two", content="2")
    for call in (
        lambda: memories.create(store_id, path="/a/one", content=""),
        lambda: memories.update(two.id, memory_store_id=store_id, path="/a/one"),
    ):
        with pytest.raises(anthropic.ConflictError) as taken:
            call()
        error = error_of(taken)
        assert error["type"] == "memory_path_conflict_error"
        assert (error["conflicting_memory_id"], error["conflicting_path"]) == (one.id, "/a/one")
        assert taken.value.response.headers["x-should-retry"] == "false"
    stale = {"type": "content_sha256", "content_sha256": sha("x")}
    with pytest.raises(anthropic.ConflictError) as moved:
        memories.update(two.id, memory_store_id=store_id, content="3", precondition=stale)
    assert error_of(moved)["type"] == "memory_precondition_failed_error"


def test_a_path_excludes_those_above_and_below(stores: Any, store_id: str) -> None:
    one = stores.memories.create(store_id, path="/a/b", content="")
    for path in ("/a", "/a/b/c"):
        with pytest.raises(anthropic.ConflictError) as taken:
            stores.memories.create(store_id, path=path, content="")
        assert error_of(taken)["conflicting_memory_id"] == one.id


def test_an_update_that_changes_nothing(stores: Any, store_id: str) -> None:
    """200 and no version, even where the precondition does not hold."""
    made = stores.memories.create(store_id, path="/a", content="1")
    stale = {"type": "content_sha256", "content_sha256": sha("x")}
    same = stores.memories.update(
        made.id, memory_store_id=store_id, content="1", path="/a", precondition=stale
    )
    assert same == made
    with pytest.raises(anthropic.BadRequestError, match="content or path"):
        stores.memories.update(made.id, memory_store_id=store_id)


def test_what_no_memory_may_be(stores: Any, store_id: str) -> None:
    memories = stores.memories
    for path in ("a", "/", "/a/", "/a//b", "/../a", "/a\u0308", "/\u200d", "/" + "x" * 1024, "/a" * 21):
        with pytest.raises(anthropic.BadRequestError, match="path"):
            memories.create(store_id, path=path, content="")
    most = "é" * (MEMORY_CONTENT_BYTES_MAX // 2)
    made = memories.create(store_id, path="/most", content=most)
    assert made.content_size_bytes == MEMORY_CONTENT_BYTES_MAX
    for content in (most + "x", None, "a\0b"):
        with pytest.raises(anthropic.BadRequestError, match="content"):
            memories.create(store_id, path="/b", content=content)
    with pytest.raises(anthropic.BadRequestError, match="content_sha256"):
        memories.delete(made.id, memory_store_id=store_id, expected_content_sha256="ABC")
    for precondition in (
        {"type": "etag"},
        {"type": "content_sha256"},
        {"type": "content_sha256", "content_sha256": "x"},
    ):
        with pytest.raises(anthropic.BadRequestError, match="precondition"):
            memories.update(made.id, memory_store_id=store_id, content="", precondition=precondition)


def test_lists(stores: Any, store_id: str) -> None:
    memories = stores.memories
    for path in ("/z", "/notes/todo.md", "/notes/deep/er.md", "/notes-archive/todo.md", "/B"):
        memories.create(store_id, path=path, content=path)

    def listed(**query: Any) -> list[str]:
        return [item.path for item in memories.list(store_id, **query)]

    everything = ["/B", "/notes-archive/todo.md", "/notes/deep/er.md", "/notes/todo.md", "/z"]
    assert listed() == listed(limit=1) == listed(depth=0, view="full") == everything
    assert listed(path_prefix="/notes/") == everything[2:4]
    top = list(memories.list(store_id, depth=1, limit=2))
    assert [(item.type, item.path) for item in top] == [
        ("memory", "/B"),
        ("memory_prefix", "/notes-archive/"),
        ("memory_prefix", "/notes/"),
        ("memory", "/z"),
    ]
    assert listed(path_prefix="/notes/", depth=1, limit=1) == ["/notes/deep/", "/notes/todo.md"]
    assert [
        item.content for item in memories.list(store_id, path_prefix="/notes/", view="full")
    ] == everything[2:4]
    assert {item.content for item in memories.list(store_id)} == {None}
    for wrong in (
        {"path_prefix": "/notes"},
        {"path_prefix": "notes/"},
        {"depth": 2},
        {"depth": -1},
        {"view": "some"},
    ):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(wrong))):
            memories.list(store_id, **wrong)


def test_pages_with_contents_are_short(stores: Any, store_id: str) -> None:
    for number in range(21):
        stores.memories.create(store_id, path=f"/{number:02}", content="x")
    page = stores.memories.list(store_id, view="full", limit=100)
    assert len(page.data) == 20
    assert len(list(page)) == 21
    assert len(stores.memories.list(store_id, limit=100).data) == 21
    assert len(stores.memory_versions.list(store_id, view="full", limit=100).data) == 20


def test_redaction(stores: Any, store_id: str) -> None:
    versions = stores.memory_versions
    made = stores.memories.create(store_id, path="/secret", content="s3cret")
    with pytest.raises(anthropic.BadRequestError, match="current content"):
        versions.redact(made.memory_version_id, memory_store_id=store_id)
    stores.memories.update(made.id, memory_store_id=store_id, content="clean")
    redacted = versions.redact(made.memory_version_id, memory_store_id=store_id)
    assert [redacted.path, redacted.content, redacted.content_sha256, redacted.content_size_bytes] == [
        None
    ] * 4
    assert redacted.redacted_by.type == "api_actor" and redacted.redacted_at is not None
    assert versions.redact(made.memory_version_id, memory_store_id=store_id) == redacted
    assert versions.retrieve(made.memory_version_id, memory_store_id=store_id) == redacted
    with pytest.raises(anthropic.NotFoundError):
        versions.redact("memver_none", memory_store_id=store_id)


def test_archived_stores(stores: Any, store_id: str) -> None:
    memories = stores.memories
    made = memories.create(store_id, path="/a", content="1")
    memories.update(made.id, memory_store_id=store_id, content="2")
    stores.archive(store_id)
    for call in (
        lambda: memories.create(store_id, path="/b", content=""),
        lambda: memories.update(made.id, memory_store_id=store_id, content="3"),
    ):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            call()
    assert memories.retrieve(made.id, memory_store_id=store_id).content == "2"
    stores.memory_versions.redact(made.memory_version_id, memory_store_id=store_id)
    memories.delete(made.id, memory_store_id=store_id)


def test_either_beta_and_never_both(stores: Any, store_id: str) -> None:
    one = {"anthropic-beta": "managed-agents-2026-04-01"}
    assert stores.retrieve(store_id, extra_headers=one).id == store_id
    assert stores.memories.list(store_id, extra_headers=one).data == []
    for call in (
        lambda: stores.retrieve(store_id, betas=["managed-agents-2026-04-01"]),
        lambda: stores.list(extra_headers={"anthropic-beta": BOTH}),
        lambda: stores.create(name="n", extra_headers={"anthropic-beta": BOTH}),
        lambda: stores.memories.create(
            store_id, path="/a", content="", extra_headers={"anthropic-beta": BOTH}
        ),
        lambda: stores.memory_versions.list(store_id, extra_headers={"anthropic-beta": BOTH}),
    ):
        with pytest.raises(anthropic.BadRequestError, match="exclude each other"):
            call()


def test_patch_and_idempotency(stores: Any, store_id: str, http: httpx2.Client) -> None:
    made = stores.memories.create(store_id, path="/a", content="1")
    path = f"/v1/memory_stores/{store_id}/memories/{made.id}"
    patched = http.patch(path, json={"content": "2"})
    assert patched.status_code == 200
    assert patched.json()["content_sha256"] == sha("2")
    once = {"idempotency-key": f"delete {made.id}"}
    answers = [http.request("DELETE", path, headers=once) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"id": made.id, "type": "memory_deleted"}] * 2
    assert http.delete(path).status_code == 404
    where = f"/v1/memory_stores/{store_id}/memories"
    created = [
        http.post(where, json={"path": "/once", "content": ""}, headers={"idempotency-key": store_id})
        for _ in range(2)
    ]
    assert created[0].json() == created[1].json()
    assert created[1].headers["idempotent-replayed"] == "true"


async def test_async_client(server: Server) -> None:
    async with server.async_client(_strict_response_validation=True) as client:
        stores = client.beta.memory_stores
        store = await stores.create(name="Async")
        made = await stores.memories.create(store.id, path="/a/b", content="1")
        await stores.memories.create(store.id, path="/c", content="2")
        assert [item.path async for item in stores.memories.list(store.id, limit=1, depth=1)] == [
            "/a/",
            "/c",
        ]
        await stores.memories.update(made.id, memory_store_id=store.id, content="3")
        found = [version async for version in stores.memory_versions.list(store.id, limit=2, view="full")]
        assert [version.content for version in found] == ["3", "2", "1"]
        assert (await stores.memory_versions.redact(found[2].id, memory_store_id=store.id)).path is None
        assert (await stores.delete(store.id)).type == "memory_store_deleted"
        with pytest.raises(anthropic.NotFoundError):
            await stores.memories.retrieve(made.id, memory_store_id=store.id)
