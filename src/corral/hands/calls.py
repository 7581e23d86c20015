"""The calls on their way in a hands host: each a task, from before its first await to after its last fsync.

Rules of this file:
- A call belongs to the host, not to the request that brought it: a client that vanishes changes nothing.
- Once a call acts, nothing but its sandbox ends it; what it came to is durable before anybody hears of it.
"""

import asyncio
from collections.abc import Sequence, Set
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal

from corral.hands.journal import Journal
from corral.hands.lifecycle import Sandboxes
from corral.hands.news import NEWS_KEPT, SANDBOX_STOPPED
from corral.hands.ports import Connector, Sandbox, SandboxLost, Web
from corral.hands.spill import Spill
from corral.hands.wire import decode_result, encode_result
from corral.kernel.crash import crash_point
from corral.kernel.errors import HandsUnavailable, SandboxUnavailable, WorldError
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import CANCEL_GRACE_SECONDS, HANDS_DRAIN_SECONDS, TOOL_RESULT_BYTES_MAX
from corral.session.call import INTERRUPTED, ToolCall
from corral.session.content import ToolResult

__all__ = ["Call", "Calls"]


@dataclass(kw_only=True, slots=True, eq=False)
class Call:
    """A call on its way.

    new:     its task has not run yet; cancelling that would skip its clean-up, so it looks for itself.
    waiting: for its sandbox or place, and its `started`; its task may be cancelled, nothing happened yet.
    acting:  in `sandbox`, or outside. ending: its result is being recorded; nothing may disturb that.
    """

    call: ToolCall
    done: "asyncio.Future[bytes]"
    task: "asyncio.Task[None] | None" = None
    stage: Literal["new", "waiting", "acting", "ending"] = "new"
    sandbox: Sandbox | Web | Connector | None = None
    is_interrupted: bool = False
    is_settled: bool = False
    told: bool | None = None  # as `Journal.finish`
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class Calls:
    """Those of one host."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        journal: Journal,
        sandboxes: Sandboxes,
        spill: Spill,
        web: Web | None = None,
        mcp: Connector | None = None,
    ) -> None:
        self._tasks = tasks
        self._journal = journal
        self._sandboxes = sandboxes
        self._spill = spill
        self._web = web
        self._mcp = mcp
        self._calls: dict[EventId, Call] = {}
        self.is_stopping = False

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call_id: EventId) -> Call | None:
        return self._calls.get(call_id)

    def sessions(self) -> Set[SessionId]:
        """Those that have a call on its way."""
        return {running.call.session_id for running in self._calls.values()}

    def require_running(self) -> None:
        """Raises HandsUnavailable once the host stops."""
        if self.is_stopping:
            raise HandsUnavailable("the hands host is stopping")

    def settle(self, call_ids: Sequence[EventId]) -> None:
        """As `Journal.settle`; a call that is on its way is settled at its end."""
        for call_id in call_ids:
            if running := self._calls.get(call_id):
                running.is_settled = True
        self._journal.settle([call_id for call_id in call_ids if call_id not in self._calls])

    def begin(self, call: ToolCall) -> Call:
        """Start a call that the journal does not know; `done` will hold its encoded result, or raise."""
        running = Call(call=call, done=asyncio.get_running_loop().create_future())
        self._calls[call.call_id] = running
        running.task = self._tasks.create_task(self._carry_out(running))
        return running

    async def interrupt(self, session_id: SessionId, call_ids: Sequence[EventId] | None = None) -> None:
        """Kill these calls of the session, or all, within CANCEL_GRACE_SECONDS: half of that politely, the
        rest with their sandbox, and what even then does not come back is given up on."""
        calls = [
            running
            for call_id, running in self._calls.items()
            if running.call.session_id == session_id and (call_ids is None or call_id in call_ids)
        ]
        async with asyncio.TaskGroup() as asking:
            for running in calls:
                if running.stage == "waiting" and running.task and not running.is_interrupted:
                    running.task.cancel()
                running.is_interrupted = True
                asking.create_task(_ask_to_stop(running))
        if stubborn := [running for running in calls if running.stage == "acting"]:
            if any(not running.call.is_outside for running in stubborn):
                self._tasks.create_task(self._sandboxes.destroy(session_id))
            await self._wait_for(stubborn, seconds=CANCEL_GRACE_SECONDS / 4)
            for running in stubborn:
                if running.stage == "acting" and running.task:
                    running.task.cancel()
        await self._wait_for(calls, seconds=CANCEL_GRACE_SECONDS)

    async def stop(self) -> None:
        """As `HandsHost.stop`."""
        self.is_stopping = True
        await self._wait_for(list(self._calls.values()), seconds=HANDS_DRAIN_SECONDS)
        for running in self._calls.values():
            if running.stage == "waiting" and running.task:
                running.task.cancel()
        for running in list(self._calls.values()):
            if running.stage == "acting" and running.call.is_outside and running.sandbox:
                await running.sandbox.cancel(running.call.call_id)
        await self._sandboxes.destroy_all()
        await self._wait_for(list(self._calls.values()), seconds=CANCEL_GRACE_SECONDS)

    # -- one call -----------------------------------------------------------------------------------

    async def _carry_out(self, running: Call) -> None:
        """Bring a call to its durable result, or to the error that kept it from starting."""
        call = running.call
        try:
            outcome = await self._run(running)
            running.stage = "ending"
            result = _encode_bounded(outcome)
            crash_point("hands.before_result")
            result = await self._journal.finish(
                call.session_id,
                call.call_id,
                result,
                told=running.told,
                in_workspace=not call.is_outside,
            )
            crash_point("hands.after_result")
            running.done.set_result(result)
        except Exception as error:
            # The boundary of a call: ours or the provider's bug ends this call, not the host. Whoever asks
            # again learns from the journal that it never started, or that its outcome is unknown.
            running.done.set_exception(error)
            running.done.exception()  # it may be that nobody is there to see it
        finally:
            del self._calls[call.call_id]
            if not running.done.done():  # cancelled with the whole host
                running.done.set_exception(HandsUnavailable("the hands host is stopping"))
                running.done.exception()
            running.finished.set()
            if running.is_settled:
                self._journal.settle([call.call_id])

    async def _run(self, running: Call) -> ToolResult:
        call = running.call
        if running.is_interrupted:
            return ToolResult.text(INTERRUPTED, is_error=True)
        self.require_running()
        running.stage = "waiting"
        try:
            if call.is_outside:
                return await self._reach_out(running)
            async with self._sandboxes.use(call.session_id, recipe=call.recipe) as sandbox:
                crash_point("hands.before_started")
                await self._look_for_news(call.session_id)
                kept = await self._journal.start(call.session_id, call.call_id)
                if kept is not None:  # cancelled in the moment that it came
                    return decode_result(kept)
                crash_point("hands.after_started")
                running.stage, running.sandbox = "acting", sandbox
                return await self._act(running, sandbox)
        except SandboxLost:
            running.told = None if running.is_interrupted else False
            return ToolResult.text(
                INTERRUPTED if running.is_interrupted else SANDBOX_STOPPED, is_error=True
            )
        except asyncio.CancelledError:
            if running.is_interrupted:
                return ToolResult.text(INTERRUPTED, is_error=True)
            if self.is_stopping and running.stage == "waiting":
                raise HandsUnavailable("the hands host is stopping") from None
            raise

    async def _reach_out(self, running: Call) -> ToolResult:
        """A call of a web tool, or of one of an MCP server: the session's sandbox is not made for it, and
        takes no notice."""
        call = running.call
        outside = self._web if call.mcp is None else self._mcp
        place: AbstractAsyncContextManager[None] = nullcontext()
        if call.mcp is None and self._web is not None:
            place = self._web.place(call.session_id)
        if outside is None:
            what = "web tools" if call.mcp is None else "connections to MCP servers"
            return ToolResult.text(f"unavailable: this host has no {what}", is_error=True)
        # Who waits for a place has not started: if the host dies meanwhile, the call may be run again.
        async with place:
            crash_point("hands.before_started")
            kept = await self._journal.start(call.session_id, call.call_id, in_workspace=False)
            if kept is not None:  # cancelled in the moment that it came
                return decode_result(kept)
            crash_point("hands.after_started")
            running.stage, running.sandbox = "acting", outside
            try:
                result = await outside.run(call)
            except SandboxUnavailable as error:
                return ToolResult.text(f"unavailable: {error.message}", is_error=True)
        return await self._spill.shortened(call, result)

    async def _act(self, running: Call, sandbox: Sandbox) -> ToolResult:
        session_id = running.call.session_id
        news = self._sandboxes.news(session_id)
        if not news:
            return await sandbox.run(running.call)
        self._sandboxes.set_news(session_id, "")  # this call tells it, and no other
        try:
            result = await sandbox.run(running.call)
        finally:
            if running.is_interrupted:  # its result is a documented sentence and no more
                self._sandboxes.set_news(session_id, news)
        if running.is_interrupted:
            return result
        running.told = True
        return ToolResult(
            content=({"type": "text", "text": news}, *result.content), is_error=result.is_error
        )

    async def _look_for_news(self, session_id: SessionId) -> None:
        """What the model must be told of a fresh sandbox; before its first call counts as one."""
        if self._sandboxes.news(session_id) is None:
            held = await self._journal.held.rows(session_id)
            news = "" if not held else held[0].news or (NEWS_KEPT if held[0].had else "")
            news += self._sandboxes.place(session_id)
            if self._sandboxes.news(session_id) is None:  # no other call was faster
                self._sandboxes.set_news(session_id, news)

    async def _wait_for(self, calls: Sequence[Call], *, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for running in calls:
                    await running.finished.wait()


async def _ask_to_stop(running: Call) -> None:
    # What became of the call is seen at the call, so a failure to ask is not news.
    with suppress(WorldError, TimeoutError):
        async with asyncio.timeout(CANCEL_GRACE_SECONDS / 2):
            if running.stage == "acting" and running.sandbox:
                await running.sandbox.cancel(running.call.call_id)
            await running.finished.wait()


def _encode_bounded(result: ToolResult) -> bytes:
    data = encode_result(result)
    if len(data) > TOOL_RESULT_BYTES_MAX:
        text = f"The tool finished, but its result is larger than {TOOL_RESULT_BYTES_MAX >> 20} MiB."
        data = encode_result(ToolResult.text(text, is_error=True))
    return data
