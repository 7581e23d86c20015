"""The shelf of a host: layers of packages, one directory each, shared by sandboxes.

    <state>/layers/<digest>/files/     what sandboxes see, read-only; its time: last use
            layers/.new-<name of its process>/, .old-...   one that comes, one that goes

Rules of this file:
- A layer takes its name by rename once it is whole, and is never changed: what makes it has ended by then.
- Layers were written by package scripts, so they are somebody else's trees: here they are only measured,
  renamed and removed.
- Bounds: bytes and number. The longest unused go first, never one that a sandbox uses.
"""

import asyncio
import contextlib
import os
import re
import stat
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from weakref import WeakValueDictionary

from corral.catalog.packages import PACKAGE_MANAGERS, PLACE
from corral.hands.providers.overlay import Overlay
from corral.kernel.disk_trees import disk_bytes, is_real_directory, remove_tree, sync_disk
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.kernel.limits import LAYER_ENTRIES_MAX, LAYERS_KEPT_BYTES_MAX, LAYERS_KEPT_MAX
from corral.kernel.owned_names import is_orphaned, owned_name

__all__ = ["Layer", "LayerShelf"]

_GRACE_SECONDS: Final = 600.0  # from being found here to being used: a sandbox is started
_BESIDE_SYSTEM: Final = ("etc", "var/lib")  # where packages of the system have more than programs
_FINDS: Final = {
    "gem": {"GEM_PATH": f"{PLACE}/gem:"},  # and where it looks by itself
    "npm": {"NODE_PATH": f"{PLACE}/npm/lib/node_modules"},
}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layer:
    """Packages that a sandbox has at PLACE. top: on the host, written by package scripts. folders: by
    manager, those that are there. files: what apt installed elsewhere, and its places."""

    top: Path
    folders: tuple[str, ...]
    files: tuple[tuple[Path, str], ...] = ()

    @classmethod
    def at(cls, top: Path) -> "Layer":
        """Raises SandboxUnavailable for what is no layer."""
        if not is_real_directory(top):
            raise SandboxUnavailable("the packages of the session are not on this host any more")
        folders = tuple(name for name in PACKAGE_MANAGERS if is_real_directory(top / name))
        return cls(top, folders, tuple(_system_files(top / "apt")))

    @property
    def overlay(self) -> Overlay | None:
        """What apt installed beside the system's programs."""
        upper = self.top / "apt" / "usr"
        is_there = is_real_directory(upper.parent) and is_real_directory(upper)
        return Overlay(upper=upper) if is_there else None

    @property
    def paths(self) -> tuple[str, ...]:
        """Of PATH; what is installed last is found first."""
        return tuple(f"{PLACE}/{name}/bin" for name in reversed(self.folders) if name != "apt")

    @property
    def finds(self) -> dict[str, str]:
        """The environment by which programs find the rest."""
        return {name: value for folder in self.folders for name, value in _FINDS.get(folder, {}).items()}


def _system_files(top: Path) -> Iterator[tuple[Path, str]]:
    """Directories and regular files that are bound as they are: a link would be followed."""
    for below in map(PurePosixPath, _BESIDE_SYSTEM):
        folder = top / below
        if all(map(is_real_directory, [top, *(top / part for part in below.parents), folder])):
            for path in sorted(folder.iterdir()):
                if stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFDIR, stat.S_IFREG):
                    yield path, f"/{below}/{path.name}"


class LayerShelf:
    """Of one host. in_use: the digests of those that sandboxes use now."""

    def __init__(
        self,
        root: Path,
        *,
        in_use: Callable[[], Collection[str]],
        bytes_max: int = LAYERS_KEPT_BYTES_MAX,
        count_max: int = LAYERS_KEPT_MAX,
    ) -> None:
        self._root = root
        self._in_use = in_use
        self._bytes_max, self._count_max = bytes_max, count_max
        self._is_laid_out = False
        self._bringing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def path(self, digest: str) -> Path:
        """Where it is or will be. Raises InvalidRequest for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequest(f"{digest!r} does not name a layer of packages")
        return self._root / digest

    def has(self, digest: str) -> bool:
        """Whether it is there; from now on it was used last."""
        path = self.path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @asynccontextmanager
    async def bring(self, digest: str) -> AsyncGenerator[Path | None, None]:
        """A directory for the layer, which becomes it if all goes well; None if it is there already. One at
        a time."""
        async with self._bringing.setdefault(digest, asyncio.Lock()):
            if self.has(digest):
                yield None
                return
            await asyncio.to_thread(self._lay_out)
            fresh = self._aside("new")
            try:
                yield fresh
                await asyncio.to_thread(
                    sync_disk, self._root
                )  # what has its name is whole, whatever happens
                fresh.rename(self.path(digest))
            except BaseException:
                await asyncio.shield(asyncio.to_thread(remove_tree, fresh))
                raise
            await asyncio.to_thread(self._tidy, digest)

    def _lay_out(self) -> None:
        """And remove what killed hosts have left half done."""
        self._root.mkdir(mode=0o711, exist_ok=True)
        if self._is_laid_out:
            return
        self._is_laid_out = True
        for left in self._root.glob(".*-*-*"):
            if is_orphaned(left.name.partition("-")[2]):
                remove_tree(left)

    def _tidy(self, keep: str) -> None:
        total, used = 0, {keep, *self._in_use()}
        for number, path in enumerate(self._by_use(), start=1):
            total += disk_bytes(path, entries_max=2 * LAYER_ENTRIES_MAX)
            is_over = number > self._count_max or total > self._bytes_max
            # A call that was told a moment ago that it is there is on its way to use it.
            if is_over and path.name not in used and time.time() - path.stat().st_mtime > _GRACE_SECONDS:
                gone = self._aside("old")
                with contextlib.suppress(OSError):
                    path.rename(gone)
                    remove_tree(gone)

    def _by_use(self) -> list[Path]:
        """The last used first."""
        found = [path for path in self._root.iterdir() if _DIGEST.fullmatch(path.name)]
        return sorted(filter(is_real_directory, found), key=lambda path: path.stat().st_mtime, reverse=True)

    def _aside(self, what: str) -> Path:
        return self._root / f".{what}-{owned_name()}"
