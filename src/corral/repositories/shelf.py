"""Where copies of repositories lie between sessions: one bare mirror per URL, on the node that clones;
and one per URL and workspace of what is fetched with tokens.

    <root>/mirrors/<key>/lock            held (flock): shared to read, else to change; its time: last use
                         repository.git, fresh-*/, old-*/
           scratch/<pid>-<random>/       a working tree on its way out, a mirror on its way to nowhere

Rules of this file:
- Any process may be killed at any time. A new mirror takes its name by rename once it is whole; what is
  left of a killed one is removed by the next that holds the lock.
- Mirrors are written by gits in sandboxes, so they are somebody else's trees: here they are only measured,
  renamed and removed.
- Bounds: bytes, age and number. The longest unused go first, never one that somebody holds.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from corral.catalog.repositories import Repository
from corral.confine.scratch import Scratch
from corral.kernel.disk_trees import disk_bytes, is_real_directory, remove_tree
from corral.kernel.limits import REPOSITORY_LOCK_SECONDS

__all__ = ["MirrorPlace", "Shelf", "ShelfBounds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShelfBounds:
    """seconds: unused for longer, a mirror goes."""

    bytes_max: int
    count_max: int
    seconds: float


class MirrorPlace:
    """Of one mirror, while it is held. `key` names it."""

    def __init__(self, folder: Path, make: Callable[[Path], None]) -> None:
        self._folder = folder
        self._make = make
        self.key = folder.name
        self.mirror = folder / "repository.git"

    @asynccontextmanager
    async def fresh(self) -> AsyncGenerator[Path, None]:
        """A directory for a new mirror, which a sandbox may write in. Gone afterwards."""
        fresh = self._folder / f"fresh-{secrets.token_hex(4)}"
        self._make(fresh)
        try:
            yield fresh
        finally:
            await self.clear()

    @property
    def has_mirror(self) -> bool:
        """What a git in a sandbox left in the name's place and is no directory is none: it may be a link
        to anywhere, and would be followed by whoever binds it."""
        return is_real_directory(self.mirror)

    def replace(self, mirror: Path) -> None:
        """This one takes the name. Killed in between, there is none, and the next clones. Nothing else may
        write there any more.

        Raises NotADirectoryError: it is none, but maybe a link; the old one stays.
        """
        if not is_real_directory(mirror):
            raise NotADirectoryError(errno.ENOTDIR, "a new mirror is no directory", str(mirror))
        with contextlib.suppress(FileNotFoundError):
            self.mirror.rename(self._folder / f"old-{secrets.token_hex(4)}")
        mirror.rename(self.mirror)

    def size_bytes(self) -> int:
        return disk_bytes(self.mirror)

    async def clear(self) -> None:
        """Remove what is no mirror."""
        for left in (*self._folder.glob("fresh-*"), *self._folder.glob("old-*")):
            await asyncio.to_thread(remove_tree, left)


class Shelf:
    """Other processes may share `root`."""

    def __init__(self, root: Path, *, make: Callable[[Path], None], bounds: ShelfBounds) -> None:
        """make: a directory that a sandbox may write in."""
        self._mirrors = root / "mirrors"
        self._scratch = Scratch(root / "scratch", make=make)
        self._make = make
        self._bounds = bounds
        self._is_laid_out = False

    @asynccontextmanager
    async def held(self, of: Repository, *, shared: bool) -> AsyncGenerator[MirrorPlace, None]:
        """The place of a mirror, held against other tasks and processes; there may be no mirror."""
        while True:
            async with self.held_now(of, shared=shared) as place:
                if place is not None:
                    yield place
                    return
            await asyncio.sleep(REPOSITORY_LOCK_SECONDS)

    @asynccontextmanager
    async def held_now(self, of: Repository, *, shared: bool) -> AsyncGenerator[MirrorPlace | None, None]:
        """As `held`, but None if somebody else has it."""
        self._lay_out()
        folder = self._mirrors / self.key(of)
        fd = _locked(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if fd is None:
            yield None
            return
        try:
            os.utime(fd)
            place = MirrorPlace(folder, self._make)
            if not shared:
                await place.clear()  # of a killed process
            yield place
        finally:
            os.close(fd)

    def key(self, of: Repository) -> str:
        """Of its place."""
        return hashlib.sha256(of.copy_name.encode()).hexdigest()[:32]

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        """A directory that a sandbox may write in. Gone afterwards."""
        return self._scratch.folder()

    def free_bytes(self) -> int:
        """Of the disk."""
        return self._scratch.free_bytes()

    def tidy(self, *, keep: str) -> set[str]:
        """Remove what is over the bounds, but not `keep`; returns the keys of what is left. Blocks."""
        kept, total = set(), 0
        for number, (used_at, folder) in enumerate(self._by_use(), start=1):
            size = disk_bytes(folder)
            is_over = (
                number > self._bounds.count_max
                or total + size > self._bounds.bytes_max
                or time.time() - used_at > self._bounds.seconds
            )
            if is_over and folder.name != keep and self._remove(folder):
                continue
            kept.add(folder.name)
            total += size
        return kept

    def _by_use(self) -> list[tuple[float, Path]]:
        """The last used first."""
        found = []
        for folder in self._mirrors.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(((folder / "lock").stat().st_mtime, folder))
        return sorted(found, reverse=True)

    def _remove(self, folder: Path) -> bool:
        """Unless somebody holds it. Moved away first: from then on nobody finds it, or half of it."""
        try:
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if not _flock(fd, fcntl.LOCK_EX) or not _is_at(fd, folder / "lock"):
                return False
            gone = self._scratch.place()
            folder.rename(gone)
            remove_tree(gone)
            return True
        finally:
            os.close(fd)

    def _lay_out(self) -> None:
        if not self._is_laid_out:
            self._mirrors.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._is_laid_out = True


def _locked(folder: Path, kind: int) -> int | None:
    """A descriptor that holds the folder's lock; None if somebody else has it."""
    while True:
        folder.mkdir(mode=0o711, exist_ok=True)
        try:
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # it was tidied away in this moment
            continue
        is_ours = _flock(fd, kind)
        if is_ours and _is_at(fd, folder / "lock"):  # or in that one
            return fd
        os.close(fd)
        if not is_ours:
            return None


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
