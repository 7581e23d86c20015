"""Fair slots: a bound on what runs at once, shared in turn by the API keys that want more than there is."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["FairSlots"]

_Waiters = deque[asyncio.Future[None]]


class FairSlots:
    """At most `limit` holders. Who waits is served by turns of the keys, and within a key in order: a key
    with a thousand waiting sessions is one key."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queues: OrderedDict[str | None, _Waiters] = OrderedDict()

    @asynccontextmanager
    async def slot(self, key: str | None) -> AsyncIterator[None]:
        """Hold one slot; waits for it."""
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(key)
        try:
            yield
        finally:
            self._hand_on()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    async def _wait(self, key: str | None) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(key, turn)
            else:
                self._hand_on()  # it came in the moment that nobody wanted it any more
            raise

    def _leave(self, key: str | None, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(key)
        if queue is None or turn not in queue:
            return  # `_hand_on` has passed it over
        queue.remove(turn)
        if not queue:
            del self._queues[key]

    def _hand_on(self) -> None:
        """To the next key's first, which then goes to the end of the keys. A turn is cancelled some time
        before its task hears of it: such a one is passed over."""
        while self._queues:
            key, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[key] = queue
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1
