"""Workspaces on their way to a blob store and back: bounded, and nothing believed that was not stored."""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from corral.hands.archive import BrokenCheckpoint, packed, unpacked
from corral.kernel.limits import BLOB_CHUNK_BYTES
from corral.session.checkpoint import Checkpoint
from corral.store.blobs import LocalBlobs

KEY = "checkpoints/s/c"


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
async def blobs(tmp_path: Path) -> LocalBlobs:
    return await LocalBlobs.open(tmp_path)


def checkpoint(sha256: str) -> Checkpoint:
    return Checkpoint(
        session_id="s", blob_key=KEY, size_bytes=1, sha256=sha256, host_id="h", taken_at=datetime.now(UTC)
    )


@pytest.mark.parametrize(
    "size", [0, 1, 10, BLOB_CHUNK_BYTES - 1, BLOB_CHUNK_BYTES, 3 * BLOB_CHUNK_BYTES + 7]
)
@pytest.mark.parametrize("cut", [4096, 70_001, 8 * BLOB_CHUNK_BYTES])
async def test_what_goes_in_comes_out(blobs, size, cut):
    data = os.urandom(size // 2) + bytes(size - size // 2)
    blob = await blobs.put(KEY, packed(chunks(data, cut)))
    assert b"".join([piece async for piece in unpacked(blobs, checkpoint(blob.sha256))]) == data


async def test_no_piece_is_larger_than_a_chunk_however_well_it_packs(blobs):
    size = 64 * BLOB_CHUNK_BYTES
    blob = await blobs.put(KEY, packed(chunks(bytes(size), BLOB_CHUNK_BYTES)))
    assert blob.size_bytes < BLOB_CHUNK_BYTES
    sizes = [len(piece) async for piece in unpacked(blobs, checkpoint(blob.sha256))]
    assert max(sizes) <= BLOB_CHUNK_BYTES and sum(sizes) == size


async def test_a_blob_that_would_not_stay_bounded_is_refused(blobs):
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(4 * BLOB_CHUNK_BYTES))
    blob = await blobs.put(KEY, chunks(bomb, 10))
    with pytest.raises(BrokenCheckpoint):
        [piece async for piece in unpacked(blobs, checkpoint(blob.sha256))]


@pytest.mark.parametrize("cut", [0, 1, 5, 17, 18, 100, 1000])
async def test_a_blob_that_was_cut_or_changed_is_not_believed(blobs, cut):
    data = os.urandom(3000)
    whole = b"".join([piece async for piece in packed(chunks(data, 4096))])
    sha256 = hashlib.sha256(whole).hexdigest()
    for broken in (whole[:cut], whole + whole[:cut] + b"x", whole[:cut] + b"x" + whole[cut + 1 :]):
        if broken == whole:
            continue
        await blobs.put(KEY, chunks(broken, 500))
        with pytest.raises(BrokenCheckpoint):
            [piece async for piece in unpacked(blobs, checkpoint(sha256))]
