"""The blob contract, in a directory and in SeaweedFS by its S3 API; then what only one of them can show."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from corral.catalog.blobs import BlobStore
from corral.config import Config, Secret
from corral.kernel.errors import BlobUnavailable, NotFound
from corral.kernel.limits import BLOB_PART_BYTES
from corral.store.blobs import LocalBlobs, open_blobs
from corral.store.blobs.s3 import S3Blobs
from corral.testing.contract_blobs import CHECKS, chunks, read
from corral.testing.s3 import S3, missing

LONG = 4 * BLOB_PART_BYTES


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with S3.start() as service:
        yield service


@pytest.fixture(params=["local", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "local":
        store: BlobStore = await LocalBlobs.open(tmp_path / "blobs")
    else:
        store = s3_blobs(request.getfixturevalue("s3"))
    yield store
    await store.aclose()


def s3_blobs(service: S3, **other: str) -> S3Blobs:
    """Below a prefix of its own, so that each test finds it empty."""
    return S3Blobs(
        **{"bucket": "corral", "prefix": f"test-{token_hex(6)}/deep", **service.settings, **other}
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: object, blobs: BlobStore) -> None:
    await check(blobs)  # type: ignore[operator]


def settings(data_dir: Path, **fields: object) -> Config:
    return Config(data_dir=data_dir, **fields)  # type: ignore[arg-type]


async def test_settings_choose_the_place(tmp_path: Path, s3: S3) -> None:
    here = await open_blobs(settings(tmp_path))
    await here.put("a", chunks(b"1"))
    assert (tmp_path / "blobs" / "a=").read_bytes() == b"1"
    there = await open_blobs(settings(tmp_path, blob_url=f"file://{tmp_path}/with%20space"))
    await there.put("a", chunks(b"2"))
    assert (tmp_path / "with space" / "a=").read_bytes() == b"2"
    service = await open_blobs(
        settings(
            tmp_path,
            blob_url="s3://settings/pre/fix",
            s3_endpoint=s3.endpoint,
            s3_access_key_id=Secret(s3.access_key_id),
            s3_secret_access_key=Secret(s3.secret_access_key),
        )
    )
    await service.put("a/b", chunks(b"3"))
    assert await read(s3_blobs(s3, bucket="settings", prefix=""), "pre/fix/a/b") == b"3"


# -- a directory ---------------------------------------------------------------------------------------


async def test_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        blobs = await LocalBlobs.open(tmp_path / "blobs")
        await blobs.put("a/b", chunks(b"x"))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "blobs").rglob("*")}
    assert modes.pop(tmp_path / "blobs" / "a" / "b=") == 0o600
    assert set(modes.values()) == {0o700}
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700


WRITER = """
import asyncio, sys
from pathlib import Path
from corral.store.blobs import LocalBlobs

async def main():
    blobs = await LocalBlobs.open(Path(sys.argv[1]))

    async def endless():
        yield b"x" * 1_000_000
        yield b"x"  # asked for once the first is written
        print("writing", flush=True)
        await asyncio.Event().wait()

    await blobs.put("a/b", endless())

