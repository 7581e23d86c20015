"""The `local` bus: hints between the parts of one process, all in one event loop."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from corral.kernel.faults import copies
from corral.kernel.ids import SessionId
from corral.kernel.limits import WAKES_MAX
from corral.session.bus import Committed, Message, Overflow

__all__ = ["LocalBus"]


class LocalBus:
    """`session.bus.Bus`. Everything runs in the event loop; nothing here waits for a reader."""

    def __init__(self) -> None:
        self._subscribers: dict[SessionId, set[_Subscriber]] = {}
        self._woken: OrderedDict[SessionId, None] = OrderedDict()  # an ordered set
        self._woke = asyncio.Event()

    def publish(self, message: Message) -> None:
        for _ in range(copies()):
            self._deliver(message)

    def wake(self, session_id: SessionId) -> None:
        if copies() and len(self._woken) < WAKES_MAX:  # a repeated wake is the same wake
            self._woken[session_id] = None
            self._woke.set()

    async def wakes(self) -> AsyncIterator[SessionId]:
        while True:
            await self._woke.wait()
            self._woke.clear()
            while self._woken:
                yield self._woken.popitem(last=False)[0]

    def look_again(self, session_id: SessionId) -> None:
        self._deliver(Committed(session_id=session_id))

    def all_look_again(self) -> None:
        """The same for every session that has subscribers."""
        for session_id in self._subscribers:
            self.look_again(session_id)

    def _deliver(self, message: Message) -> None:
        for subscriber in self._subscribers.get(message.session_id, ()):
            subscriber.put(message)

    @asynccontextmanager
    async def subscribe(
        self, session_id: SessionId, *, buffer: int
    ) -> AsyncIterator[AsyncIterator[Message | Overflow]]:
        subscriber = _Subscriber(buffer)
        self._subscribers.setdefault(session_id, set()).add(subscriber)
        try:
            yield subscriber
        finally:
            remaining = self._subscribers[session_id]
            remaining.discard(subscriber)
            if not remaining:
                del self._subscribers[session_id]


class _Subscriber:
    """The messages of one reader. When too many wait, the rest is dropped and one Overflow follows."""

    __slots__ = ("_arrived", "_buffer", "_messages", "_overflowed")

    def __init__(self, buffer: int) -> None:
        self._messages: deque[Message] = deque()
        self._buffer = buffer
        self._overflowed = False
        self._arrived: asyncio.Future[None] | None = None

    def put(self, message: Message) -> None:
        if self._overflowed:
            return
        if len(self._messages) >= self._buffer:
            self._overflowed = True
        else:
            self._messages.append(message)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def __aiter__(self) -> "_Subscriber":
        return self

    async def __anext__(self) -> Message | Overflow:
        while True:
            if self._messages:
                return self._messages.popleft()
            if self._overflowed:
                self._overflowed = False
                return Overflow()
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
