"""Content blocks that name a file get its content, for the request alone.

A file never changes, so consecutive requests share their prefix. What is gone by then (deleted, expired) is
a text that says so; the conversation goes on.
"""

from base64 import b64encode
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from corral.brain.ports import Model, ModelEvent, ModelFailed, ModelRequest
from corral.catalog.files import FileRecord, block_type
from corral.kernel.errors import BlobUnavailable, NotFound, StoreUnavailable
from corral.kernel.ids import FileId, SessionId
from corral.kernel.limits import FILE_BLOCKS_BYTES_MAX, FILE_BLOCKS_CACHE_CHARS_MAX
from corral.session.content import Block, Json, text_block

__all__ = ["FilledModel", "NamedFiles"]

GONE = "(This {block}, file {file_id}, is not available any more.)"


class NamedFiles(Protocol):
    """What a session's messages may name."""

    async def for_session(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        """Those of the session's workspace that are there. Raises StoreUnavailable."""

    async def whole(self, record: FileRecord) -> bytes:
        """Its content, of at most FILE_BLOCKS_BYTES_MAX. Raises NotFound, BlobUnavailable."""


class FilledModel:
    """`brain.ports.Model`, in front of one that knows no files."""

    def __init__(self, model: Model, files: NamedFiles) -> None:
        self._model = model
        self._files = files
        self._sources: OrderedDict[FileId, Mapping[str, Json]] = OrderedDict()
        self._chars = 0

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        filled = await self._filled(request)
        async with aclosing(self._model.stream(filled)) as stream:  # type: ignore[type-var]  # a generator
            async for event in stream:
                yield event

    async def aclose(self) -> None:
        await self._model.aclose()

    async def _filled(self, request: ModelRequest) -> ModelRequest:
        """Raises ModelFailed: try again later."""
        named = sorted({file_id for message in request.messages for file_id in _named(message["content"])})
        if not named:
            return request
        try:
            sources = await self._read(request.session_id, named)
        except (StoreUnavailable, BlobUnavailable) as error:
            raise ModelFailed(
                f"A file of the conversation cannot be read now: {error.message}",
                failure="request_failed",
                retryable=True,
            ) from error
        messages = [
            {**message, "content": [_with(block, sources) for block in message["content"]]}
            for message in request.messages
        ]
        return replace(request, messages=messages)

    async def _read(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, Mapping[str, Json]]:
        """What stands in a block in place of each file that is there. Raises StoreUnavailable,
        BlobUnavailable."""
        found: dict[FileId, Mapping[str, Json]] = {}
        # Who remembers content asks all the same whether the file is still there: deleted is deleted.
        for file_id, record in (await self._files.for_session(session_id, file_ids)).items():
            if block_type(record.mime_type) is None or record.size_bytes > FILE_BLOCKS_BYTES_MAX:
                continue
            source = self._sources.get(file_id)
            if source is None:
                try:
                    source = _source(record.mime_type, await self._files.whole(record))
                except NotFound:
                    continue
                self._remember(file_id, source)
            self._sources.move_to_end(file_id)
            found[file_id] = source
        return found

    def _remember(self, file_id: FileId, source: Mapping[str, Json]) -> None:
        """The least used are forgotten first, but never the last one."""
        if file_id not in self._sources:
            self._chars += len(source["data"])
        self._sources[file_id] = source
        while self._chars > FILE_BLOCKS_CACHE_CHARS_MAX and len(self._sources) > 1:
            _, forgotten = self._sources.popitem(last=False)
            self._chars -= len(forgotten["data"])


def _source(mime_type: str, content: bytes) -> Mapping[str, Json]:
    if mime_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": content.decode(errors="replace")}
    return {"type": "base64", "media_type": mime_type, "data": b64encode(content).decode()}


def _named(content: Sequence[Block]) -> Iterator[FileId]:
    for block in content:
        if block["type"] == "tool_result" and not isinstance(block.get("content"), str):
            yield from _named(block.get("content") or ())
        elif (source := _file_source(block)) is not None:
            yield FileId(source["file_id"])


def _with(block: Block, sources: Mapping[FileId, Mapping[str, Json]]) -> Block:
    if block["type"] == "tool_result" and not isinstance(block.get("content"), str):
        inner = block.get("content")
        return block if inner is None else {**block, "content": [_with(each, sources) for each in inner]}
    source = _file_source(block)
    if source is None:
        return block
    content = sources.get(FileId(source["file_id"]))
    if content is not None and content["data"].strip():
        return {**block, "source": content}
    gone = text_block(GONE.format(block=block["type"], file_id=source["file_id"]))
    marks = {name: block[name] for name in ("cache_control",) if name in block}
    return {**gone, **marks}


def _file_source(block: Block) -> Mapping[str, Json] | None:
    source = block.get("source")
    return source if isinstance(source, Mapping) and source.get("type") == "file" else None
