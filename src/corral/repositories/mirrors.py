"""Copies of repositories, kept between sessions: one bare mirror per URL, on the node that clones.

    <root>/certificates/authorities.pem   whose certificates git believes
           mirrors/<key>/lock          held (flock) shared to read, exclusive to change; its time: last use
                         repository.git, fresh-*/, old-*/
           scratch/<pid>-<random>/     a working tree on its way out

Rules of this file:
- Any process may be killed at any time. A new mirror takes its name by rename once it is whole; what is
  left of a killed one is removed by the next that holds the lock.
- Mirrors are written by gits in sandboxes, so they are somebody else's trees: here they are only measured
  and removed.
- Bounds hold before and after: room on the disk, bytes, age and number. The longest unused go first, never
  one that somebody holds.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.catalog.repositories import (
    Branch,
    Commit,
    Repository,
    RepositoryHosts,
    RepositorySkill,
    RepositoryUrl,
    check_branch,
    check_commit,
)
from corral.hands.providers.process import BwrapProcess
from corral.kernel import limits
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.repositories.confine import Confinement, Places
from corral.repositories.failures import RepositoryFailed, fetch_failed, tree_too_large
from corral.repositories.tunnel import Tunnel

__all__ = ["Bounds", "Mirrors", "Resolved"]

log = logging.getLogger(__name__)

_RUNNER: Final = (Path(__file__).with_name("runner.py")).read_text()
_MIRROR: Final = "/mirror/repository.git"
_TOO_LARGE: Final = 3  # exit code of the runner
_ANSWER_BYTES_MAX: Final = 64 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_NO_ROOM: Final = "The server that clones repositories is short of disk space."
_NO_SANDBOX: Final = "The server cannot clone repositories now; its operator can see why."


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Of one clone or fetch, and of all that is kept. kernel/limits.py has the reasons."""

    seconds: float = limits.REPOSITORY_SECONDS_MAX
    bytes_max: int = limits.REPOSITORY_BYTES_MAX
    tree_bytes_max: int = limits.REPOSITORY_TREE_BYTES_MAX
    tree_files_max: int = limits.REPOSITORY_TREE_FILES_MAX
    stall_seconds: int = limits.REPOSITORY_STALL_SECONDS
    at_once: int = limits.REPOSITORY_CLONES_AT_ONCE
    cache_bytes_max: int = limits.REPOSITORY_CACHE_BYTES_MAX
    cache_count_max: int = limits.REPOSITORY_CACHE_COUNT_MAX
    cache_seconds: float = limits.REPOSITORY_CACHE_SECONDS
    disk_free_bytes_min: int = limits.DISK_FREE_BYTES_MIN


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a checkout came to. branch: None for a bare commit. commit: None for an empty repository."""

    branch: str | None
    commit: str | None


@dataclass(slots=True)
class _Known:
    """What the newest fetch of a mirror in this process found, and when (monotonic) it began."""

    began_at: float
    resolved: dict[str | None, Resolved] = field(default_factory=dict)  # by branch asked for


class Mirrors:
    """Of one node; other processes may share `root`."""

    def __init__(
        self,
        root: Path,
        *,
        hosts: RepositoryHosts,
        authorities: Path | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._root = root
        self._hosts = hosts
        self._bounds = bounds or Bounds()
        self._confinement = Confinement(root, authorities=authorities)
        self._slots = asyncio.Semaphore(self._bounds.at_once)
        self._known: dict[str, _Known] = {}
        self._suspect: set[str] = set()  # keys of mirrors that git may not be able to work with
        self._is_laid_out = False

    async def fetch(self, repository: Repository) -> Resolved:
        """Bring the mirror up to date, or make it, and find the checkout in it. Raises RepositoryFailed.

        Repeat: one fetch each; those that wait for the same mirror share the next one.
        """
        url, asked_at = repository.url, time.monotonic()
        if not self._hosts.allows(url.host, url.port):
            raise RepositoryFailed("clone", f"This server clones no repositories of {url.host!r}.")
        try:
            async with asyncio.timeout(self._bounds.seconds):
                async with self._locked(url, shared=False) as folder:
                    known = self._known.get(folder.name)
                    wanted = repository.checkout
                    if known is not None and known.began_at >= asked_at and not isinstance(wanted, Commit):
                        found = known.resolved.get(wanted.name if wanted else None)
                        if found is not None:
                            return found
                    async with self._slots:
                        return await self._fetch(repository, folder)
        except TimeoutError:
            raise RepositoryFailed(
                "clone",
                f"The repository host {url.host!r} is too slow: more than {self._bounds.seconds:g} s.",
            ) from None

    async def archive(self, repository: Repository, resolved: Resolved) -> AsyncGenerator[bytes, None]:
        """The working tree with its .git as a tar, relative to its own top. Close it if it is left early.

        Raises RepositoryFailed, also in its middle: then it is not whole.
        """
        scratch = await self._scratch()
        try:
            async with contextlib.AsyncExitStack() as lock:
                folder = await lock.enter_async_context(self._locked(repository.url, shared=True))
                places = Places(read_only=_mirror(folder), writable={"/scratch": scratch})
                asked = {
                    "do": "pack",
                    "url": repository.url.text,
                    "branch": resolved.branch,
                    "commit": resolved.commit,
                }
                async with self._running(asked, places) as process:
                    first = await self._in_time(process.reader.read(_CHUNK_BYTES))
                    await lock.aclose()  # it is copied: others may fetch while this one is sent
                    chunk = first
                    while chunk:
                        yield chunk
                        chunk = await process.reader.read(_CHUNK_BYTES)
                    if (code := await process.exit_code()) != 0:
                        raise self._not_packed(process, code)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True))

    async def skills(self, repository: Repository, resolved: Resolved) -> Sequence[RepositorySkill]:
        """The skills that the repository brings at this commit; their text is anybody's. Raises
        RepositoryFailed."""
        if resolved.commit is None:
            return ()
        async with self._locked(repository.url, shared=True) as folder:
            asked = {"do": "skills", "commit": resolved.commit}
            async with self._running(asked, Places(read_only=_mirror(folder))) as process:
                bytes_max = limits.REPOSITORY_SKILLS_MAX * 2 * limits.REPOSITORY_SKILL_BYTES_MAX
                said = await self._in_time(_read(process, bytes_max))
                if await process.exit_code() != 0:
                    raise self._not_packed(process, 1)
        try:
            listed = [
                RepositorySkill(name=str(each["name"]), path=str(each["path"]), text=str(each["text"]))
                for each in json.loads(said)
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise RepositoryFailed(
                "clone", "The repository could not be read.", detail=repr(error)
            ) from None
        return listed[: limits.REPOSITORY_SKILLS_MAX]

    async def aclose(self) -> None:
        """Repeat: safe."""
        await self._confinement.aclose()

    # -- one fetch ----------------------------------------------------------------------------------

    async def _fetch(self, repository: Repository, folder: Path) -> Resolved:
        self._require_room()
        is_new = folder.name in self._suspect or not (folder / "repository.git").exists()
        began_at = time.monotonic()
        if is_new:
            resolved = await self._clone(repository, folder)
            self._suspect.discard(folder.name)
        else:
            try:
                resolved = await self._ask(repository, folder, fresh=None)
            except RepositoryFailed as error:
                if error.blames_mirror:
                    self._suspect.add(folder.name)
                raise
        known = self._known.get(folder.name)
        if known is None or is_new or known.began_at < began_at:
            known = self._known[folder.name] = _Known(began_at)
        if not isinstance(repository.checkout, Commit):
            known.resolved[repository.checkout.name if repository.checkout else None] = resolved
        await asyncio.to_thread(self._evict, keep=folder.name)
        return resolved

    async def _clone(self, repository: Repository, folder: Path) -> Resolved:
        fresh = folder / f"fresh-{secrets.token_hex(4)}"
        self._confinement.make_writable(fresh)
        mirror, old = folder / "repository.git", folder / f"old-{secrets.token_hex(4)}"
        try:
            try:
                resolved = await self._ask(repository, folder, fresh=fresh)
            except RepositoryFailed as error:
                if error.kind == "checkout":  # the mirror is whole, and the next may ask for what is there
                    _replace(mirror, fresh / "repository.git", old)
                raise
            _replace(mirror, fresh / "repository.git", old)
            return resolved
        finally:
            for leftover in (fresh, old):
                await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)

    async def _ask(self, repository: Repository, folder: Path, *, fresh: Path | None) -> Resolved:
        checkout = repository.checkout
        asked: dict[str, Any] = {
            "do": "fetch",
            "url": repository.url.text,
            "is_new": fresh is not None,
            "branch": checkout.name if isinstance(checkout, Branch) else None,
            "commit": checkout.sha if isinstance(checkout, Commit) else None,
        }
        writable = {"/fresh": fresh} if fresh is not None else {_MIRROR: folder / "repository.git"}
        tunnel = Tunnel(self._hosts, bytes_max=self._bounds.bytes_max)
        async with tunnel.door() as door, self._running(asked, Places(writable=writable), door) as process:
            said = await _read(process, _ANSWER_BYTES_MAX)
            code = await process.exit_code()
            unstarted = self._confinement.explain(process) if code != 0 else None
        if unstarted is not None:
            raise _unavailable(unstarted)
        try:
            answer = json.loads(said)
            if "failed" not in answer:
                return _resolved(answer["branch"], answer["commit"])
            step, stderr = str(answer["failed"]), str(answer["stderr"])
        except (ValueError, KeyError, TypeError, InvalidRequest):
            step, stderr = "fetch", f"the runner ended with {code}: {said[-1000:]!r}"
        raise fetch_failed(repository, step, stderr, tunnel)

    # -- one program in a sandbox -------------------------------------------------------------------

    @asynccontextmanager
    async def _running(
        self, asked: Mapping[str, Any], places: Places, door: int | None = None
    ) -> AsyncGenerator[BwrapProcess, None]:
        bounds = {
            "memory_bytes": limits.REPOSITORY_MEMORY_BYTES,
            "file_bytes": 2 * self._bounds.bytes_max,
            "cpu_seconds": int(self._bounds.seconds) + 1,
            "stall_bytes": limits.REPOSITORY_STALL_BYTES,
            "stall_seconds": self._bounds.stall_seconds,
            "stderr_bytes": limits.REPOSITORY_STDERR_BYTES,
            "tree_files": self._bounds.tree_files_max,
            "tree_bytes": self._bounds.tree_bytes_max,
            "skills": limits.REPOSITORY_SKILLS_MAX,
            "skill_bytes": limits.REPOSITORY_SKILL_BYTES_MAX,
        }
        words = json.dumps({**asked, "bounds": bounds, "door": door})
        gives = () if door is None else (door,)
        try:
            async with self._confinement.python(_RUNNER, words, places=places, gives=gives) as process:
                yield process
        except SandboxUnavailable as error:
            raise _unavailable(error) from error

    def _not_packed(self, process: BwrapProcess, code: int) -> RepositoryFailed:
        if (unstarted := self._confinement.explain(process)) is not None:
            return _unavailable(unstarted)
        if code == _TOO_LARGE:
            return tree_too_large()
        return RepositoryFailed(
            "clone", "The repository could not be checked out.", detail=f"the runner ended with {code}"
        )

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._bounds.seconds):
                data: bytes = await reading
                return data
        except TimeoutError:
            raise RepositoryFailed("clone", "The repository took too long to check out.") from None

    # -- places -------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        if not self._is_laid_out:
            self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
            for name in ("mirrors", "scratch"):
                (self._root / name).mkdir(mode=0o711, exist_ok=True)
            for left in (self._root / "scratch").iterdir():
                if not Path("/proc", left.name.partition("-")[0]).exists():
                    shutil.rmtree(left, ignore_errors=True)
            self._is_laid_out = True

    async def _scratch(self) -> Path:
        self._lay_out()
        self._require_room()
        scratch = self._root / "scratch" / f"{os.getpid()}-{secrets.token_hex(8)}"
        self._confinement.make_writable(scratch)
        return scratch

    def _require_room(self) -> None:
        disk = os.statvfs(self._root)
        if disk.f_bavail * disk.f_frsize < self._bounds.disk_free_bytes_min:
            raise RepositoryFailed("clone", _NO_ROOM)

    @asynccontextmanager
    async def _locked(self, url: RepositoryUrl, *, shared: bool) -> AsyncGenerator[Path, None]:
        """The folder of the URL's mirror, held against other tasks and processes."""
        self._lay_out()
        folder = self._root / "mirrors" / hashlib.sha256(url.canonical.encode()).hexdigest()[:32]
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            folder.mkdir(mode=0o711, exist_ok=True)
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while not _flock(fd, kind):  # noqa: ASYNC110  (of other processes too)
                    await asyncio.sleep(limits.REPOSITORY_LOCK_SECONDS)
                if not _is_at(fd, folder / "lock"):  # it was evicted while we waited
                    continue
                os.utime(fd)
                if not shared:
                    for left in (*folder.glob("fresh-*"), *folder.glob("old-*")):  # of a killed process
                        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
                yield folder
                return
            finally:
                os.close(fd)

    def _evict(self, *, keep: str) -> None:
        """Remove what is over the bounds, the longest unused first."""
        held = sorted(_uses(self._root / "mirrors"), reverse=True)
        total = 0
        for number, (used_at, folder) in enumerate(held, start=1):
            size = _size_bytes(folder)
            total += size
            is_over = (
                number > self._bounds.cache_count_max
                or total > self._bounds.cache_bytes_max
                or time.time() - used_at > self._bounds.cache_seconds
            )
            if is_over and folder.name != keep and _remove(folder):
                total -= size
                self._known.pop(folder.name, None)
                self._suspect.discard(folder.name)


