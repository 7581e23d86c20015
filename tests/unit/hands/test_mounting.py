"""What comes before a call: it may go wrong, and the call is made."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from corral.hands.memory_sync import MemorySync
from corral.hands.mounting import Mounting
from corral.kernel.errors import CorralError, HandsUnavailable, LeaseLost, NotFound, RequestTooLarge
from corral.kernel.ids import EventId, MemoryStoreId, SessionId, ThreadId
from corral.session.call import Mount, Placement, Recipe, ToolCall
from corral.session.mounts import MountFailed

STORE = MemoryStoreId("memstore_1")


class Changed:
    """A memory store that others have changed."""

    async def positions(self, keys: Any) -> Any:
        return {STORE: 7}


class Refusing:
    """A host that takes nothing."""

    def __init__(self, error: CorralError) -> None:
        self._error, self.asked = error, 0

    async def tree(self, session_id: SessionId, place: str) -> Any:
        self.asked += 1
        raise self._error


async def test_a_pull_that_is_refused_fails_no_call() -> None:
    mount = Mount(mount_id=STORE, kind="memory", path="/mnt/memory/a", digest="wrkspc_1", mode="read_write")
    call = ToolCall(
        session_id=SessionId("sesn_1"),
        thread_id=ThreadId("sthr_1"),
        call_id=EventId("sevt_1"),
        name="bash",
        input={"command": "true"},
        recipe=Recipe(mounts=(mount,)),
        placement=Placement(host_id="host_1", journal_id="journal_1"),
    )

    async def resources(session_id: SessionId) -> Any:
        return ()

    for error in (RequestTooLarge("a note"), NotFound("a tree"), HandsUnavailable("a host")):
        hands: Any = Refusing(error)
        changed: Any = Changed()
        mounting = Mounting(hands, resources=resources, sources={}, memory=MemorySync(hands, changed))
        await mounting.before(call, epoch=1)
        assert hands.asked == 1


class Fencing:
    """A host that refuses what is of an earlier epoch, once it is there."""

    def __init__(self) -> None:
        self.epoch = 1
        self.is_asked, self.answers = asyncio.Event(), asyncio.Event()

    async def put_mount(
        self, session_id: SessionId, mount: Mount, archive: AsyncIterator[bytes], *, epoch: int
    ) -> None:
        self.is_asked.set()
        await self.answers.wait()
        if epoch < self.epoch:
            raise LeaseLost(f"epoch {epoch}")


class Empty:
    """A source of files without content."""

    async def mounts(self, attached: Any) -> Any:
        return ()

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncIterator[bytes]:
        return
        yield b""


class Mended:
    """A repository whose token is set while the first copy is on its way."""

    def __init__(self) -> None:
        self.tries = 0
        self.has_begun, self.fails = asyncio.Event(), asyncio.Event()

    async def mounts(self, attached: Any) -> Any:
        return ()

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncIterator[bytes]:
        self.tries += 1
        if self.tries == 1:
            self.has_begun.set()
            await self.fails.wait()
            raise MountFailed({"type": "repository_authentication_error", "message": "no"})
        yield b""


class Taking:
    async def put_mount(
        self, session_id: SessionId, mount: Mount, archive: AsyncIterator[bytes], *, epoch: int
    ) -> None:
        async for _ in archive:
            pass


async def test_a_copy_that_began_before_its_token_was_set_fails_no_later_call() -> None:
    async def resources(session_id: SessionId) -> Any:
        return ()

    source = Mended()
    mounting = Mounting(Taking(), resources=resources, sources={"repository": source})  # type: ignore[dict-item, arg-type]
    mount = Mount(mount_id="sesrsc_1", kind="repository", path="/workspace/a", digest="1", mode="copy")
    early = asyncio.create_task(mounting.bring(SessionId("sesn_1"), [mount], epoch=1))
    await source.has_begun.wait()
    late = [asyncio.create_task(mounting.bring(SessionId("sesn_1"), [mount], epoch=1)) for _ in range(3)]
    await asyncio.sleep(0)
    source.fails.set()
    with pytest.raises(MountFailed):
        await early
    await asyncio.gather(*late)
    assert source.tries == 2, "once more for all of them"
    await mounting.aclose()


async def test_a_mount_on_its_way_for_an_earlier_epoch_fails_nobody_else() -> None:
    async def resources(session_id: SessionId) -> Any:
        return ()

    hands = Fencing()
    mounting = Mounting(hands, resources=resources, sources={"file": Empty()})  # type: ignore[dict-item, arg-type]
    path = "/mnt/session/uploads/a"
    mount = Mount(mount_id="file_1", kind="file", path=path, digest="1", mode="read_only")
    late = asyncio.create_task(mounting.bring(SessionId("sesn_1"), [mount], epoch=1))
    await hands.is_asked.wait()
    hands.epoch = 2
    now = asyncio.create_task(mounting.bring(SessionId("sesn_1"), [mount], epoch=2))
    await asyncio.sleep(0)
    hands.answers.set()
    await now
    with pytest.raises(LeaseLost):
        await late
    await mounting.aclose()
