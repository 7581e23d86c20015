"""The workspaces that lie on a hands host: how they come, are copied, and go.

    elsewhere --restore--> here --calls, imports--> changed --pack, keep--> copied
        ^                   |
        +------ evict ------+        (by the journal first: nothing starts in what is about to go)

Rules of this file:
- One restore or eviction of a session at a time. Half a workspace, after a crash, is none: the journal says
  evicted until it is whole, and what lies there is removed.
- Imports are counted as work, as calls are: what is at work is neither kept nor evicted as if it were idle.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import replace
from weakref import WeakValueDictionary

from corral.hands.calls import Calls
from corral.hands.journal import Journal
from corral.hands.journal_held import Held
from corral.hands.lifecycle import Sandboxes
from corral.hands.news import NEWS_FOUND, NEWS_LOST, NEWS_RESTORED
from corral.hands.ports import WorkspaceMissing
from corral.hands.wire import HeldWorkspace, LiveSandbox, Restored, decode_mount
from corral.hands.workspace import Workspaces
from corral.kernel.crash import crash_point
from corral.kernel.errors import Conflict, LeaseLost, NotFound, SandboxUnavailable, WorldError
from corral.kernel.ids import SessionId
from corral.kernel.limits import HELD_RECENT_SECONDS
from corral.session.call import Mount
from corral.session.content import Json

__all__ = ["HeldWorkspaces"]

_log = logging.getLogger(__name__)


class HeldWorkspaces:
    """Those of one host."""

    def __init__(
        self,
        *,
        host_id: str,
        journal: Journal,
        calls: Calls,
        sandboxes: Sandboxes,
        workspaces: Workspaces,
        sandboxes_max: int,
    ) -> None:
        self._host_id = host_id
        self._journal = journal
        self._calls = calls
        self._sandboxes = sandboxes
        self._workspaces = workspaces
        self._sandboxes_max = sandboxes_max
        self.is_draining = False  # then no session comes that is not here yet
        self._imports: set[tuple[SessionId, asyncio.Timeout]] = set()  # deletion and moves cut them short
        # A lock lives while somebody is at it.
        self._placing: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()

    async def all(self, *, with_disk: bool = False, only_recent: bool = False) -> list[HeldWorkspace]:
        """Every workspace that lies here. with_disk: measured, which takes a while. only_recent: those that
        have a sandbox, are at work, or were so HELD_RECENT_SECONDS ago."""
        live = {sandbox.session_id: sandbox for sandbox in self._sandboxes.live()}
        if only_recent:
            recent = await self._journal.held.recent(
                seconds=HELD_RECENT_SECONDS, session_ids=[*live, *self._working()]
            )
            seen = [self._seen(held, live.get(held.session_id), {}) for held in recent]
            return [self._with_trees(held) for held in seen]
        known = {held.session_id: held for held in await self._journal.held.rows()}
        lying = await asyncio.to_thread(self._workspaces.all)
        for session_id in lying:  # from a time when the journal did not list them
            known.setdefault(session_id, _unlisted(session_id))
        used = await asyncio.to_thread(self._workspaces.disk_bytes, lying) if with_disk else {}
        return [self._seen(held, live.get(held.session_id), used) for held in known.values()]

    def _with_trees(self, held: HeldWorkspace) -> HeldWorkspace:
        has_outputs, has_memory = self._workspaces.trees.has_any(held.session_id)
        return replace(held, has_outputs=has_outputs, has_memory=has_memory)

    def _seen(
        self, held: Held, sandbox: LiveSandbox | None, used: Mapping[SessionId, int]
    ) -> HeldWorkspace:
        return HeldWorkspace(
            session_id=held.session_id,
            placed_at=held.placed_at,
            provider=sandbox.provider if sandbox else None,
            is_busy=held.session_id in self._working() or (sandbox is not None and sandbox.is_busy),
            idle_seconds=max(0.0, time.time() - held.changed_at),
            changes=held.changes,
            kept=held.kept,
            disk_bytes=used.get(held.session_id, 0),
        )

    async def hold(self, session_id: SessionId, *, placed_at: int) -> None:
        """Whether the next call may come. Raises WorkspaceMissing if this placement's workspace has to be
        restored first; SandboxUnavailable (retryable) if it does not lie here and no new one is taken."""
        self._workspaces.path(session_id)
        self._calls.require_running()
        try:
            await self._journal.held.require(session_id, placed_at=placed_at)
        except WorkspaceMissing:
            self._require_room()
            raise

    async def restore(
        self, session_id: SessionId, archive: AsyncIterator[bytes], *, placed_at: int, restored: Restored
    ) -> None:
        """Put the workspace of a placement in place, of which nothing may run yet. What lay here of an
        earlier placement goes. An archive that breaks leaves nothing behind.

        Repeat: does nothing, and reads nothing of the archive. Raises LeaseLost for an older placement.
        """
        async with self._placing.setdefault(session_id, asyncio.Lock()):
            held = await self._journal.held.rows(session_id)
            if held and held[0].placed_at >= placed_at:
                if held[0].placed_at == placed_at:
                    return
                raise LeaseLost(f"session {session_id!r} was placed here again meanwhile")
            await self._require_kept(session_id)
            self._require_room()
            if held and held[0].placed_at == 0 and restored.what != "checkpoint":
                # From before anybody placed sessions: there is no other copy of it.
                await self._journal.held.adopt(session_id, placed_at=placed_at)
                return
            lies_here = self._workspaces.path(session_id).exists()
            if lies_here and await self._is_best(session_id, held, restored):
                # changes: no copy has all of it.
                await self._journal.held.hold(session_id, placed_at=placed_at, news=NEWS_FOUND, changes=1)
                return
            crash_point("restore.before")
            if lies_here or restored.what == "checkpoint":  # half a workspace, after a crash, is none
                await self._journal.held.evict(session_id)
            await self._empty(session_id)
            news, copied = "", 0
            if restored.what == "checkpoint":
                news, copied = NEWS_RESTORED.format(taken_at=restored.taken_at), 1
                try:
                    await self._workspaces.unpack(session_id, archive)
                except BaseException:
                    await self._workspaces.remove(session_id)
                    raise
            elif restored.what == "lost":
                news = NEWS_LOST
            await self._journal.held.hold(
                session_id, placed_at=placed_at, news=news, changes=copied, kept=copied
            )
            crash_point("restore.after")

    def pack(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """What `restore` takes. Raises NotFound at once."""
        return self._workspaces.pack(session_id)

    async def keep(self, session_id: SessionId, *, changes: int, only_check: bool = False) -> None:
        """A checkpoint covers so many changes. Raises Conflict if there were more meanwhile."""
        self._require_idle(session_id)
        await self._journal.held.keep(session_id, changes=changes, only_check=only_check)

    async def evict(
        self,
        session_id: SessionId,
        *,
        changes: int | None = None,
        placed_at: int | None = None,
        keeps_files: bool = False,
    ) -> None:
        """Destroy the sandbox and remove the workspace of a session that lives on: only a restore brings it
        back. keeps_files: the workspace stays.

        changes: only if there were no more than these, and no call runs: raises Conflict. None: whatever
        runs, because it is not the session any more. placed_at: only the workspace of this placement.
        Repeat: safe.
        """
        async with self._placing.setdefault(session_id, asyncio.Lock()):
            if changes is not None:
                self._require_idle(session_id)
            if keeps_files and placed_at is not None:
                held = await self._journal.held.rows(session_id)
                if held and held[0].placed_at != placed_at:
                    raise Conflict(f"session {session_id!r} was placed here again", retryable=True)
            if not keeps_files:
                await self._journal.held.evict(session_id, changes=changes, placed_at=placed_at)
                crash_point("hands.evict")
            if changes is None:
                self.cut_imports(session_id)
                await self._calls.interrupt(session_id)
            # Else a call that came just before the mark finds it when it starts, and goes elsewhere.
            await self._sandboxes.destroy(session_id)
            if not keeps_files:
                await self._workspaces.remove(session_id)

    async def finish_evictions(self) -> None:
        """Those that a crash left half done: what still lies there is no whole workspace."""
        try:
            for session_id in await self._journal.held.evicted():
                async with self._placing.setdefault(session_id, asyncio.Lock()):
                    if self._workspaces.path(session_id).exists() and await self._is_evicted(session_id):
                        await self._workspaces.remove(session_id)
        except WorldError as error:  # a restore removes it, too
            _log.warning("what an eviction left could not be removed: %s", error.message)

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream into the workspace. Raises NotFound for a deleted session, SandboxUnavailable
        for one that left this host; as Workspaces."""

        async def unpack() -> bool:
            await self._workspaces.import_archive(session_id, archive)
            return True

        await self._bring_in(session_id, unpack)

    async def put_mount(
        self,
        session_id: SessionId,
        mount: Mount,
        archive: AsyncIterator[bytes],
        *,
        epoch: int,
        placed_at: int | None = None,
    ) -> None:
        """Put a mount of the session in place. placed_at: only in the workspace of this placement.
        Repeat: safe, also after a crash in the middle; a mount that is there is not read again.

        Raises LeaseLost, WorkspaceMissing; as `import_workspace`, InvalidRequest, RequestTooLarge.
        """
        await self._journal.fence(session_id, epoch=epoch)
        if placed_at is not None:
            await self._journal.held.require(session_id, placed_at=placed_at)
        self._workspaces.require_space()

        async def put() -> bool:
            await self._workspaces.prepare(session_id)
            return await self._workspaces.mounted.put(session_id, mount, archive)

        await self._bring_in(session_id, put)

    async def apply_tree(
        self,
        session_id: SessionId,
        place: str,
        change: Mapping[str, Json],
        *,
        epoch: int,
        placed_at: int | None = None,
    ) -> Mapping[str, Json]:
        """Change the tree of a memory store (`Trees.apply`). Raises as `put_mount`."""
        await self._journal.fence(session_id, epoch=epoch)
        if placed_at is not None:
            await self._journal.held.require(session_id, placed_at=placed_at)
        self._workspaces.require_space()
        applied: dict[str, Json] = {}

        async def apply() -> bool:
            applied.update(await self._workspaces.trees.apply(session_id, place, change))
            if "mounted" in change:
                self._workspaces.mounted.note(session_id, decode_mount(change["mounted"]))
            return False

        await self._bring_in(session_id, apply)
        return applied

    async def _bring_in(self, session_id: SessionId, bring: Callable[[], Awaitable[bool]]) -> None:
        """bring: returns whether the workspace's own files have changed."""
        await self._require_kept(session_id)
        try:
            async with asyncio.timeout(None) as timeout:
                # Counted until the journal knows of the change: an eviction comes before all of it, which
                # is seen here, or is refused.
                self._imports.add(running := (session_id, timeout))
                try:
                    await self._journal.held.require_not_evicted(session_id)
                    if await bring():
                        await self._journal.held.changed(session_id)
                finally:
                    self._imports.discard(running)
        except TimeoutError:
            await self._require_kept(session_id)
            await self._journal.held.require_not_evicted(session_id)
            raise
        finally:
            if await self._journal.is_released(session_id):  # deleted meanwhile
                await self._workspaces.remove(session_id)
                await self._journal.forget(session_id, is_deleted=True)
        await self._require_kept(session_id)

    def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of the workspace. Raises NotFound at once; as Workspaces."""
        return self._workspaces.export_archive(session_id)

    # -- inside ----------------------------------------------------------------------------------------

    async def _require_kept(self, session_id: SessionId) -> None:
        if await self._journal.is_released(session_id):
            raise NotFound(f"session {session_id!r} was deleted")

    async def _is_best(self, session_id: SessionId, held: Sequence[Held], restored: Restored) -> bool:
        """Whether no copy is known that is newer than the files that lie here."""
        if held:  # of an earlier placement: the session went on elsewhere, where nothing was copied
            return restored.what != "checkpoint" and held[0].changes > held[0].kept
        if await self._is_evicted(session_id):
            return False
        # The journal was lost. A copy that was made here has no more than what lies here.
        return restored.what != "checkpoint" or restored.host_id == self._host_id

    async def _is_evicted(self, session_id: SessionId) -> bool:
        return session_id in await self._journal.held.evicted()

    async def _empty(self, session_id: SessionId) -> None:
        await self._sandboxes.destroy(session_id)
        await self._workspaces.remove(session_id)

    def _require_idle(self, session_id: SessionId) -> None:
        if session_id in self._working():
            raise Conflict(f"session {session_id!r} is at work", retryable=True)

    def _working(self) -> Set[SessionId]:
        """Sessions with a call or an import on its way."""
        return self._calls.sessions() | {session_id for session_id, _ in self._imports}

    def cut_imports(self, session_id: SessionId) -> None:
        for running in [each for each in self._imports if each[0] == session_id]:
            self._imports.discard(running)  # told once; it may take a while to unwind
            running[1].reschedule(0)

    def _require_room(self) -> None:
        """Raises SandboxUnavailable if no session may come here that is not here yet."""
        if self.is_draining:
            raise SandboxUnavailable("the hands host takes no new sessions: it is being drained")
        self._workspaces.require_space()
        busy = sum(sandbox.is_busy for sandbox in self._sandboxes.live())
        if busy >= self._sandboxes_max:
            raise SandboxUnavailable(f"all {busy} sandboxes of the hands host are busy")


def _unlisted(session_id: SessionId) -> Held:
    return Held(
        session_id=session_id, placed_at=0, had=True, news="", changes=0, kept=0, changed_at=time.time()
    )
