"""Fetching repositories into mirrors, and making of them what sessions get. Where mirrors lie: `shelf.py`.

Every git runs in a sandbox of its own; what comes out of one is checked before it goes into the next.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from corral.catalog.hosts import HostList
from corral.catalog.repositories import (
    Branch,
    Commit,
    Repository,
    RepositorySkill,
    check_branch,
    check_commit,
)
from corral.confine.confinement import Confinement, Places
from corral.confine.tunnel import Tunnel
from corral.confine.watch import DiskWatch
from corral.confine.way import Way
from corral.hands.providers.process import BwrapProcess
from corral.hands.way_out import Egress
from corral.kernel import limits
from corral.kernel.disk_trees import is_larger
from corral.kernel.errors import InvalidRequest, SandboxUnavailable
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.kernel.shares import Shares
from corral.repositories.failures import TOO_LARGE, RepositoryFailed, fetch_failed, tree_too_large
from corral.repositories.shelf import MirrorPlace, Shelf, ShelfBounds

__all__ = ["Bounds", "Mirrors", "Resolved"]

log = logging.getLogger(__name__)

_RUNNER: Final = "corral.repositories.runner"
_MIRROR: Final = "/mirror/repository.git"
_TOO_LARGE: Final = 3  # exit code of the runner
_ANSWER_BYTES_MAX: Final = 64 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_KNOWN_SECONDS: Final = limits.REPOSITORY_SECONDS_MAX  # nobody waits for longer than that for a fetch
_NO_ROOM: Final = "The server that clones repositories is short of disk space."
_NO_WAY: Final = "The server cannot use the repository's token now; its operator can see why."
_NO_SANDBOX: Final = "The server cannot clone repositories now; its operator can see why."


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Of one clone or fetch, and of all that is kept. kernel/limits.py has the reasons."""

    seconds: float = limits.REPOSITORY_SECONDS_MAX
    bytes_max: int = limits.REPOSITORY_BYTES_MAX
    mirror_entries_max: int = limits.REPOSITORY_MIRROR_ENTRIES_MAX
    refs_max: int = limits.REPOSITORY_REFS_MAX
    tree_bytes_max: int = limits.REPOSITORY_TREE_BYTES_MAX
    tree_files_max: int = limits.REPOSITORY_TREE_FILES_MAX
    stall_seconds: int = limits.REPOSITORY_STALL_SECONDS
    at_once: int = limits.REPOSITORY_CLONES_AT_ONCE
    cache_bytes_max: int = limits.REPOSITORY_CACHE_BYTES_MAX
    cache_count_max: int = limits.REPOSITORY_CACHE_COUNT_MAX
    cache_seconds: float = limits.REPOSITORY_CACHE_SECONDS
    disk_free_bytes_min: int = limits.DISK_FREE_BYTES_MIN

    @property
    def mirror_bytes_max(self) -> int:
        """Of a mirror on disk: what was received, as much again beside it (indexes, what fetches add)."""
        return 2 * self.bytes_max

    @property
    def of_shelf(self) -> ShelfBounds:
        return ShelfBounds(
            bytes_max=self.cache_bytes_max, count_max=self.cache_count_max, seconds=self.cache_seconds
        )


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


_Fetched: TypeAlias = tuple[str, SessionId | None]
"""A mirror, and whose token it was fetched with."""