asyncio.run(main())
"""


async def test_what_a_killed_writer_left_goes_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    blobs = await LocalBlobs.open(tmp_path)
    await blobs.put("a/b", chunks(b"old"))
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, tmp_path), stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    try:
        assert await asyncio.wait_for(writer.stdout.readline(), 60) == b"writing\n"
        await LocalBlobs.open(tmp_path)
        assert len(list((tmp_path / "~incoming").iterdir())) == 1, "it is being written"
    finally:
        writer.kill()
        await writer.wait()
    assert [blob.key async for blob in blobs.keys("")] == ["a/b"]
    assert await read(blobs, "a/b") == b"old"
    await LocalBlobs.open(tmp_path)
    assert list((tmp_path / "~incoming").iterdir()) == []


async def test_deleting_leaves_no_directories(tmp_path: Path) -> None:
    blobs = await LocalBlobs.open(tmp_path)
    for _ in range(20):  # directories come and go beneath each other's feet
        await asyncio.gather(
            *(blobs.put(f"a/b/{n}", chunks(b"x")) for n in range(8)), blobs.delete("a/b/0")
        )
        await asyncio.gather(*(blobs.delete(f"a/b/{n}") for n in range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["~incoming"]


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobUnavailable, match="blob_url") as caught:
        await LocalBlobs.open(tmp_path / "file" / "blobs")
    assert "file/blobs" in str(caught.value)  # for whoever starts it; not for whoever asks over HTTP
    assert "file/blobs" not in caught.value.message
    assert not caught.value.retryable


# -- a service -----------------------------------------------------------------------------------------


async def test_links_are_not_followed(tmp_path: Path) -> None:
    """Root backs up a directory that another user can change."""
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "file").write_text("of the machine")
    store = await LocalBlobs.open(tmp_path / "blobs")
    await store.put("files/one", chunks(b"ours"))
    blob = tmp_path / "blobs" / "files" / "one="
    blob.unlink()
    blob.symlink_to(tmp_path / "machine" / "file")
    with pytest.raises(BlobUnavailable):
        await read(store, "files/one")
    (tmp_path / "blobs" / "~incoming").rmdir()
    (tmp_path / "blobs" / "~incoming").symlink_to(tmp_path / "machine")
    with pytest.raises(BlobUnavailable):
        await LocalBlobs.open(tmp_path / "blobs")
    assert (tmp_path / "machine" / "file").read_text() == "of the machine"


async def test_a_service_killed_in_the_middle_of_a_put() -> None:
    if reason := missing():
        pytest.skip(reason)
    with S3.start() as service:
        blobs = s3_blobs(service)
        await blobs.put("kept", chunks(b"old"))
        is_killed = False

        async def through_the_kill() -> AsyncIterator[bytes]:
            nonlocal is_killed
            for number in range(LONG // 1_000_000):
                yield b"x" * 1_000_000
                if number == LONG // 2_000_000:
                    await asyncio.to_thread(service.kill)
                    is_killed = True

        with pytest.raises(BlobUnavailable, match=r"no answer.*CORRAL_S3_ENDPOINT") as caught:
            await blobs.put("kept", through_the_kill())
        assert is_killed and caught.value.retryable
        with pytest.raises(BlobUnavailable):
            await read(blobs, "kept")
        await asyncio.to_thread(service.restart)
        assert await read(blobs, "kept") == b"old"
        assert [(blob.key, blob.size_bytes) async for blob in blobs.keys("")] == [("kept", 3)]
        await blobs.put("kept", chunks(b"x" * LONG))
        assert len(await read(blobs, "kept")) == LONG


async def test_a_refused_key_is_said_and_not_shown(s3: S3) -> None:
    for wrong in ({"secret_access_key": "wrong-secret-of-ours"}, {"access_key_id": "wrong-id-of-ours"}):
        blobs = s3_blobs(s3, **wrong)
        for attempt in (blobs.put("a", chunks(b"x")), read(blobs, "a"), blobs.delete("a"), blobs.probe()):
            with pytest.raises(
                BlobUnavailable, match=r"refuses us \(\w+\)\. Check CORRAL_S3_ACCESS"
            ) as caught:
                await attempt
            assert not caught.value.retryable
            assert "of-ours" not in str(caught.value) and s3.secret_access_key not in str(caught.value)


async def test_a_missing_bucket_is_no_missing_blob(s3: S3) -> None:
    with pytest.raises(BlobUnavailable, match=r"has no such bucket.*'nowhere'"):
        await read(s3_blobs(s3, bucket="nowhere"), "a")
    with pytest.raises(NotFound, match="no blob 'a'"):
        await read(s3_blobs(s3, bucket="corral"), "a")
