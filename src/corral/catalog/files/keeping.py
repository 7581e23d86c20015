"""Bytes and rows together: what keeps files, and what of them goes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from corral.catalog.blobs import BlobStore
from corral.catalog.files.records import (
    FileRecord,
    check_readable,
    guessed_type,
    output_key,
    output_name,
)
from corral.catalog.files.table import FileTable
from corral.kernel.clock import Clock
from corral.kernel.errors import NotFound, RequestTooLarge, StoreUnavailable
from corral.kernel.ids import DEFAULT_WORKSPACE, FILE, FileId, Ids, SessionId
from corral.kernel.limits import BLOB_CHUNK_BYTES, FILE_BYTES_MAX

__all__ = ["Files", "Received"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """Bytes that are stored, and that no file names yet."""

    blob_key: str
    size_bytes: int
    sha256: str


class Files:
    """Any process may use it at any time. `table` is for what needs no bytes."""

    def __init__(self, table: FileTable, blobs: BlobStore, *, ids: Ids, clock: Clock) -> None:
        self.table = table
        self._blobs = blobs
        self._ids = ids
        self._clock = clock

    async def receive(self, data: AsyncIterator[bytes], *, bytes_max: int = FILE_BYTES_MAX) -> Received:
        """Store a stream, never whole in memory. Whoever gets the result must name it (`table.add`) or
        `discard` it. What `data` raises is raised here; then, and when killed, nothing stays behind.

        Raises RequestTooLarge naming the bound, BlobUnavailable, StoreUnavailable.
        """
        blob_key = f"files/{self._ids.mint('blob')}"
        await self.table.expect(blob_key)
        try:
            blob = await self._blobs.put(blob_key, _bounded(_joined(data), bytes_max))
        except BaseException:
            await self._discard(blob_key)
            raise
        return Received(blob_key=blob_key, size_bytes=blob.size_bytes, sha256=blob.sha256)

    async def discard(self, received: Received) -> None:
        """Unless a file names these bytes, they go. Does not fail: the clean-up finds them otherwise."""
        await self._discard(received.blob_key)

    async def read(
        self, record: FileRecord, *, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Bytes start..end (exclusive) of a file, as `BlobStore.get` gives them. Raises NotFound (expired,
        gone), BlobUnavailable; both before the first byte."""
        blob_key = check_readable(record, now=self._clock.now())
        chunks = self._blobs.get(blob_key, start=start, end=end)
        async with aclosing(chunks):
            try:
                async for chunk in chunks:
                    yield chunk
            except NotFound:  # deleted at this very moment, or lost
                raise NotFound(f"The content of file {record.file_id!r} is gone.") from None

    async def read_of_session(self, session_id: SessionId, file_id: FileId) -> AsyncGenerator[bytes, None]:
        """The content of a file that belongs to a session: what a mount is made of. Raises as `read`."""
        chunks = self.read(await self.table.of_session(session_id, file_id))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def for_session(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        """Of the session's workspace: what its messages may name."""
        return await self.table.for_session(session_id, file_ids)

    async def whole(self, record: FileRecord) -> bytes:
        """In memory, so of a small file only. Raises as `read`."""
        return b"".join([chunk async for chunk in self.read(record)])

    async def put_output(
        self,
        session_id: SessionId,
        path: str,
        data: AsyncIterator[bytes],
        *,
        mime_type: str | None = None,
    ) -> FileRecord:
        """What an agent has put out, as a file of its session, downloadable.

        path: relative to the outputs directory, as `os.fsdecode` gives it. A file that was there before at
        this path is replaced: the new one has a new id; with the same content nothing changes.
        Repeat: safe. Raises NotFound (the session is gone), RequestTooLarge (FILE_BYTES_MAX),
        InvalidRequest (SESSION_OUTPUTS_MAX), BlobUnavailable, StoreUnavailable; then nothing has changed.
        """
        received = await self.receive(data)
        name = output_name(path)
        record = FileRecord(
            file_id=FileId(self._ids.mint(FILE)),
            workspace_id=DEFAULT_WORKSPACE,
            filename=name,
            mime_type=mime_type or guessed_type(name),
            size_bytes=received.size_bytes,
            sha256=received.sha256,
            origin="output",
            downloadable=True,
            created_at=self._clock.now(),
            scope_id=session_id,
            blob_key=received.blob_key,
            output_path=output_key(path),
        )
        try:
            stored = await self.table.put_output(record)
        except BaseException:
            await self.discard(received)
            raise
        if stored.blob_key != received.blob_key:
            await self.discard(received)
        return stored

    async def remove_outputs(self, session_id: SessionId, paths: Sequence[str]) -> None:
        """Of files that are no longer among the outputs. Repeat: safe."""
        await self.table.remove_outputs(session_id, [output_key(path) for path in paths])

    async def outputs(self, session_id: SessionId) -> Mapping[str, FileRecord]:
        """What is kept of a session's outputs, by `output_key` of the path."""
        return await self.table.outputs(session_id)

    async def _discard(self, blob_key: str) -> None:
        async def give_up() -> None:
            try:
                await self.table.unexpect(blob_key)
            except StoreUnavailable as error:
                _log.debug("%s goes later: %s", blob_key, error)

        # Whoever was cancelled waits for it all the same: its memory is all that knows of these bytes.
        await asyncio.shield(asyncio.ensure_future(give_up()))


async def _joined(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """In pieces of BLOB_CHUNK_BYTES, about: what comes from a network comes in smaller ones."""
    waiting = bytearray()
    async for chunk in data:
        waiting += chunk
        if len(waiting) >= BLOB_CHUNK_BYTES:
            piece, waiting = bytes(waiting), bytearray()
            yield piece
    if waiting:
        yield bytes(waiting)


async def _bounded(data: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in data:
        size += len(chunk)
        if size > bytes_max:
            raise RequestTooLarge(f"The file has more than {bytes_max} bytes ({bytes_max >> 20} MiB)")
        yield chunk
