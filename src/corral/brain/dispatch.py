"""From a pending call to its one true result: the brain's side of at-most-once.

A call goes out only with a logged placement. A connection that breaks says nothing about the call, so it
is attached to until the host answers; a host that stays away makes the outcome unknown, in those words. A
request that we gave up on may still arrive: who says that a call did not run keeps it from starting first.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress

from corral.brain.mcp import list_tools, server_of
from corral.brain.ports import Hands, Mounts, NeverStarted, NoMounts
from corral.brain.variables import Variables
from corral.brain.web import rules_of
from corral.catalog.mcp.names import model_name
from corral.catalog.mcp.servers import McpCall, McpTools, opened_endpoints
from corral.kernel.errors import (
    CallerError,
    HandsUnavailable,
    LeaseLost,
    NotFound,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    CANCEL_GRACE_SECONDS,
    HANDS_AWAY_SECONDS_MAX,
    HANDS_CONNECT_SECONDS,
    HANDS_PATIENCE_SECONDS,
    HANDS_RETRY_SECONDS,
    HANDS_RETRY_SECONDS_MAX,
    MOUNT_ROUNDS_MAX,
    RESTORE_EPOCH_STEP,
)
from corral.kernel.metrics import count, observe
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.session.log import NewEvent
from corral.session.mounts import MountFailed, MountsMissing
from corral.session.resources import Resource
from corral.session.state import PendingCall, State, Thread

OUTCOME_UNKNOWN = (
    "The machine that ran this tool call cannot be reached, so its outcome is unknown: it may have"
    " happened, in part or in full. Check before you repeat it."
)
RESTORED = (
    "This session was restored from a backup that may be older than the answer to this tool call, so its"
    " outcome is unknown: it may have happened, in part or in full. Check before you repeat it."
)
NO_SANDBOX = "No sandbox could be started, so this tool call did not run. {reason}"


class Dispatch:
    """Shared by all loops of a brain."""

    def __init__(
        self, hands: Hands, mounts: Mounts | None = None, variables: Variables | None = None
    ) -> None:
        """mounts: None where nothing is mounted. variables: None where nothing has a vault."""
        self._hands = hands
        self._variables = variables
        self._mounts = mounts or NoMounts()
        self._background: set[asyncio.Task[None]] = set()

    async def placement(self, session_id: SessionId, *, patience_seconds: float) -> Placement | None:
        """Where calls logged now will go; None if no host is found in time."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        while True:
            try:
                return await self._hands.placement(session_id)
            except HandsUnavailable:
                waited = clock() - asked_at
                if waited > patience_seconds:
                    return None
                # A host that restarts is back soon; to wait longer for one is a question to the store each.
                is_soon = waited < HANDS_PATIENCE_SECONDS
                await asyncio.sleep(HANDS_RETRY_SECONDS if is_soon else HANDS_RETRY_SECONDS_MAX)

    def learn(self, session_id: SessionId, resources: Sequence[Resource], *, asked_at: float) -> None:
        """As `Mounts.learn`."""
        self._mounts.learn(session_id, resources, asked_at=asked_at)

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        """Fence older brains off the session's hands. A host that is away has nothing to fence."""
        try:
            await self._hands.announce(session_id, epoch=epoch)
        except HandsUnavailable:
            return

    async def list_tools(
        self, state: State, thread: Thread, *, epoch: int, only_changed: bool
    ) -> tuple[McpTools, ...]:
        """As `mcp.list_tools`."""
        return await list_tools(self._hands, state, thread, epoch=epoch, only_changed=only_changed)

    async def run(
        self, state: State, pending: PendingCall, *, epoch: int, attach: bool, stop: asyncio.Event
    ) -> ToolResult:
        """Run or join the call. `stop`: kill it; its result then says it was interrupted.

        Raises MountFailed before it has started: run it again once the log says so; NotFound,
        StoreUnavailable.
        """
        assert pending.placement is not None
        web, server = rules_of(state, pending), server_of(state, pending)
        is_outside = web is not None or server is not None
        call = ToolCall(
            session_id=state.session_id,
            thread_id=pending.thread_id,
            call_id=pending.call_id,
            name=pending.name if server is None else model_name(server.name, pending.name),
            input=pending.input,
            recipe=Recipe(environment=state.environment) if is_outside else await self._recipe(state),
            placement=pending.placement,
            web=web,
            mcp=None if server is None else McpCall(server=server, tool=pending.name),
        )
        asked_at = asyncio.get_running_loop().time()
        is_restored = epoch - pending.epoch >= RESTORE_EPOCH_STEP
        running = asyncio.ensure_future(
            self._until_answered(call, epoch=epoch, attach=attach, stop=stop, is_restored=is_restored)
        )
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._cancel(call, epoch=epoch)
                await asyncio.wait({running}, timeout=2 * CANCEL_GRACE_SECONDS)
            unknown = ToolResult.text(OUTCOME_UNKNOWN, is_error=True)
            result = running.result() if running.done() else unknown
            result = await self._mounts.after(call, result)
            count("tool_calls", outcome="error" if result.is_error else "ok")
            observe("tool_seconds", asyncio.get_running_loop().time() - asked_at)
            return result
        finally:
            running.cancel()
            stopping.cancel()

    async def _until_answered(
        self,
        call: ToolCall,
        *,
        epoch: int,
        attach: bool,
        stop: asyncio.Event,
        is_restored: bool = False,
    ) -> ToolResult:
        """is_restored: the intent is in a backup, which may be older than the answer; its host forgets
        answered calls after a while, so it cannot know that the call never started."""
        clock = asyncio.get_running_loop().time
        away_since: float | None = None
        rounds = 0
        is_lost = is_refused = False  # lost: a request of ours may still be on its way
        while True:
            asked_at = clock()
            try:
                if attach:
                    try:
                        return await self._hands.attach(call, epoch=epoch)
                    except NeverStarted:
                        if is_restored:
                            return ToolResult.text(RESTORED, is_error=True)
                        if stop.is_set() or is_refused:
                            return await self._forbid(call, epoch=epoch)
                await self._mounts.before(call, epoch=epoch)
                try:
                    return await self._hands.execute(call, epoch=epoch)
                except MountsMissing as error:
                    rounds += 1
                    if not await self._bring(call, error.missing, epoch=epoch, rounds=rounds, stop=stop):
                        return await self._forbid(call, epoch=epoch)
            except HandsUnavailable:
                attach = is_lost = True  # it may have started: only its host can say
                if clock() - asked_at > 2 * HANDS_CONNECT_SECONDS:  # more than attach and execute, refused
                    away_since = None  # it took the call, and was there until just now
                away_since = away_since or clock()
                if clock() - away_since > HANDS_AWAY_SECONDS_MAX:
                    return ToolResult.text(OUTCOME_UNKNOWN, is_error=True)
                await asyncio.sleep(HANDS_RETRY_SECONDS)
            except SandboxUnavailable as error:
                if not is_lost:
                    return ToolResult.text(NO_SANDBOX.format(reason=error.message), is_error=True)
                is_refused = True
            except CallerError as error:
                return ToolResult.text(f"This tool call was refused: {error.message}", is_error=True)

    async def _bring(
        self, call: ToolCall, missing: Sequence[str], *, epoch: int, rounds: int, stop: asyncio.Event
    ) -> bool:
        """Whether the call may be tried again now; False: it is stopped. Raises as `Mounts.bring`."""
        mounts = [mount for mount in call.recipe.mounts if mount.mount_id in missing]
        if rounds > MOUNT_ROUNDS_MAX or not mounts:
            ids = ", ".join(missing)
            raise MountFailed.unknown(
                "What is mounted does not stay on the session's host.", mount_id=missing[0], detail=ids
            )
        bringing = asyncio.ensure_future(self._mounts.bring(call.session_id, mounts, epoch=epoch))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({bringing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if bringing.done():
                bringing.result()
            return not stop.is_set()
        finally:
            bringing.cancel()
            stopping.cancel()

    async def _recipe(self, state: State) -> Recipe:
        """With all that is mounted, but what has failed since the session last went running. Raises
        MountFailed, NotFound, StoreUnavailable."""
        agent = {**state.primary.agent, "skills": state.primary.skills}
        mounts = await self._mounts.of(state.session_id, agent, state.environment)
        return Recipe(
            environment=state.environment,
            mounts=tuple(mount for mount in mounts if mount.mount_id not in state.failed_mounts),
            variables=await self._variables.of(state) if self._variables is not None else {},
            mcp_endpoints=opened_endpoints(agent, state.environment),
        )

    async def _forbid(self, call: ToolCall, *, epoch: int) -> ToolResult:
        """Keep a call from starting that has not, and return what its host knows of it then."""
        await self._hands.cancel(call.session_id, epoch=epoch, call_ids=[call.call_id])
        try:
            return await self._hands.attach(call, epoch=epoch)
        except NeverStarted:  # its session is on another host by now
            return ToolResult.text(INTERRUPTED, is_error=True)

    async def _cancel(self, call: ToolCall, *, epoch: int) -> None:
        try:
            await self._hands.cancel(call.session_id, epoch=epoch, call_ids=[call.call_id])
        except HandsUnavailable:
            return  # its host is gone, and the call with it

    def provision(self, state: State, *, epoch: int) -> None:
        """Warm a sandbox up, in the background; a hint."""

        async def warm_up() -> None:
            recipe = await self._recipe(state)
            await self._hands.provision(state.session_id, epoch=epoch, recipe=recipe)
            if recipe.mounts:
                await self._mounts.warm(state.session_id, recipe, epoch=epoch)

        self._hint(warm_up())

    def settled(self, session_id: SessionId, events: Sequence[NewEvent], *, epoch: int) -> None:
        """These results are in the log; the journal may forget them, and what was answered although it may
        still be running is killed. In the background; a hint."""
        answers = [new for new in events if new.answers is not None]
        if answers:
            left = [new for new in answers if new.private is not None and new.private.get("left")]
            self._hint(self._settle(session_id, _calls(answers), left=_calls(left), epoch=epoch))

    def left_behind(self, session_id: SessionId, call_ids: Sequence[EventId], *, epoch: int) -> None:
        """These calls were answered for a turn that nobody could go on with: what still runs of them is
        killed, and the journal may forget them. In the background; a hint."""
        if call_ids:
            self._hint(self._settle(session_id, call_ids, left=call_ids, epoch=epoch))

    async def _settle(
        self, session_id: SessionId, call_ids: Sequence[EventId], *, left: Sequence[EventId], epoch: int
    ) -> None:
        if left:
            await self._hands.cancel(session_id, epoch=epoch, call_ids=left)
        await self._hands.settle(session_id, call_ids=call_ids)

    def _hint(self, hint: Coroutine[None, None, None]) -> None:
        async def give() -> None:
            with suppress(WorldError, LeaseLost, NotFound):  # it was deleted
                await hint

        task = asyncio.create_task(give())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def aclose(self) -> None:
        """Drop the hints that are still on their way."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)


def _calls(answers: Sequence[NewEvent]) -> list[EventId]:
    return [new.answers for new in answers if new.answers is not None]