def _resolved(branch: str | None, commit: str | None) -> Resolved:
    """What came out of a sandbox, checked again: it goes into the next one. Raises InvalidRequest."""
    if branch is not None:
        check_branch(branch)
    if commit is not None:
        check_commit(commit)
    return Resolved(branch=branch, commit=commit)


def _unavailable(error: SandboxUnavailable) -> RepositoryFailed:
    return RepositoryFailed("clone", _NO_SANDBOX, detail=str(error))


def _mirror(folder: Path) -> Mapping[str, Path]:
    """Raises RepositoryFailed if there is none any more."""
    mirror = folder / "repository.git"
    if not mirror.exists():
        raise RepositoryFailed("clone", "The copy of the repository is gone.")
    return {_MIRROR: mirror}


async def _read(process: BwrapProcess, bytes_max: int) -> bytes:
    """All that it prints, up to a bound."""
    said = bytearray()
    while (chunk := await process.reader.read(_CHUNK_BYTES)) and len(said) <= bytes_max:
        said += chunk
    return bytes(said[:bytes_max])


def _replace(mirror: Path, fresh: Path, old: Path) -> None:
    """`fresh` takes the mirror's name. Killed in between, there is none, and the next clones."""
    with contextlib.suppress(FileNotFoundError):
        mirror.rename(old)
    fresh.rename(mirror)


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


def _uses(mirrors: Path) -> Iterator[tuple[float, Path]]:
    for folder in mirrors.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield (folder / "lock").stat().st_mtime, folder


def _size_bytes(folder: Path) -> int:
    """Sizes only, nothing is opened; `fwalk` never leaves the tree through a link."""
    total = 0
    with contextlib.suppress(OSError):  # it is going away at this moment
        for _, folders, files, opened in os.fwalk(folder):
            for name in (*folders, *files):
                with contextlib.suppress(OSError):
                    total += os.stat(name, dir_fd=opened, follow_symlinks=False).st_blocks * 512
    return total


def _remove(folder: Path) -> bool:
    """Unless somebody holds it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _flock(fd, fcntl.LOCK_EX):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(fd)
