"""What sandboxes keep on the disk, looked at while they live: an ordinary user can set no quota.

So the bound holds give or take what the disk takes between two looks, which are the further apart the more
files there are. Not counted is what a program has deleted and holds open, and, where the host is no root,
what lies in directories that it has closed to itself.

A sandbox that is over its bound is stopped, with words for the model. The next one on the same files may
only delete, and ends with its call; so it goes on until there is room.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from corral.catalog.sandbox import Bounds
from corral.hands.providers.home import MEMORY, PATHS, SCRATCH
from corral.hands.sandbox import AgentSandbox
from corral.kernel.disk_trees import is_larger
from corral.kernel.limits import SANDBOX_DISK_LOOK_SECONDS, SANDBOX_ENTRIES_MAX

__all__ = ["DiskBounds"]

_WRITTEN: Final = (*PATHS, MEMORY[0], SCRATCH)  # by the agent
_RESTS: Final = 9  # so many times as long as a look took: it is no more than a tenth of one processor
_OVER: Final = (
    "{what}: its files take more than {size:,} bytes on the disk, or are more than {entries:,}."
    " Delete some: until then nothing can be written."
)


class DiskBounds:
    """Of one provider."""

    def __init__(self, *, look_seconds: float = SANDBOX_DISK_LOOK_SECONDS) -> None:
        self._look_seconds = look_seconds
        self._watched: dict[AgentSandbox, tuple[Path, Bounds]] = {}
        self._full: set[Path] = set()  # workspaces that were over their bound when they were last seen
        self._looking: asyncio.Task[None] | None = None

    async def full(self, home: Path, bounds: Bounds) -> str | None:
        """Words for the model, if what was over its bound still is."""
        if home not in self._full:
            return None
        if not await asyncio.to_thread(_is_over, home, bounds):
            self._full.discard(home)
            return None
        return _over("The sandbox is full", bounds)

    def watch(self, sandbox: AgentSandbox, home: Path, bounds: Bounds) -> None:
        """Until it has ended."""
        self._watched[sandbox] = home, bounds
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="sandbox-disks")

    def forget(self, home: Path) -> None:
        """It is removed."""
        self._full.discard(home)

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        while self._watched:
            began = time.monotonic()
            for sandbox, (home, bounds) in list(self._watched.items()):
                if not sandbox.is_alive:
                    del self._watched[sandbox]
                elif home not in self._full and await asyncio.to_thread(_is_over, home, bounds):
                    self._full.add(home)
                    sandbox.stop(_over("The sandbox was stopped", bounds))
            await asyncio.sleep(max(self._look_seconds, _RESTS * (time.monotonic() - began)))


def _is_over(home: Path, bounds: Bounds) -> bool:
    written = [home / name for name in _WRITTEN]
    return is_larger(*written, bytes_max=bounds.disk_bytes, entries_max=SANDBOX_ENTRIES_MAX)


def _over(what: str, bounds: Bounds) -> str:
    return _OVER.format(what=what, size=bounds.disk_bytes, entries=SANDBOX_ENTRIES_MAX)
