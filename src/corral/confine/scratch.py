"""Directories that sandboxes may write in, for a while.

    <root>/<name of its process>/    as `kernel.owned_names` says

What a killed process left is removed by the next one, before it makes its first.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from corral.kernel.disk_trees import remove_tree
from corral.kernel.owned_names import is_orphaned, owned_name

__all__ = ["Scratch"]


class Scratch:
    """Other processes may share `root`."""

    def __init__(self, root: Path, *, make: Callable[[Path], None]) -> None:
        """make: a directory that a sandbox may write in."""
        self._root = root
        self._make = make
        self._is_laid_out = False

    @asynccontextmanager
    async def folder(self) -> AsyncGenerator[Path, None]:
        """A new one. Gone afterwards."""
        folder = await asyncio.to_thread(self.place)  # which may remove gigabytes
        self._make(folder)
        try:
            yield folder
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, folder))

    def place(self) -> Path:
        """Where nothing is yet. Blocks when it is first asked."""
        if not self._is_laid_out:
            self._make_root()
            for left in self._root.iterdir():
                if is_orphaned(left.name):
                    remove_tree(left)
            self._is_laid_out = True
        return self._root / owned_name()

    def free_bytes(self) -> int:
        """Of the disk."""
        self._make_root()
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def _make_root(self) -> None:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
