"""Layers in the blob store: which are kept, and how many a workspace may have made."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.hands.archive import packed
from corral.kernel.errors import BlobUnavailable
from corral.kernel.ids import SessionId, WorkspaceId
from corral.packages.installer import Installer, PackagesFailed
from corral.packages.layers import Layers, forget_layers
from corral.store.blobs import LocalBlobs

MINE, OTHER = WorkspaceId("wrkspc_mine"), WorkspaceId("wrkspc_other")
DIGEST = "0" * 64
SESSION = SessionId("sesn_1")


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def stored(blobs: LocalBlobs, key: str, size_bytes: int = 1) -> str:
    await blobs.put(key, once(b"x" * size_bytes))
    return key


async def left(blobs: LocalBlobs) -> set[str]:
    return {blob.key async for blob in blobs.keys("layers/")}


@pytest.mark.parametrize("bounds", [{"count_max": 2}, {"bytes_max": 250}])
async def test_the_oldest_of_too_many_layers_go(tmp_path: Path, bounds: dict[str, int]) -> None:
    blobs, now = await LocalBlobs.open(tmp_path), int(time.time())
    keys = [await stored(blobs, f"layers/{n}/{now - n}-{MINE}", size_bytes=100) for n in range(4)]
    sums = [await stored(blobs, f"{key}.sha256", size_bytes=9) for key in keys]
    looking = asyncio.create_task(forget_layers(blobs, **bounds))
    async with asyncio.timeout(60):
        while await left(blobs) != {*keys[:2], *sums[:2]}:
            assert not looking.done()
            await asyncio.sleep(0.01)
    looking.cancel()


async def test_a_workspace_has_so_many_new_layers_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.packages.layers.LAYERS_MADE_PER_DAY_MAX", 2)
    blobs, now = await LocalBlobs.open(tmp_path / "blobs"), int(time.time())
    for name in (f"{now - 9}-{MINE}", f"{now - 8}-{MINE}", f"{now - 7}-{OTHER}"):
        await stored(blobs, f"layers/{'1' * 64}/{name}")
    await stored(blobs, f"layers/{'2' * 64}/{now - 2 * 24 * 3600}-{OTHER}")
    layers = Layers(Installer(tmp_path / "packages", hosts=HostList(), egress=None), blobs)
    with pytest.raises(PackagesFailed, match="2 times within a day"):
        await anext(layers.archive(DIGEST, {"nothing": ("x",)}, workspace_id=MINE, session_id=SESSION))
    counted = layers._count(OTHER)  # yesterday's does not count
    await counted
    await layers.aclose()


async def test_a_layer_that_is_not_what_was_stored_is_not_whole_and_goes(tmp_path: Path) -> None:
    blobs = await LocalBlobs.open(tmp_path / "blobs")
    layers = Layers(Installer(tmp_path / "packages", hosts=HostList(), egress=None), blobs)
    key = f"layers/{DIGEST}/{int(time.time())}-{MINE}"
    blob = await blobs.put(key, packed(once(b"layer")))
    await blobs.put(f"{key}.sha256", once(blob.sha256.encode()))
    assert [chunk async for chunk in layers.archive(DIGEST, {}, session_id=SESSION)] == [b"layer"]
    await blobs.put(key, packed(once(b"other")))
    with pytest.raises(BlobUnavailable, match="broken"):
        assert [chunk async for chunk in layers.archive(DIGEST, {}, session_id=SESSION)]
    assert await left(blobs) == set()
    await layers.aclose()
