"""What a program in a sandbox writes on our disk, watched while it runs: no quota does that for us, and a
few bytes that it receives can stand for any number that it writes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Protocol

from corral.kernel.disk_trees import is_larger
from corral.kernel.limits import CONFINED_WATCH_SECONDS

__all__ = ["DiskWatch"]


class Killable(Protocol):
    """`BwrapProcess`."""

    def kill(self) -> None: ...


class DiskWatch:
    """Of one run of a program. trouble: why it was ended, or is to count as if it were.

    too_large: the folder takes more on disk, or has more in it, than it may. no_room: the disk has too
    little left for others.
    """

    def __init__(
        self, folder: Path, *, bytes_max: int, entries_max: int, has_room: Callable[[], bool]
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._has_room = has_room
        self.trouble: Literal["too_large", "no_room"] | None = None

    @asynccontextmanager
    async def over(self, process: Killable) -> AsyncGenerator[None, None]:
        """While it runs, and once more afterwards."""
        watching = asyncio.create_task(self._watch(process), name="disk-watch")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        await asyncio.to_thread(self._look)

    async def _watch(self, process: Killable) -> None:
        while self.trouble is None:
            await asyncio.sleep(CONFINED_WATCH_SECONDS)
            await asyncio.to_thread(self._look)
        process.kill()

    def _look(self) -> None:
        if self.trouble is not None:
            return
        if is_larger(self._folder, bytes_max=self._bytes_max, entries_max=self._entries_max):
            self.trouble = "too_large"
        elif not self._has_room():
            self.trouble = "no_room"
