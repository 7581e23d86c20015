"""The hands host: runs each tool call at most once and never invents its outcome.

    execute --fence--> known? --no--> sandbox --> started (fsync) --> effect --> result (fsync) --> reply
                         |
                         +-- running: join it   recorded: return it   started and gone: outcome unknown

Rules of this file:
- `_calls` (`calls.py`) holds every call that is on its way. So a journal row without a result whose call is
  not there was cut off by a crash.
- Between the fence and `Calls.begin` nothing is awaited: a newer brain that was announced in between finds
  the older one's call there, or that older one is refused.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from weakref import WeakValueDictionary

from corral.hands.calls import Calls
from corral.hands.journal import Held, Journal
from corral.hands.lifecycle import Sandboxes
from corral.hands.news import NEWS_FOUND, NEWS_LOST, NEWS_RESTORED, OUTCOME_UNKNOWN
from corral.hands.ports import Probe, Provider, WorkspaceMissing
from corral.hands.wire import HeldWorkspace, LiveSandbox, Restored, decode_result, encode_result
from corral.hands.workspace import Workspaces
from corral.kernel.clock import Clock, SystemClock
from corral.kernel.crash import crash_point
from corral.kernel.errors import (
    Conflict,
    LeaseLost,
    NotFound,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    DISK_FREE_BYTES_MIN,
    SANDBOX_IDLE_SECONDS,
    SANDBOX_PROBE_SECONDS,
    SANDBOXES_MAX,
)
from corral.session.call import INTERRUPTED, NeverStarted, Placement, Recipe, ToolCall
from corral.session.content import ToolResult

_log = logging.getLogger(__name__)

__all__ = ["HandsHost"]

_INTERRUPTED_RESULT: Final = encode_result(ToolResult.text(INTERRUPTED, is_error=True))


class HandsHost:
    """`corral.brain.ports.Hands` for the built-in toolset, on this machine. Use it as a context manager."""

    def __init__(
        self,
        provider: Provider,
        *,
        journal: Journal,
        host_id: str,
        state_dir: Path,
        clock: Clock | None = None,
        sandboxes_max: int = SANDBOXES_MAX,
        idle_seconds: float = SANDBOX_IDLE_SECONDS,
        disk_free_bytes_min: int = DISK_FREE_BYTES_MIN,
    ) -> None:
        """`state_dir`: exists, on a disk that outlives the host; workspaces go below it."""
        self._clock = clock or SystemClock()
        self._provider = provider
        self._journal = journal
        self._here = Placement(host_id=host_id, journal_id=journal.journal_id)
        root = state_dir / "workspaces"
        root.mkdir(mode=0o711, exist_ok=True)  # a sandbox's own uid passes through, and cannot list
        self.workspaces = Workspaces(root, provider=provider, disk_free_bytes_min=disk_free_bytes_min)
        self._sandboxes = Sandboxes(
            provider,
            workspaces=self.workspaces,
            clock=self._clock,
            sandboxes_max=sandboxes_max,
            idle_seconds=idle_seconds,
            on_evicted=journal.settle_old,
        )
        self._tasks = asyncio.TaskGroup()
        self._calls = Calls(self._tasks, journal=journal, sandboxes=self._sandboxes)
        self._imports: set[tuple[SessionId, asyncio.Timeout]] = set()  # deletion and moves cut them short
        self._reaper: asyncio.Task[None] | None = None
        self._is_draining = False
        self._sandboxes_max = sandboxes_max
        # One restore or eviction of a session at a time; a lock lives while somebody is at it.
        self._placing: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()
        self._probe: tuple[float, Probe] | None = None
        self._probing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._reaper = self._tasks.create_task(self._sandboxes.reap_forever())
        self._tasks.create_task(self._finish_evictions())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
            assert self._reaper
            self._reaper.cancel()
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await self._provider.aclose()

    async def stop(self) -> None:
        """Take no new calls, let running ones end for HANDS_DRAIN_SECONDS, then destroy every sandbox.

        Afterwards each call has a durable result. Repeat: safe.
        """
        await self._calls.stop()

    # -- the port -----------------------------------------------------------------------------------

    async def placement(self, session_id: SessionId) -> Placement:
        return self._here

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        self.workspaces.path(session_id)  # a bad id stops here
        await self._journal.fence(session_id, epoch=epoch)

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        await self.announce(session_id, epoch=epoch)
        self._calls.require_running()
        self._tasks.create_task(self._warm(session_id, epoch, recipe))

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        return decode_result(await self.execute_encoded(call, epoch=epoch))

    async def attach(self, call: ToolCall, *, epoch: int) -> ToolResult:
        return decode_result(await self.attach_encoded(call, epoch=epoch))

    async def execute_encoded(self, call: ToolCall, *, epoch: int, placed_at: int | None = None) -> bytes:
        """`execute`; the result as `wire.encode_result` made it goes to the socket as it was stored.

        placed_at: start only in the workspace of this placement, else WorkspaceMissing.
        """
        return await self._outcome(call, epoch=epoch, may_start=True, placed_at=placed_at)

    async def attach_encoded(self, call: ToolCall, *, epoch: int, forbids: bool = False) -> bytes:
        """`attach`. forbids: NeverStarted then means that it never will, whatever is on its way here."""
        while True:
            try:
                return await self._outcome(call, epoch=epoch, may_start=False)
            except NeverStarted:
                if not forbids:
                    raise
                if await self._journal.forbid(call.session_id, [call.call_id], _INTERRUPTED_RESULT):
                    raise
                # It came in between: now there is something to attach to.

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        await self.announce(session_id, epoch=epoch)
        # One of them may be on its way to us, on another connection than this: first those that did not
        # come are kept from starting, then those that did are killed, so none slips through between.
        if absent := [call_id for call_id in call_ids if self._calls.get(call_id) is None]:
            await self._journal.forbid(session_id, absent, _INTERRUPTED_RESULT)
        await self._calls.interrupt(session_id, call_ids)

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        self._calls.settle(call_ids)

    # -- for whoever looks after the sessions and the machine ------------------------------------------

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """The session ended: interrupt its calls and destroy its sandbox, in seconds; what comes late from
        the brains it had gets LeaseLost.

        delete_workspace: it was deleted; nothing of it stays, and every later call of it gets LeaseLost.
        Repeat: safe, also after a crash in the middle.
        """
        self.workspaces.path(session_id)
        await self._journal.release(session_id, is_deleted=delete_workspace)
        if delete_workspace:
            self._cut_imports(session_id)
        await self._calls.interrupt(session_id)
        await self._sandboxes.destroy(session_id)
        if delete_workspace:
            await self.workspaces.remove(session_id)
        # No brain will ask again: its epoch has ended.
        await self._journal.forget(session_id, is_deleted=delete_workspace)

    def sandboxes(self) -> list[LiveSandbox]:
        return self._sandboxes.live()

    async def held(self, *, with_disk: bool = False) -> list[HeldWorkspace]:
        """Every workspace that lies here. with_disk: measured, which takes a while."""
        live = {sandbox.session_id: sandbox for sandbox in self.sandboxes()}
        known = {held.session_id: held for held in await self._journal.held()}
        lying = await asyncio.to_thread(self.workspaces.all)
        for session_id in lying:  # from a time when the journal did not list them
            known.setdefault(session_id, _unlisted(session_id))
        used = await asyncio.to_thread(self.workspaces.disk_bytes, lying) if with_disk else {}
        working = self._working()
        now = time.time()
        return [
            HeldWorkspace(
                session_id=held.session_id,
                placed_at=held.placed_at,
                provider=live[held.session_id].provider if held.session_id in live else None,
                is_busy=held.session_id in working
                or (held.session_id in live and live[held.session_id].is_busy),
                idle_seconds=max(0.0, now - held.changed_at),
                changes=held.changes,
                kept=held.kept,
                disk_bytes=used.get(held.session_id, 0),
            )
            for held in known.values()
        ]

    async def hold(self, session_id: SessionId, *, placed_at: int) -> None:
        """Whether the next call may come. Raises WorkspaceMissing if this placement's workspace has to be
        restored first; SandboxUnavailable (retryable) if it does not lie here and no new one is taken."""
        self.workspaces.path(session_id)
        self._calls.require_running()
        try:
            await self._journal.require_held(session_id, placed_at=placed_at)
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
            held = await self._journal.held(session_id)
            if held and held[0].placed_at >= placed_at:
                if held[0].placed_at == placed_at:
                    return
                raise LeaseLost(f"session {session_id!r} was placed here again meanwhile")
            await self._require_kept(session_id)
            self._require_room()
            if held and held[0].placed_at == 0 and restored.what != "checkpoint":
                # From before anybody placed sessions: there is no other copy of it.
                await self._journal.adopt(session_id, placed_at=placed_at)
                return
            lies_here = self.workspaces.path(session_id).exists()
            if lies_here and await self._is_best(session_id, held, restored):
                # changes: no copy has all of it.
                await self._journal.hold(session_id, placed_at=placed_at, news=NEWS_FOUND, changes=1)
                return
            crash_point("restore.before")
            if lies_here or restored.what == "checkpoint":  # half a workspace, after a crash, is none
                await self._journal.evict(session_id)
            await self._empty(session_id)
            news, copied = "", 0
            if restored.what == "checkpoint":
                news, copied = NEWS_RESTORED.format(taken_at=restored.taken_at), 1
                try:
                    await self.workspaces.unpack(session_id, archive)
                except BaseException:
                    await self.workspaces.remove(session_id)
                    raise
            elif restored.what == "lost":
                news = NEWS_LOST
            await self._journal.hold(
                session_id, placed_at=placed_at, news=news, changes=copied, kept=copied
            )
            crash_point("restore.after")

    def pack(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """What `restore` takes. Raises NotFound at once."""
        return self.workspaces.pack(session_id)

    async def keep(self, session_id: SessionId, *, changes: int, only_check: bool = False) -> None:
        """A checkpoint covers so many changes. Raises Conflict if there were more meanwhile."""
        self._require_idle(session_id)
        await self._journal.keep(session_id, changes=changes, only_check=only_check)

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
                held = await self._journal.held(session_id)
                if held and held[0].placed_at != placed_at:
                    raise Conflict(f"session {session_id!r} was placed here again", retryable=True)
            if not keeps_files:
                await self._journal.evict(session_id, changes=changes, placed_at=placed_at)
                crash_point("hands.evict")
            if changes is None:
                self._cut_imports(session_id)
                await self._calls.interrupt(session_id)
            # Else a call that came just before the mark finds it when it starts, and goes elsewhere.
            await self._sandboxes.destroy(session_id)
            if not keeps_files:
                await self.workspaces.remove(session_id)

    async def _finish_evictions(self) -> None:
        """Those that a crash left half done: what still lies there is no whole workspace."""
        try:
            for session_id in await self._journal.evicted():
                async with self._placing.setdefault(session_id, asyncio.Lock()):
                    if self.workspaces.path(session_id).exists() and await self._is_evicted(session_id):
                        await self.workspaces.remove(session_id)
        except WorldError as error:  # a restore removes it, too
            _log.warning("what an eviction left could not be removed: %s", error.message)

    async def drain(self, *, is_draining: bool) -> None:
        """Take no new sessions; those that are here go on."""
        self._is_draining = is_draining
        crash_point("hands.drain")

    def facts(self) -> dict[str, int | bool]:
        """`{"capacity", "sandboxes", "calls", "disk_free_bytes", "is_draining"}`."""
        return {
            "capacity": self._sandboxes_max,
            "sandboxes": len(self.sandboxes()),
            "calls": self.calls_running,
            "disk_free_bytes": self.workspaces.free_bytes(),
            "is_draining": self._is_draining or self._calls.is_stopping,
        }

    @property
    def calls_running(self) -> int:
        return len(self._calls)

    async def probe(self) -> Probe:
        """Whether a sandbox can be made here, tried at most every SANDBOX_PROBE_SECONDS."""
        async with self._probing:
            now = self._clock.monotonic()
            if self._probe is None or now - self._probe[0] > SANDBOX_PROBE_SECONDS:
                self._probe = (now, await self._provider.probe())
            return self._probe[1]

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream into the workspace. Raises NotFound for a deleted session, SandboxUnavailable
        for one that left this host; as Workspaces."""
        await self._require_kept(session_id)
        try:
            async with asyncio.timeout(None) as timeout:
                # Counted until the journal knows of the change: an eviction comes before all of it, which
                # is seen here, or is refused.
                self._imports.add(running := (session_id, timeout))
                try:
                    await self._journal.require_not_evicted(session_id)
                    await self.workspaces.import_archive(session_id, archive)
                    await self._journal.changed(session_id)
                finally:
                    self._imports.discard(running)
        except TimeoutError:
            await self._require_kept(session_id)
            await self._journal.require_not_evicted(session_id)
            raise
        finally:
            if await self._journal.is_released(session_id):  # deleted meanwhile
                await self.workspaces.remove(session_id)
                await self._journal.forget(session_id, is_deleted=True)
        await self._require_kept(session_id)

    def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of the workspace. Raises NotFound at once; as Workspaces."""
        return self.workspaces.export_archive(session_id)

    # -- one call -----------------------------------------------------------------------------------

    async def _outcome(
        self, call: ToolCall, *, epoch: int, may_start: bool, placed_at: int | None = None
    ) -> bytes:
        self.workspaces.path(call.session_id)
        row = await self._journal.fence(
            call.session_id,
            epoch=epoch,
            call_id=call.call_id,
            placed_at=placed_at if self._calls.get(call.call_id) is None else None,
        )
        running = self._calls.get(call.call_id)
        if running is None:
            unknown = encode_result(ToolResult.text(OUTCOME_UNKNOWN, is_error=True))
            # Its own journal alone could tell: a row in this one was made by a cancel, which knew no more.
            if call.placement.journal_id != self._here.journal_id:
                return unknown
            if row is not None and row.result is not None:
                return row.result
            if row is not None and row.is_settled:
                # Its answer is in the log, so whoever asks is late, and the log refuses what it makes of
                # this; or the log was restored from a backup that is older than the answer.
                return unknown
            if row is not None:
                return await self._journal.finish(call.session_id, call.call_id, unknown)
            if not may_start:
                raise NeverStarted(call.call_id)
            self._calls.require_running()
            self.workspaces.require_space()
            running = self._calls.begin(call)
        try:
            return await asyncio.shield(running.done)
        except WorkspaceMissing:  # evicted in the moment that it came
            if may_start:
                raise
            raise NeverStarted(call.call_id) from None

    async def _warm(self, session_id: SessionId, epoch: int, recipe: Recipe) -> None:
        try:
            # Once more, in the task that makes it: a release comes before this, or finds what is made.
            await self._journal.fence(session_id, epoch=epoch)
            self.workspaces.require_space()
            await self._sandboxes.warm(session_id, recipe=recipe)
        except (SandboxUnavailable, LeaseLost):
            pass  # a hint; the first call raises it
        except Exception:  # the boundary of a hint: a provider's bug must not end the host and its calls
            _log.exception("warming up a sandbox for %s failed", session_id)

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
        return restored.what != "checkpoint" or restored.host_id == self._here.host_id

    async def _is_evicted(self, session_id: SessionId) -> bool:
        return session_id in await self._journal.evicted()

    async def _empty(self, session_id: SessionId) -> None:
        await self._sandboxes.destroy(session_id)
        await self.workspaces.remove(session_id)

    def _require_idle(self, session_id: SessionId) -> None:
        if session_id in self._working():
            raise Conflict(f"session {session_id!r} is at work", retryable=True)

    def _working(self) -> Set[SessionId]:
        """Sessions with a call or an import on its way."""
        return self._calls.sessions() | {session_id for session_id, _ in self._imports}

    def _cut_imports(self, session_id: SessionId) -> None:
        for running in [each for each in self._imports if each[0] == session_id]:
            self._imports.discard(running)  # told once; it may take a while to unwind
            running[1].reschedule(0)

    def _require_room(self) -> None:
        """Raises SandboxUnavailable if no session may come here that is not here yet."""
        if self._is_draining:
            raise SandboxUnavailable("the hands host takes no new sessions: it is being drained")
        self.workspaces.require_space()
        busy = sum(sandbox.is_busy for sandbox in self.sandboxes())
        if busy >= self._sandboxes_max:
            raise SandboxUnavailable(f"all {busy} sandboxes of the hands host are busy")


def _unlisted(session_id: SessionId) -> Held:
    return Held(
        session_id=session_id, placed_at=0, had=True, news="", changes=0, kept=0, changed_at=time.time()
    )
