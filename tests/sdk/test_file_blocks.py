"""Messages that name files, and who may name which, through the official SDK."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from corral.kernel.ids import DEFAULT_WORKSPACE, FileId, SessionId
from corral.kernel.limits import FILE_BLOCKS_BYTES_MAX
from corral.testing.contract_blobs import chunks
from tests.sdk.conftest import Server, take_inbox


def named(kind: str, file_id: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "file", "file_id": file_id}}


def message(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": "look"}, *blocks]}


@pytest.fixture
def upload(client: anthropic.Anthropic) -> Callable[..., str]:
    def uploaded(kind: str, content: bytes = b"x") -> str:
        return client.files.upload(file=("a", content, kind)).id

    return uploaded


def test_messages_name_files(
    server: Server,
    agent_id: str,
    environment_id: str,
    upload: Callable[..., str],
) -> None:
    png, pdf, text = upload("image/png"), upload("application/pdf"), upload("text/plain")
    said = message(named("image", png), {**named("document", pdf), "title": "T"}, named("document", text))
    with server.client(_strict_response_validation=True) as strict:
        session = strict.beta.sessions.create(
            agent=agent_id, environment_id=environment_id, initial_events=[said]
        )
        sent = strict.beta.sessions.events.send(session.id, events=[said])
        assert sent.data is not None and sent.data[0].content[1].source.file_id == png
        server.run(take_inbox(server.deps, SessionId(session.id)))
        stored = [
            each for each in strict.beta.sessions.events.list(session.id) if each.type == "user.message"
        ]
        assert [each.content[2].source.file_id for each in stored] == [pdf, pdf]
    found = server.run(
        server.deps.files.for_session(SessionId(session.id), [FileId(png), FileId("file_none")])
    )
    assert list(found) == [png]
    assert server.run(server.deps.files.whole(found[FileId(png)])) == b"x"


@pytest.mark.parametrize(
    ("kind", "mime_type", "told"),
    [
        ("image", "application/pdf", "'document'"),
        ("document", "image/png", "'image'"),
        ("document", "text/csv", "mount it"),
        ("image", "image/svg+xml", "mount it"),
    ],
)
def test_files_of_another_type(
    client: anthropic.Anthropic,
    session_id: str,
    upload: Callable[..., str],
    kind: str,
    mime_type: str,
    told: str,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=told) as refused:
        client.beta.sessions.events.send(session_id, events=[message(named(kind, upload(mime_type)))])
    assert "events.0.content.1.source.file_id" in refused.value.message
    assert list(client.beta.sessions.events.list(session_id)) == []


def test_files_that_cannot_be_sent(
    client: anthropic.Anthropic,
    server: Server,
    session_id: str,
    agent_id: str,
    environment_id: str,
    upload: Callable[..., str],
) -> None:
    def send(*blocks: dict[str, Any]) -> None:
        client.beta.sessions.events.send(session_id, events=[message(*blocks)])

    with pytest.raises(anthropic.NotFoundError, match=r"events.0.content.1.*file_none"):
        send(named("image", "file_none"))
    with pytest.raises(anthropic.BadRequestError, match="empty"):
        send(named("document", upload("text/plain", b"")))
    half = upload("application/pdf", b"x" * (FILE_BLOCKS_BYTES_MAX // 2 + 1))
    with pytest.raises(anthropic.BadRequestError, match="at most"):
        send(named("document", half), named("document", half))
    text = upload("text/plain")
    with pytest.raises(anthropic.BadRequestError, match="at most 100 documents"):
        send(*[named("document", text)] * 101)
    with pytest.raises(anthropic.NotFoundError, match=r"initial_events\.0"):
        client.beta.sessions.create(
            agent=agent_id,
            environment_id=environment_id,
            initial_events=[message(named("image", "file_none"))],
        )
    client.files.delete(text)
    with pytest.raises(anthropic.NotFoundError):
        send(named("document", text))


def test_users_see_files_of_their_own_sessions(
    server: Server, http: httpx2.Client, agent_id: str, environment_id: str, session_id: str
) -> None:
    """Uploads of the workspace, and what belongs to a session only with the session."""

    def key() -> str:
        made = http.post("/corral/v1/keys", json={"name": "u", "role": "user"})
        return str(made.json()["key"])

    async def put(session_id: str) -> str:
        record = await server.deps.files.put_output(SessionId(session_id), "out.txt", chunks(b"out"))
        assert record.workspace_id == DEFAULT_WORKSPACE
        return record.file_id

    theirs = server.run(put(session_id))
    shared = http.post("/v1/files", files={"file": ("a.txt", b"shared", "text/plain")}).json()["id"]
    with server.http(**{"x-api-key": key()}) as user:
        create = {"agent": agent_id, "environment_id": environment_id}
        own_session = user.post("/v1/sessions", json=create).json()["id"]
        own = server.run(put(own_session))
        assert user.get(f"/v1/files/{own}/content").content == b"out"
        assert user.get(f"/v1/files/{shared}").status_code == 200
        for path in ("", "/content"):
            assert user.get(f"/v1/files/{theirs}{path}").status_code == 404
        assert user.get(f"/v1/files?after_id={theirs}").status_code == 400
        found = user.get("/v1/files", params={"ids[]": [own, theirs, shared]}).json()["data"]
        assert {each["id"] for each in found} == {own, shared}
        listed = {each["id"] for each in user.get("/v1/files?limit=1000").json()["data"]}
        assert shared in listed and not listed & {own, theirs}
        assert [each["id"] for each in user.get(f"/v1/files?scope_id={own_session}").json()["data"]] == [
            own
        ]
        assert user.get(f"/v1/files?scope_id={session_id}").json()["data"] == []
        mount = {"type": "file", "file_id": theirs}
        assert user.post("/v1/sessions", json={**create, "resources": [mount]}).status_code == 404
        path = f"/v1/sessions/{own_session}"
        assert user.post(f"{path}/resources", json=mount).status_code == 404
        assert user.post(f"{path}/resources", json={**mount, "file_id": shared}).status_code == 200
        events = {"events": [message(named("document", theirs))]}
        assert user.post(f"{path}/events", json=events).status_code == 404
