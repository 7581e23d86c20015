"""Bytes and rows together, on each engine: whatever happens, no bytes are left that nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from corral.catalog.files import FileRecord, Files, new_upload
from corral.kernel.errors import CorralError, InvalidRequest, NotFound, RequestTooLarge
from corral.kernel.ids import DEFAULT_WORKSPACE, FileId, SessionId
from corral.kernel.limits import UPLOAD_GIVEN_UP_SECONDS
from corral.orchestrator.files import clean_batch
from corral.store.blobs import LocalBlobs
from corral.testing.contract_blobs import chunks
from corral.testing.contract_files import mount
from tests.opened import Opened


class Kept:
    """A store with its blobs."""

    def __init__(self, opened: Opened, blobs: LocalBlobs) -> None:
        self.stores, self.blobs = opened.stores, blobs
        self.files = Files(self.stores.files, blobs, ids=self.stores.ids, clock=self.stores.clock)

    async def upload(self, content: bytes) -> FileRecord:
        received = await self.files.receive(chunks(content))
        record = new_upload(
            file_id=FileId(self.stores.ids.mint("file")),
            workspace_id=DEFAULT_WORKSPACE,
            filename="a.txt",
            mime_type=None,
            size_bytes=received.size_bytes,
            sha256=received.sha256,
            blob_key=received.blob_key,
            expires_in_seconds=3600,
            now=self.stores.clock.now(),
        )
        return await self.stores.files.add(record)

    async def keys(self) -> list[str]:
        return [blob.key async for blob in self.blobs.keys("")]

    async def clean(self) -> list[str]:
        while await clean_batch(self.stores.unneeded_blobs, self.blobs):
            pass
        return await self.keys()

    async def content(self, record: FileRecord, **part: int) -> bytes:
        return b"".join([chunk async for chunk in self.files.read(record, **part)])


@pytest.fixture
async def kept(opened: Opened, tmp_path: Path) -> Kept:
    return Kept(opened, await LocalBlobs.open(tmp_path / "blobs"))


async def test_a_file_lives_and_goes(kept: Kept) -> None:
    record = await kept.upload(b"0123456789")
    assert await kept.content(record) == b"0123456789"
    assert await kept.content(record, start=2, end=5) == b"234"
    session = await kept.stores.session()
    new = mount(kept.stores, record)
    await kept.stores.resources.add(session.session_id, new, lambda _: None)
    read = kept.files.read_of_session(session.session_id, new.copies[0].to_id)
    assert [chunk async for chunk in read] == [b"0123456789"]
    with pytest.raises(NotFound):
        await anext(kept.files.read_of_session(session.session_id, record.file_id))
    await kept.stores.files.delete(DEFAULT_WORKSPACE, record.file_id)
    assert await kept.clean() == [record.blob_key]
    await kept.stores.sessions.delete(session.session_id)
    assert await kept.clean() == []
    with pytest.raises(NotFound):
        await kept.content(record)


async def test_an_expired_file_has_no_bytes(kept: Kept) -> None:
    record = await kept.upload(b"soon")
    kept.stores.clock.advance(3600)
    with pytest.raises(NotFound) as refused:
        await kept.content(record)
    assert refused.value.error_code == "file_expired"
    assert await kept.clean() == []


async def test_uploads_that_fail_leave_nothing(kept: Kept) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        raise InvalidRequest("cut off")

    with pytest.raises(InvalidRequest):
        await kept.files.receive(cut_off())
    with pytest.raises(RequestTooLarge, match="10 bytes"):
        await kept.files.receive(chunks(b"x" * 11), bytes_max=10)
    arrived = asyncio.Event()

    async def for_ever() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        arrived.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(kept.files.receive(for_ever()))
    await arrived.wait()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    received = await kept.files.receive(chunks(b"given up"))
    await kept.files.discard(received)
    assert await kept.stores.unneeded_blobs.going(limit=10) != []
    assert await kept.clean() == []
    assert await kept.stores.unneeded_blobs.going(limit=10) == []


async def test_a_killed_upload_goes_later(kept: Kept) -> None:
    received = await kept.files.receive(chunks(b"nobody will name it"))
    assert await kept.clean() == [received.blob_key]
    kept.stores.clock.advance(UPLOAD_GIVEN_UP_SECONDS)
    assert await kept.clean() == []


async def test_a_killed_clean_up_is_repeated(kept: Kept) -> None:
    record = await kept.upload(b"x")
    await kept.stores.files.delete(DEFAULT_WORKSPACE, record.file_id)
    [blob_key] = await kept.stores.unneeded_blobs.going(limit=10)
    await kept.blobs.delete(blob_key)
    assert await kept.clean() == []
    assert await kept.stores.unneeded_blobs.going(limit=10) == []


async def test_outputs(kept: Kept) -> None:
    session_id = (await kept.stores.session()).session_id

    async def put(path: str, content: bytes) -> FileRecord:
        kept.stores.clock.advance(1)
        return await kept.files.put_output(session_id, path, chunks(content))

    first = await put("plots/a.png", b"1")
    assert (first.filename, first.mime_type, first.downloadable) == ("a.png", "image/png", True)
    assert await kept.files.outputs(session_id) == {"plots/a.png": first}
    assert await put("plots/a.png", b"1") == first, "the same content is the same file"
    second = await put("plots/a.png", b"2")
    assert await kept.clean() == [second.blob_key]
    strange = await put("b\udcff:\n.csv", b"")
    assert (strange.filename, strange.output_path) == ("b_xff__.csv", "b\\xff:\n.csv")
    await kept.files.remove_outputs(session_id, ["plots/a.png", "none"])
    assert await kept.files.outputs(session_id) == {"b\\xff:\n.csv": strange}
    await kept.stores.sessions.delete(session_id)
    with pytest.raises(NotFound):
        await put("late", b"late")
    assert await kept.clean() == []


async def test_outputs_of_a_session_that_goes_meanwhile(kept: Kept) -> None:
    for _ in range(4):
        session_id = (await kept.stores.session()).session_id

        async def put(session_id: SessionId, number: int) -> None:
            with suppress(CorralError):
                await kept.files.put_output(session_id, f"{number}", chunks(b"x"))

        await asyncio.gather(
            *(put(session_id, number) for number in range(4)), kept.stores.sessions.delete(session_id)
        )
    assert await kept.clean() == []
