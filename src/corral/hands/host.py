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
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.hands.calls import Calls
from corral.hands.held import HeldWorkspaces
from corral.hands.journal import Journal
from corral.hands.lifecycle import Sandboxes
from corral.hands.news import OUTCOME_UNKNOWN
from corral.hands.ports import Connector, Probe, Provider, Web, WorkspaceMissing
from corral.hands.spill import Spill
from corral.hands.wire import LiveSandbox, decode_result, encode_result
from corral.hands.workspace import Workspaces
from corral.kernel.clock import Clock, SystemClock
from corral.kernel.crash import crash_point
from corral.kernel.errors import LeaseLost, SandboxUnavailable
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    DISK_FREE_BYTES_MIN,
    SANDBOX_IDLE_SECONDS,
    SANDBOX_PROBE_SECONDS,
    SANDBOXES_MAX,
)
from corral.session.call import INTERRUPTED, Mount, NeverStarted, Placement, Recipe, ToolCall
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
        web: Web | None = None,
        mcp: Connector | None = None,
    ) -> None:
        """`state_dir`: exists, on a disk that outlives the host; workspaces go below it. web, mcp: None
        on a host without web tools, or without connections to MCP servers."""
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
        self._web, self._mcp = web, mcp
        self._calls = Calls(
            self._tasks,
            journal=journal,
            sandboxes=self._sandboxes,
            spill=Spill(self.workspaces, journal),
            web=web,
            mcp=mcp,
        )
        self.held = HeldWorkspaces(
            host_id=host_id,
            journal=journal,
            calls=self._calls,
            sandboxes=self._sandboxes,
            workspaces=self.workspaces,
            sandboxes_max=sandboxes_max,
        )
        self._reaper: asyncio.Task[None] | None = None
        self._sandboxes_max = sandboxes_max
        self._probe: tuple[float, Probe] | None = None
        self._probing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._reaper = self._tasks.create_task(self._sandboxes.reap_forever())
        self._tasks.create_task(self.held.finish_evictions())
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
            for outside in (self._web, self._mcp):
                if outside is not None:
                    await outside.aclose()
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

        placed_at: start only in the workspace of this placement, else WorkspaceMissing. Raises
        MountsMissing, too: the recipe names what is to be brought first (`held.put_mount`).
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

    async def missing(self, session_id: SessionId, *, epoch: int, mounts: Sequence[Mount]) -> list[str]:
        """Which of these mounts a call would find missing."""
        await self.announce(session_id, epoch=epoch)
        return self.workspaces.mounted.missing(session_id, mounts)

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        await self.announce(session_id, epoch=epoch)
        # One of them may be on its way to us, on another connection than this: first those that did not
        # come are kept from starting, then those that did are killed, so none slips through between.
        if absent := [call_id for call_id in call_ids if self._calls.get(call_id) is None]:
            await self._journal.forbid(session_id, absent, _INTERRUPTED_RESULT)
        await self._calls.interrupt(session_id, call_ids)

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        await self.announce(session_id, epoch=epoch)
        self._calls.require_running()
        if self._mcp is None:
            raise SandboxUnavailable("this host has no connections to MCP servers", retryable=False)
        return await self._mcp.list_tools(session_id, servers, only_changed=only_changed)

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
            self.held.cut_imports(session_id)
        await self._calls.interrupt(session_id)
        if self._mcp is not None:
            await self._mcp.forget(session_id)
        await self._sandboxes.destroy(session_id)
        if delete_workspace:
            await self.workspaces.remove(session_id)
        # No brain will ask again: its epoch has ended.
        await self._journal.forget(session_id, is_deleted=delete_workspace)

    def sandboxes(self) -> list[LiveSandbox]:
        return self._sandboxes.live()

    async def drain(self, *, is_draining: bool) -> None:
        """Take no new sessions; those that are here go on."""
        self.held.is_draining = is_draining
        crash_point("hands.drain")

    def facts(self) -> dict[str, int | bool]:
        """`{"capacity", "sandboxes", "calls", "disk_free_bytes", "is_draining"}`."""
        return {
            "capacity": self._sandboxes_max,
            "sandboxes": len(self.sandboxes()),
            "calls": self.calls_running,
            "disk_free_bytes": self.workspaces.free_bytes(),
            "is_draining": self.held.is_draining or self._calls.is_stopping,
        }

    @property
    def calls_running(self) -> int:
        return len(self._calls)

    async def probe(self) -> Probe:
        """Whether a sandbox can be made here, tried at most every SANDBOX_PROBE_SECONDS."""
        async with self._probing:
            now = self._clock.monotonic()
            if self._probe is None or now - self._probe[0] > SANDBOX_PROBE_SECONDS:
                known, found = self._probe, await self._provider.probe()
                if not found.is_available and (known is None or known[1] != found):
                    _log.warning("no sandbox can be made here: %s. %s", found.report, found.remedy)
                self._probe = (now, found)
            return self._probe[1]

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
                return await self._journal.finish(
                    call.session_id, call.call_id, unknown, in_workspace=not call.is_outside
                )
            if not may_start:
                raise NeverStarted(call.call_id)
            self._calls.require_running()
            self.workspaces.require_space()
            self.workspaces.mounted.require(call.session_id, call.recipe.mounts)
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
