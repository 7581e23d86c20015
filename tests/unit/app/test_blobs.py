"""A node with hands says whether its copies of workspaces have a place to go to."""

import asyncio
import shutil
from pathlib import Path

import pytest

from corral.app.hands import BlobsLook
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.limits import BLOB_PROBE_SECONDS
from corral.store.blobs import LocalBlobs
from corral.testing.clock import ManualClock


async def test_a_place_that_is_gone_is_a_warning_until_it_is_back(tmp_path: Path) -> None:
    blobs, clock = await LocalBlobs.open(tmp_path / "blobs"), ManualClock()
    look = BlobsLook(blobs, clock)
    assert (await look()).status == "ok"
    shutil.rmtree(tmp_path / "blobs")
    (tmp_path / "blobs").touch()
    assert (await look()).status == "ok"  # as it was known
    clock.advance(BLOB_PROBE_SECONDS + 1)
    check = await look()
    assert check.status == "warning" and "blobs" in (check.reason or "")
    (tmp_path / "blobs").unlink()
    await LocalBlobs.open(tmp_path / "blobs")
    clock.advance(BLOB_PROBE_SECONDS + 1)
    assert (await look()).status == "ok"


class _Silent(LocalBlobs):
    async def probe(self) -> None:
        await asyncio.Event().wait()


async def test_a_place_that_says_nothing_does_not_hold_up_readiness(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("corral.app.hands.READINESS_TIMEOUT_SECONDS", 0.02)
    check = await BlobsLook(_Silent(tmp_path), ManualClock())()
    assert check.status == "warning" and "no answer" in (check.reason or "")


async def test_what_the_place_says_is_told(tmp_path: Path, monkeypatch) -> None:
    blobs = LocalBlobs(tmp_path / "never-made")
    check = await BlobsLook(blobs, ManualClock())()
    assert check.status == "warning"
    with pytest.raises(BlobUnavailable) as caught:  # and nothing else, or the server would end
        await blobs.probe()
    assert caught.value.message in (check.reason or "")
    assert str(tmp_path) in str(caught.value) and str(tmp_path) not in (check.reason or ""), (
        "all may read it"
    )


async def test_a_directory_that_is_not_there_has_not_lost_a_blob(tmp_path: Path) -> None:
    """Not mounted, perhaps: whoever restores must wait, and not begin with nothing."""
    blobs = await LocalBlobs.open(tmp_path / "blobs")
    with pytest.raises(NotFound):
        [chunk async for chunk in blobs.get("a/b")]
    shutil.rmtree(tmp_path / "blobs")
    with pytest.raises(BlobUnavailable):
        [chunk async for chunk in blobs.get("a/b")]
