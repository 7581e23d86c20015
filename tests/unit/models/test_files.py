"""Files that messages name are in the request, byte for byte the same each time."""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from corral.brain.models import files as module
from corral.brain.models.files import FilledModel
from corral.brain.ports import ModelEvent, ModelFailed, ModelReply, ModelRequest
from corral.catalog.files import FileRecord
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.ids import DEFAULT_WORKSPACE, FileId, SessionId

SESSION = SessionId("sesn_1")


def record(file_id: str, mime_type: str, content: bytes) -> FileRecord:
    return FileRecord(
        file_id=FileId(file_id),
        workspace_id=DEFAULT_WORKSPACE,
        filename="a",
        mime_type=mime_type,
        size_bytes=len(content),
        sha256="",
        origin="upload",
        downloadable=False,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        blob_key=f"files/{file_id}",
    )


class Shelf:
    """`NamedFiles` in memory."""

    def __init__(self, **files: tuple[str, bytes]) -> None:
        self.files, self.reads = files, 0

    async def for_session(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        assert session_id == SESSION
        return {each: record(each, *self.files[each]) for each in file_ids if each in self.files}

    async def whole(self, record: FileRecord) -> bytes:
        self.reads += 1
        content = self.files[record.file_id][1]
        if content == b"lost":
            raise NotFound("lost")
        if content == b"away":
            raise BlobUnavailable("The blobs are away.")
        return content


class Seen:
    """A model that keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.requests.append(request)
        yield ModelReply(content=(), stop_reason="end_turn", usage=module_usage())

    async def aclose(self) -> None: ...


def module_usage() -> Any:
    from corral.brain.ports import Usage

    return Usage(input_tokens=1, output_tokens=1)


def named(kind: str, file_id: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "file", "file_id": file_id}, **more}


async def asked(model: FilledModel, seen: Seen, *content: Mapping[str, Any]) -> list[Any]:
    messages = [{"role": "user", "content": list(content)}]
    request = ModelRequest(model="m", session_id=SESSION, messages=messages, max_tokens=1)
    assert [type(event) async for event in model.stream(request)] == [ModelReply]
    return list(seen.requests[-1].messages[0]["content"])


async def test_content_is_put_in() -> None:
    shelf = Shelf(
        png=("image/png", b"\x89"), pdf=("application/pdf", b"%PDF"), txt=("text/plain", b"a\xff"),
        gone=("image/png", b"lost"), csv=("text/csv", b"a"), blank=("text/plain", b" "),
    )  # fmt: skip
    seen = Seen()
    model = FilledModel(seen, shelf)
    text, mark = {"type": "text", "text": "t"}, {"cache_control": {"type": "ephemeral"}}
    inline = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
    found = await asked(
        model,
        seen,
        text,
        inline,
        named("image", "png"),
        named("document", "pdf", title="T", **mark),
        {"type": "tool_result", "tool_use_id": "x", "content": [text, named("document", "txt")]},
        {"type": "tool_result", "tool_use_id": "y", "content": "words"},
        {"type": "tool_result", "tool_use_id": "z"},
        named("image", "gone", **mark),
        named("image", "unknown"),
        named("document", "csv"),
        named("document", "blank"),
    )
    base64 = {"type": "base64", "media_type": "image/png", "data": b64encode(b"\x89").decode()}
    assert found[:3] == [text, inline, {"type": "image", "source": base64}]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": b64encode(b"%PDF").decode()}
    assert found[3] == {"type": "document", "source": pdf, "title": "T", **mark}
    assert found[4]["content"][1]["source"] == {
        "type": "text",
        "media_type": "text/plain",
        "data": "a\ufffd",
    }
    assert found[5]["content"] == "words" and found[6] == {"type": "tool_result", "tool_use_id": "z"}
    gone = [(each["type"], "not available" in each["text"]) for each in found[7:]]
    assert gone == [("text", True)] * 4
    assert found[7]["cache_control"] == mark["cache_control"]


async def test_content_is_remembered_until_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(**{f"f{number}": ("text/plain", b"x" * 10) for number in range(4)})
    seen = Seen()
    model = FilledModel(seen, shelf)
    blocks = [named("document", f"f{number}") for number in range(3)]
    first = await asked(model, seen, *blocks)
    assert await asked(model, seen, *blocks) == first and shelf.reads == 3
    monkeypatch.setattr(module, "FILE_BLOCKS_CACHE_CHARS_MAX", 15)
    await asked(model, seen, named("document", "f3"))
    assert await asked(model, seen, *blocks) == first
    assert shelf.reads == 7, "the others had been forgotten"
    del shelf.files["f0"]
    assert (await asked(model, seen, *blocks))[0]["type"] == "text", "deleted is deleted"


async def test_what_has_no_file_is_left_alone() -> None:
    seen, shelf = Seen(), Shelf()
    request = ModelRequest(model="m", session_id=SESSION, max_tokens=1)
    _ = [event async for event in FilledModel(seen, shelf).stream(request)]
    assert seen.requests == [request] and seen.requests[0] is request


async def test_blobs_that_are_away() -> None:
    seen = Seen()
    with pytest.raises(ModelFailed) as failed:
        await asked(FilledModel(seen, Shelf(a=("image/png", b"away"))), seen, named("image", "a"))
    assert failed.value.retryable and seen.requests == []
