"""A workspace on its way to the blob store and back: tar, packed with zstd, checked by sha256.

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

__all__ = ["BrokenCheckpoint", "packed", "unpacked"]

_HEADER_BYTES = 18  # of a frame, at most


class BrokenCheckpoint(Exception):
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
    """What was packed. Raises BrokenCheckpoint, at its end at the latest: what came before is then not to
    be believed. NotFound and BlobUnavailable as `BlobStore.get`."""
    import zstandard

    sha256, unread = hashlib.sha256(), b""
    frame: zstandard.ZstdDecompressionObj | None = None
    async with aclosing(blobs.get(checkpoint.blob_key)) as blob:
        async for chunk in blob:
            sha256.update(chunk)
            unread += chunk
            while len(unread) >= _HEADER_BYTES or (unread and frame):
                try:
                    if frame is None:
                        if not 0 <= zstandard.frame_content_size(unread) <= BLOB_CHUNK_BYTES:
                            raise BrokenCheckpoint("a piece of a wrong size")
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    piece = await asyncio.to_thread(frame.decompress, unread)
                except zstandard.ZstdError as error:
                    raise BrokenCheckpoint(str(error)) from error
                unread, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
                if piece:
                    yield piece
    if unread:  # a frame that is shorter than a header may be
        try:
            yield zstandard.ZstdDecompressor().decompress(unread, max_output_size=BLOB_CHUNK_BYTES)
        except zstandard.ZstdError as error:
            raise BrokenCheckpoint(str(error)) from error
    if frame is not None or sha256.hexdigest() != checkpoint.sha256:
        raise BrokenCheckpoint("it is not what was stored")
