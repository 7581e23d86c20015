"""A few places that many share, so that nobody takes them all.

Who asks for one gets it as long as it leaves others as many as it has itself: alone half of them, one of
two a third, and so on. So some are free for whoever comes next, and nobody need say how many there will be.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Shares"]


class Shares:
    """Of one process."""

    def __init__(self, places_max: int) -> None:
        self._free = places_max
        self._taken: Counter[Hashable] = Counter()
        self._waiting: list[tuple[Hashable, asyncio.Future[None]]] = []  # whoever came first, first

    @contextmanager
    def now(self, who: Hashable) -> Iterator[bool]:
        """A place, if there is one for it now: False, and it has none."""
        has_one = self._may_have(who)
        if has_one:
            self._take(who)
        try:
            yield has_one
        finally:
            if has_one:
                self._give_back(who)

    @asynccontextmanager
    async def one(self, who: Hashable) -> AsyncIterator[None]:
        """Wait for a place."""
        if self._may_have(who):
            self._take(who)
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((who, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._waiting.remove((who, turn))
                else:  # it was given one at the same moment
                    self._give_back(who)
                raise
        try:
            yield
        finally:
            self._give_back(who)

    def _may_have(self, who: Hashable) -> bool:
        return self._free > self._taken[who]

    def _take(self, who: Hashable) -> None:
        self._free -= 1
        self._taken[who] += 1

    def _give_back(self, who: Hashable) -> None:
        self._free += 1
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]
        for waiting in list(self._waiting):
            whose, turn = waiting
            if not turn.done() and self._may_have(whose):
                self._take(whose)
                self._waiting.remove(waiting)
                turn.set_result(None)