class Mirrors:
    """Of one node; other processes may share `root`."""

    def __init__(
        self,
        root: Path,
        *,
        hosts: HostList,
        egress: Egress | None,
        authorities: Path | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """hosts: see `repository_resource`. egress: through which they are reached; None on a node that has
        none: then nothing is cloned. authorities: see `Confinement`."""
        self._hosts = hosts
        self._bounds = bounds or Bounds()
        self._confinement = Confinement(root, modules=[_RUNNER], authorities=authorities)
        self._shelf = Shelf(root, make=self._confinement.make_writable, bounds=self._bounds.of_shelf)
        self._fetches, self._archives, self._listings = (Shares(self._bounds.at_once) for _ in range(3))
        self._egress = egress
        self._known: dict[_Fetched, _Known] = {}
        self._suspect: set[str] = set()  # keys of mirrors that git may not be able to work with

    async def fetch(
        self,
        repository: Repository,
        *,
        session_id: SessionId,
        workspace_id: WorkspaceId = DEFAULT_WORKSPACE,
    ) -> Resolved:
        """Bring the mirror up to date, or make it, and find the checkout in it. Raises RepositoryFailed.

        session_id: on whose errand. workspace_id: for whom; no workspace takes all of this node, and what
        is waited for until it is its turn does not count. Repeat: one fetch each; those that wait for the
        same mirror share the next one, unless they come with tokens: each of those has to work.
        """
        url, asked_at = repository.url, time.monotonic()
        if not self._hosts.allows(url.host, url.port):
            raise RepositoryFailed("clone", f"This server clones no repositories of {url.host!r}.")
        while (found := self._found_since(asked_at, repository)) is None:
            # The slot first: while one waits for it, the mirror is there for others.
            async with (
                self._fetches.one(workspace_id),
                self._shelf.held_now(repository, shared=False) as place,
            ):
                if place is not None:
                    found = self._found_since(asked_at, repository)
                    return found or await self._fetch_in_time(repository, place, session_id)
            await asyncio.sleep(limits.REPOSITORY_LOCK_SECONDS)
        return found

    async def archive(
        self, repository: Repository, resolved: Resolved, *, workspace_id: WorkspaceId = DEFAULT_WORKSPACE
    ) -> AsyncGenerator[bytes, None]:
        """The working tree with its .git as a tar, relative to its own top. Close it if it is left early.

        Raises RepositoryFailed, also in its middle: then it is not whole.
        """
        async with (
            self._archives.one(workspace_id),
            self._shelf.scratch() as scratch,
            contextlib.AsyncExitStack() as lock,
        ):
            place = await lock.enter_async_context(self._shelf.held(repository, shared=True))
            mirror = _there(place)
            room = self._room() - await asyncio.to_thread(place.size_bytes)
            if room <= 0:
                raise RepositoryFailed("clone", _NO_ROOM)
            asked = {
                "do": "pack",
                "url": repository.url.text,
                "branch": resolved.branch,
                "commit": resolved.commit,
            }
            places = Places(read_only={_MIRROR: mirror}, writable={"/scratch": scratch})
            async with self._running(asked, places, tree_bytes_max=room) as process:
                chunk = await self._in_time(process.reader.read(_CHUNK_BYTES))
                await lock.aclose()  # it is copied: others may fetch while this one is sent
                while chunk:
                    yield chunk
                    chunk = await process.reader.read(_CHUNK_BYTES)
                if (code := await process.exit_code()) != 0:
                    raise self._not_read(process, code, place)

    async def skills(
        self, repository: Repository, resolved: Resolved, *, workspace_id: WorkspaceId = DEFAULT_WORKSPACE
    ) -> Sequence[RepositorySkill]:
        """The skills that the repository brings at this commit; their text is anybody's. Raises
        RepositoryFailed."""
        if resolved.commit is None:
            return ()
        async with self._listings.one(workspace_id), self._shelf.held(repository, shared=True) as place:
            asked = {"do": "skills", "commit": resolved.commit}
            async with self._running(asked, Places(read_only={_MIRROR: _there(place)})) as process:
                bytes_max = limits.REPOSITORY_SKILLS_MAX * 2 * limits.REPOSITORY_SKILL_BYTES_MAX
                said = await self._in_time(process.said(bytes_max=bytes_max))
                if (code := await process.exit_code()) != 0:
                    raise self._not_read(process, code, place)
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

    def _found_since(self, asked_at: float, repository: Repository) -> Resolved | None:
        """What a fetch has found that began after it was asked for; a commit is looked for each time."""
        known, wanted = self._known.get(self._fetched(repository)), repository.checkout
        if known is None or known.began_at < asked_at or isinstance(wanted, Commit):
            return None
        return known.resolved.get(wanted.name if wanted else None)

    def _fetched(self, repository: Repository) -> _Fetched:
        holder = repository.holder
        return self._shelf.key(repository), None if holder is None else holder.session_id

    async def _fetch_in_time(
        self, repository: Repository, place: MirrorPlace, session_id: SessionId
    ) -> Resolved:
        try:
            async with asyncio.timeout(self._bounds.seconds):
                return await self._fetch(repository, place, session_id)
        except TimeoutError:
            raise RepositoryFailed(
                "clone",
                f"The repository host {repository.url.host!r} is too slow: more than"
                f" {self._bounds.seconds:g} s.",
            ) from None

    async def _fetch(self, repository: Repository, place: MirrorPlace, session_id: SessionId) -> Resolved:
        is_new = place.key in self._suspect or not place.has_mirror or await self._has_outgrown(place)
        known = _Known(time.monotonic())
        way = await self._way(repository, session_id)
        if is_new:
            resolved = await self._clone(repository, place, way)
        else:
            try:
                resolved = await self._ask(repository, way, _MIRROR, place.mirror, is_new=False)
            except RepositoryFailed as error:
                if error.blames_mirror:
                    self._suspect.add(place.key)
                raise
        if not isinstance(repository.checkout, Commit):
            known.resolved[repository.checkout.name if repository.checkout else None] = resolved
        self._known[self._fetched(repository)] = known
        await self._tidy(place)
        return resolved

    async def _has_outgrown(self, place: MirrorPlace) -> bool:
        """Whether fetches have left so much behind that a clone, which is bounded, takes less."""
        bytes_max, entries_max = self._bounds.mirror_bytes_max, self._bounds.mirror_entries_max
        return await asyncio.to_thread(
            is_larger, place.mirror, bytes_max=bytes_max, entries_max=entries_max
        )

    async def _tidy(self, place: MirrorPlace) -> None:
        """Whoever fetched has what it wanted, whatever becomes of the mirrors of others."""
        try:
            kept = await asyncio.to_thread(self._shelf.tidy, keep=place.key)
        except OSError:
            log.exception("mirrors of repositories could not be tidied up")
            return
        self._known = {
            fetched: known
            for fetched, known in self._known.items()
            if fetched[0] in kept and known.began_at > time.monotonic() - _KNOWN_SECONDS
        }
        self._suspect &= kept

    async def _clone(self, repository: Repository, place: MirrorPlace, way: Way) -> Resolved:
        async with place.fresh() as fresh:

            def keep() -> None:
                try:
                    place.replace(fresh / "repository.git")
                except OSError as error:
                    raise RepositoryFailed(
                        "clone", "The repository could not be cloned.", detail=repr(error)
                    ) from error
                self._suspect.discard(place.key)

            try:
                resolved = await self._ask(repository, way, "/fresh", fresh, is_new=True)
            except RepositoryFailed as error:
                if error.kind == "checkout":  # the mirror is whole, and the next may ask for what is there
                    keep()
                raise
            keep()
            return resolved

    async def _ask(
        self, repository: Repository, way: Way, where: str, folder: Path, *, is_new: bool
    ) -> Resolved:
        """One fetch into `folder`, which the sandbox sees at `where`."""
        checkout = repository.checkout
        asked: dict[str, Any] = {
            "do": "fetch",
            "url": repository.url.text,
            "is_new": is_new,
            "branch": checkout.name if isinstance(checkout, Branch) else None,
            "commit": checkout.sha if isinstance(checkout, Commit) else None,
            "authority": way.authority,
        }
        if (room := self._room()) <= 0:
            raise RepositoryFailed("clone", _NO_ROOM)
        tunnel = Tunnel(
            way,
            bytes_max=min(room, self._bounds.bytes_max),
            sent_bytes_max=limits.REPOSITORY_SENT_BYTES_MAX,
            silent_seconds=self._bounds.stall_seconds,
        )
        watch = DiskWatch(
            folder,
            # A mirror may be packed anew while it is fetched into: for a while there are two.
            bytes_max=self._bounds.mirror_bytes_max * (1 if is_new else 2),
            entries_max=self._bounds.mirror_entries_max,
            has_room=lambda: self._room() > 0,
        )
        async with (
            tunnel.door() as door,
            self._running(asked, Places(writable={where: folder}), door=door) as process,
            watch.over(process),
        ):
            said = await process.said(bytes_max=_ANSWER_BYTES_MAX)
            code = await process.exit_code()
            unstarted = self._confinement.explain(process) if code != 0 else None
        if watch.trouble is not None:
            raise RepositoryFailed(
                "clone",
                _NO_ROOM if watch.trouble == "no_room" else TOO_LARGE,
                detail="what git wrote was too much",
                blames_mirror=watch.trouble == "too_large",
            )
        if unstarted is not None:
            raise _unavailable(unstarted)
        try:
            answer = json.loads(said)
            if "failed" not in answer:
                return _resolved(answer["branch"], answer["commit"])
            step, stderr = str(answer["failed"]), str(answer["stderr"])
        except (ValueError, KeyError, TypeError, InvalidRequest):
            step, stderr = "fetch", f"the runner ended with {code}: {said[-1000:]!r}"
        if tunnel.trouble == "too_large" and room < self._bounds.bytes_max:
            raise RepositoryFailed("clone", _NO_ROOM, detail=tunnel.detail)
        raise fetch_failed(repository, step, stderr, tunnel)

    async def _way(self, repository: Repository, session_id: SessionId) -> Way:
        """Raises RepositoryFailed."""
        if repository.holder is None or self._egress is None:
            return Way.on("repository", self._egress, session_id)
        try:
            return await Way.with_token(self._egress, repository.holder.session_id)
        except SandboxUnavailable as error:
            raise RepositoryFailed("clone", _NO_WAY, detail=str(error)) from error

    # -- one program in a sandbox -------------------------------------------------------------------

    @asynccontextmanager
    async def _running(
        self,
        asked: Mapping[str, Any],
        places: Places,
        *,
        door: int | None = None,
        tree_bytes_max: int | None = None,
    ) -> AsyncGenerator[BwrapProcess, None]:
        bounds = {
            "memory_bytes": limits.REPOSITORY_MEMORY_BYTES,
            "file_bytes": 2 * self._bounds.bytes_max,
            "cpu_seconds": int(self._bounds.seconds) + 1,
            "stall_bytes": limits.REPOSITORY_STALL_BYTES,
            "stall_seconds": self._bounds.stall_seconds,
            "stderr_bytes": limits.REPOSITORY_STDERR_BYTES,
            "tree_files": self._bounds.tree_files_max,
            "tree_bytes": min(self._bounds.tree_bytes_max, tree_bytes_max or self._bounds.tree_bytes_max),
            "refs": self._bounds.refs_max,
            "ref_depth": limits.REPOSITORY_REF_DEPTH_MAX,
            "tree_depth": limits.REPOSITORY_TREE_DEPTH_MAX,
            "skills": limits.REPOSITORY_SKILLS_MAX,
            "skill_bytes": limits.REPOSITORY_SKILL_BYTES_MAX,
        }
        words = json.dumps({**asked, "bounds": bounds, "door": door})
        gives = () if door is None else (door,)
        try:
            async with self._confinement.python(
                f"import {_RUNNER} as it; it.main()", words, places=places, gives=gives
            ) as process:
                yield process
        except SandboxUnavailable as error:
            raise _unavailable(error) from error

    def _not_read(self, process: BwrapProcess, code: int, place: MirrorPlace) -> RepositoryFailed:
        """Why a runner failed that only had a mirror to read."""
        if (unstarted := self._confinement.explain(process)) is not None:
            return _unavailable(unstarted)
        if code == _TOO_LARGE:
            return tree_too_large()
        self._suspect.add(place.key)
        return RepositoryFailed(
            "clone", "The repository could not be checked out.", detail=f"the runner ended with {code}"
        )

    def _room(self) -> int:
        """Bytes that we may still write: our disk is the store's too."""
        return self._shelf.free_bytes() - self._bounds.disk_free_bytes_min

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._bounds.seconds):
                data: bytes = await reading
                return data
        except TimeoutError:
            raise RepositoryFailed("clone", "The repository took too long to check out.") from None


def _resolved(branch: str | None, commit: str | None) -> Resolved:
    """What came out of a sandbox, checked again: it goes into the next one. Raises InvalidRequest."""
    if branch is not None:
        check_branch(branch)
    if commit is not None:
        check_commit(commit)
    return Resolved(branch=branch, commit=commit)


def _unavailable(error: SandboxUnavailable) -> RepositoryFailed:
    return RepositoryFailed("clone", _NO_SANDBOX, detail=str(error))


def _there(place: MirrorPlace) -> Path:
    """Raises RepositoryFailed if there is no mirror any more."""
    if not place.has_mirror:
        raise RepositoryFailed("clone", "The copy of the repository is gone.")
    return place.mirror
