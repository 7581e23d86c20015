"""A tree on its way to the blob store and back: tar, packed with zstd and checked by sha256.

The tar is cut into pieces of BLOB_CHUNK_BYTES and each is a zstd frame of its own, which says how large it
is unpacked. So neither way holds more than a piece in memory, however well the files pack, and
`zstd -d | tar -x` reads it too.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from corral.catalog.blobs import BlobStore
from corral.kernel.limits import BLOB_CHUNK_BYTES
from corral.session.checkpoint import Checkpoint

__all__ = ["BrokenArchive", "BrokenCheckpoint", "checked", "packed", "unframed", "unpacked"]

_HEADER_BYTES = 18  # of a frame, at most


class BrokenArchive(Exception):
    """What was read is not frames, not all of them, or not those that were stored."""


class BrokenCheckpoint(BrokenArchive):
    """The blob is not what was stored."""


async def packed(archive: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Frames of what `archive` yields."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=3)
    piece = bytearray()
    async for chunk in archive:
        piece += chunk
        while len(piece) >= BLOB_CHUNK_BYTES:
            whole = bytes(piece[:BLOB_CHUNK_BYTES])
            del piece[:BLOB_CHUNK_BYTES]
            yield await asyncio.to_thread(compressor.compress, whole)
    if piece:
        yield await asyncio.to_thread(compressor.compress, bytes(piece))


async def unpacked(blobs: BlobStore, checkpoint: Checkpoint) -> AsyncGenerator[bytes, None]:
    """As `checked`; raises BrokenCheckpoint."""
    try:
        async with aclosing(checked(blobs, checkpoint.blob_key, checkpoint.sha256)) as pieces:
            async for piece in pieces:
                yield piece
    except BrokenArchive as error:
        raise BrokenCheckpoint(str(error)) from error


async def checked(blobs: BlobStore, key: str, sha256: str) -> AsyncGenerator[bytes, None]:
    """What was packed into the blob of this key and sha256. Raises BrokenArchive, at its end at the latest:
    what came before is then not to be believed. NotFound and BlobUnavailable as `BlobStore.get`."""
    seen = hashlib.sha256()

    async def hashed() -> AsyncGenerator[bytes, None]:
        async with aclosing(blobs.get(key)) as blob:
            async for chunk in blob:
                seen.update(chunk)
                yield chunk

    async with aclosing(hashed()) as chunks, aclosing(unframed(chunks)) as pieces:
        async for piece in pieces:
            yield piece
    if seen.hexdigest() != sha256:
        raise BrokenArchive("it is not what was stored")


async def unframed(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What was packed, from its frames. Raises BrokenArchive, at its end at the latest."""
    import zstandard

    unread = b""
    frame: zstandard.ZstdDecompressionObj | None = None
    async for chunk in chunks:
        unread += chunk
        while len(unread) >= _HEADER_BYTES or (unread and frame):
            try:
                if frame is None:
                    if not 0 <= zstandard.frame_content_size(unread) <= BLOB_CHUNK_BYTES:
                        raise BrokenArchive("a piece of a wrong size")
                    frame = zstandard.ZstdDecompressor().decompressobj()
                piece = await asyncio.to_thread(frame.decompress, unread)
            except zstandard.ZstdError as error:
                raise BrokenArchive(str(error)) from error
            unread, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if piece:
                yield piece
    if unread:  # a frame that is shorter than a header may be
        try:
            yield zstandard.ZstdDecompressor().decompress(unread, max_output_size=BLOB_CHUNK_BYTES)
        except zstandard.ZstdError as error:
            raise BrokenArchive(str(error)) from error
    if frame is not None:
        raise BrokenArchive("its end is missing")
