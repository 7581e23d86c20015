"""What comes before a call: it may go wrong, and the call is made."""

from typing import Any

from corral.hands.memory_sync import MemorySync
from corral.hands.mounting import Mounting
from corral.kernel.errors import CorralError, HandsUnavailable, NotFound, RequestTooLarge
from corral.kernel.ids import EventId, MemoryStoreId, SessionId, ThreadId
from corral.session.call import Mount, Placement, Recipe, ToolCall

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
