"""The harness loop of one session: fold, write down what is due, start what belongs in flight, wait.

Rules of this file:
* Append first, act after. An effect starts only when the event that announces it is committed.
* An append that is refused as Stale throws the draft away; completions in hand are kept and written on
  top of the news. LeaseLost ends the loop: it aborts its own model requests and touches no tool.
* A holder that was stopped for a while cannot know that it was: right before each append, model request and
  dispatch it looks at the clock, which went on, and if it may not trust its lease any more it does nothing.
* Everything in flight is a task of this loop's group; nothing outlives it but the tools, whose calls
  another brain attaches to by id.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from corral.brain.actions import (
    Aborted,
    Action,
    AskModel,
    Backoff,
    Completion,
    Failed,
    Ran,
    Replied,
    RunTool,
    Seek,
    Sought,
    Stop,
    Unmounted,
    Waited,
)
from corral.brain.context import build
from corral.brain.decide import decide
from corral.brain.derive import derive
from corral.brain.dispatch import Dispatch
from corral.brain.draft import Draft
from corral.brain.ending import TurnLimits, out_of_time, seconds_left
from corral.brain.fair import FairSlots
from corral.brain.judge import Judge, NoJudge, judge_calls
from corral.brain.own_log import read_own_log
from corral.brain.ports import BlockStarted, Model, ModelFailed, ModelReply, RepositorySkills
from corral.brain.preview import Previews
from corral.brain.turn import Terms, advance
from corral.brain.web import Misses, refuse_unseen
from corral.catalog.mcp.names import is_mcp_name
from corral.catalog.mcp.servers import McpTools, uses_mcp
from corral.catalog.models import ModelTable
from corral.catalog.toolset import SANDBOX_TOOLS
from corral.catalog.web.settings import WEB_TOOLS
from corral.kernel.clock import Clock
from corral.kernel.crash import crash_point
from corral.kernel.errors import LeaseLost, Stale
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import (
    FOLD_EVENTS_AT_ONCE,
    HANDS_AWAY_SECONDS_MAX,
    HANDS_PATIENCE_SECONDS,
    LEASE_TRUST_SECONDS,
    LOOK_AGAIN_SECONDS,
    MODEL_BACKOFF_SECONDS,
    MODEL_BACKOFF_SECONDS_MAX,
    MODEL_REQUESTS_MAX,
    SESSION_FAILURES_MAX,
    TURN_OVER_SECONDS,
)
from corral.session.bus import Bus
from corral.session.content import Json
from corral.session.events import AgentMcpToolResult, AgentToolResult, UserToolConfirmation
from corral.session.fold import fold_stored, receive
from corral.session.lease import Claim, Lease
from corral.session.log import Append, SessionLog, Snapshot
from corral.session.mounts import MountFailed
from corral.session.state import State, Thread, begin

WARM_UP = frozenset({"thinking", "redacted_thinking", "tool_use"})
"""Blocks whose beginning says that a sandbox may be needed soon: it boots while the model goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gear:
    """What every loop of a brain shares. `owner` names this incarnation of the brain's process."""

    owner: str
    claim: Callable[[SessionId], Awaitable[Lease | None]]
    log: SessionLog
    bus: Bus
    model: Model
    models: ModelTable
    dispatch: Dispatch
    clock: Clock
    ids: Ids
    judge: Judge = field(default_factory=NoJudge)
    repository_skills: RepositorySkills | None = None
    has_search: bool = False
    limits: TurnLimits = field(default_factory=TurnLimits)
    missed_urls: Misses = field(default_factory=Misses)
    slots: FairSlots = field(default_factory=lambda: FairSlots(MODEL_REQUESTS_MAX))


class Loop:
    """Runs one session until it has nothing to do, its lease is lost, or it is told to hand over.

    `lease` is the one held now: since `held_since`, trusted until `trusted_until` (the event loop's time;
    renewed by the worker); whether it `got_on` under it. The first append claims it, unless an earlier
    brain left work in flight: then `claim` asks for it before anything else.
    """

    def __init__(self, session_id: SessionId, gear: Gear) -> None:
        self.session_id = session_id
        self.lease: Lease | None = None
        self.trusted_until = 0.0
        self.held_since, self.got_on = 0.0, False
        self.wants_claim = False  # `run` did nothing: only the sweep may begin with this session
        self._gear = gear
        self._state: State | None = None
        self._stored_epoch = 0
        self._written_epoch = 0  # in which the threads' columns are known to repeat the fold
        self._failures = 0  # of the session, as of the lease
        self._key: str | None = None
        self._tasks: dict[Action, asyncio.Task[Completion]] = {}
        self._stops: dict[Action, asyncio.Event] = {}
        self._news = asyncio.Event()
        self._is_handing_over = False

    # -- from outside ----------------------------------------------------------------------------------

    def notice(self) -> None:
        """Something arrived for this session."""
        self._news.set()

    @property
    def has_news(self) -> bool:
        """Whether something arrived that `run` has not looked at."""
        return self._news.is_set()

    def hold(self, lease: Lease, *, asked_at: float) -> None:
        """This lease was claimed for it. A lease is trusted from when it was asked for, and for less time
        than the store gives it."""
        self.lease = lease
        self.held_since, self.got_on = asked_at, False
        self.trusted_until = asked_at + LEASE_TRUST_SECONDS

    def trusts(self, epoch: int) -> bool:
        """Whether this loop may still act under that epoch."""
        now = asyncio.get_running_loop().time()
        return self.lease is not None and self.lease.epoch == epoch and now < self.trusted_until

    @property
    def rests_at(self) -> tuple[int, int] | None:
        """The last seq and arrival that it has folded, if it found nothing to do there."""
        state = self._state
        if state is None or self._is_handing_over or state.status in ("running", "rescheduling"):
            return None
        return state.seq, state.arrival

    @property
    def failures(self) -> int:
        """Of the session, as far as it is known here; 0 once it got on."""
        return max(self._failures, self.lease.failures if self.lease and self._state is None else 0)

    @property
    def chars(self) -> int:
        """About how much memory the folded state takes; see `State.chars`."""
        return self._state.chars if self._state else 0

    def hand_over(self) -> None:
        """Start nothing more; write down what ends soon, then leave the rest to the next brain."""
        self._is_handing_over = True
        self._news.set()

    # -- the loop --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises LeaseLost when another brain owns the session."""
        try:
            state = await self._wake()
            while state is not None:
                finished = self._collect()
                while (written := await self._write(state, finished)) is None:
                    state = await self._fold_news()
                state = self._state = written
                if self._is_done(state):
                    return
                self._start(state)
                if await self._wait():
                    state = await self._fold_news()
        finally:
            await self._abandon()

    async def _wake(self) -> State | None:
        """The state to go on from. None: others have failed at this session, so a hint is not enough; the
        sweep claims it first, which is how a failure here would be known."""
        snapshot = await self._read()
        self.wants_claim = self.lease is None and snapshot.record.failures > 0
        if self.wants_claim:
            return None
        state = await self._fold(snapshot)
        if state.status in ("running", "rescheduling"):
            if self.lease is None:
                asked_at = asyncio.get_running_loop().time()
                lease = await self._gear.claim(self.session_id)
                if lease is None:
                    raise LeaseLost(f"another brain runs {self.session_id}")
                self.hold(lease, asked_at=asked_at)
                state = await self._fold_news()
            calls = [call for thread in state.threads.values() for call in thread.calls.values()]
            if state.is_self_hosted:
                calls = [call for call in calls if call.placement is not None]
            if calls and self._failures < SESSION_FAILURES_MAX:
                assert self.lease is not None
                await self._gear.dispatch.announce(self.session_id, epoch=self.lease.epoch)
        return state

    async def _fold_news(self) -> State:
        """The state with everything that is in the store by now."""
        return await self._fold(await self._read())

    async def _read(self) -> Snapshot:
        self._news.clear()
        after_seq = self._state.seq if self._state else 0
        asked_at = asyncio.get_running_loop().time()
        snapshot = await self._gear.log.snapshot(self.session_id, after_seq=after_seq)
        resources = snapshot.record.resources
        self._gear.dispatch.learn(self.session_id, resources, asked_at=asked_at)
        return snapshot

    async def _fold(self, snapshot: Snapshot) -> State:
        record = snapshot.record
        self._stored_epoch, self._failures, self._key = record.epoch, record.failures, record.api_key_id
        state = self._state = self._state or begin(record)
        for number, stored in enumerate(snapshot.events, start=1):
            fold_stored(state, stored)
            if number % FOLD_EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)  # a long log takes a second: the other sessions have turns too
        for entry in snapshot.inbox:
            receive(state, entry)
        return state

    def _collect(self) -> list[Completion]:
        """What has ended since the last time."""
        ended = [action for action, task in self._tasks.items() if task.done()]
        finished: list[Completion] = []
        for action in ended:
            task = self._tasks.pop(action)
            self._stops.pop(action)
            finished.append(Aborted(action=action) if task.cancelled() else task.result())
        return finished

    async def _write(self, state: State, finished: Sequence[Completion]) -> State | None:
        """Append what is due; returns the state after it. None: the log moved, fold the news first."""
        gear, asked_at = self._gear, asyncio.get_running_loop().time()
        lease = self.lease or Claim(
            session_id=self.session_id, owner=gear.owner, epoch=self._stored_epoch + 1
        )
        confirmed = [w.event for w in state.inbox.values() if isinstance(w.event, UserToolConfirmation)]
        calls = [state.call(event.tool_use_id) for event in confirmed]
        terms = Terms(
            epoch=lease.epoch,
            placement=await gear.dispatch.placement(
                self.session_id, patience_seconds=HANDS_PATIENCE_SECONDS
            )
            if any(call is not None and not call.is_remote for call in calls)
            else None,
            models=gear.models,
            limits=gear.limits,
            failures=self._failures,
            starts_requests=not self._is_handing_over,
            has_search=gear.has_search,
        )
        draft = Draft(state, clock=gear.clock, ids=gear.ids)
        advance(draft, terms, completions=finished, in_flight=frozenset(self._tasks))
        if not draft.events:
            return state
        after = draft.state
        is_working = after.status in ("running", "rescheduling")
        append = Append(
            session_id=self.session_id,
            lease=lease,
            seen_seq=state.seq,
            seen_arrival=state.arrival,
            events=draft.events,
            consumes=draft.consumes,
            derived=derive(
                after,
                gear.models,
                needs_brain=is_working,
                before=state if self._written_epoch == lease.epoch else None,
            ),
            releases=not is_working,
            gets_on=any(isinstance(completion, Replied | Ran) for completion in finished),
            work_for=after.environment_id if after.awaits_worker else None,
        )
        crash_point("brain.before_append")
        if self.lease is not None:
            self._require_trust(lease.epoch)
        try:
            await gear.log.append(append)
        except Stale:
            return None
        crash_point("brain.after_append")
        self._stored_epoch = self._written_epoch = lease.epoch
        if self.lease is None:
            taken = Lease(session_id=self.session_id, owner=gear.owner, epoch=lease.epoch)
            self.hold(taken, asked_at=asked_at)
        if append.releases:
            self.lease = None
        if append.gets_on:
            self._failures, self.got_on = 0, True
        if not after.is_self_hosted or any(
            isinstance(n.event, AgentToolResult | AgentMcpToolResult) for n in draft.events
        ):
            gear.dispatch.settled(self.session_id, draft.events, epoch=lease.epoch)
        return after

    def _require_trust(self, epoch: int) -> None:
        if not self.trusts(epoch):
            raise LeaseLost(f"{self.session_id}: epoch {epoch} was not renewed in time")

    def _is_done(self, state: State) -> bool:
        if self._is_handing_over:  # a model request is waited for, a tool is left to the next brain
            return not any(isinstance(action, AskModel) for action in self._tasks)
        return state.status not in ("running", "rescheduling") and not self._tasks

    def _start(self, state: State) -> None:
        """Start what should be in flight, stop what is in the way of an end."""
        if self.lease is None or self._is_handing_over:
            return
        epoch = self.lease.epoch
        self._require_trust(epoch)
        late = out_of_time(state, self._gear.limits, now=self._gear.clock.now())
        actions = decide(state, epoch=epoch, in_flight=frozenset(self._tasks), ending=late)
        for action in sorted(actions, key=lambda action: isinstance(action, Stop)):
            if isinstance(action, Stop):
                self._stops[action.action].set()
                if not isinstance(action.action, RunTool):
                    self._tasks[action.action].cancel()
            else:
                self._stops[action] = asyncio.Event()
                self._tasks[action] = asyncio.create_task(self._perform(state, action, epoch=epoch))

    async def _wait(self) -> bool:
        """Until an action ends or something arrives; True if the store is worth a look."""
        news = asyncio.create_task(self._news.wait())
        try:
            done, _ = await asyncio.wait(
                {news, *self._tasks.values()},
                timeout=self._look_again_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            return not done or self._news.is_set()
        finally:
            news.cancel()

    def _look_again_seconds(self) -> float:
        """Sooner than usual if a turn runs out of time before; not again and again while it is stopped."""
        assert self._state is not None
        left = seconds_left(self._state, self._gear.limits, now=self._gear.clock.now())
        return min(LOOK_AGAIN_SECONDS, left + TURN_OVER_SECONDS) if left else LOOK_AGAIN_SECONDS

    async def _abandon(self) -> None:
        """End what is in flight here. Tools go on: the next brain attaches to them."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._stops.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what can be in flight ---------------------------------------------------------------------------

    async def _perform(self, state: State, action: Action, *, epoch: int) -> Completion:
        self._require_trust(epoch)  # a moment may have passed since the task was made
        match action:
            case AskModel():
                return await self._ask_model(state, action, epoch=epoch)
            case RunTool(call_id=call_id, attach=attach):
                call = state.call(call_id)
                assert call is not None
                crash_point("brain.before_tool")
                try:
                    result = await read_own_log(self._gear.log, state, call)
                    result = result or await refuse_unseen(
                        self._gear.log, state, call, self._gear.missed_urls
                    )
                    result = result or await self._gear.dispatch.run(
                        state, call, epoch=epoch, attach=attach, stop=self._stops[action]
                    )
                except MountFailed as failed:
                    return Unmounted(
                        action=action,
                        mount_id=failed.mount_id,
                        error=failed.error,
                        needed_failures=state.needed_failures if failed.is_needed else None,
                    )
                crash_point("brain.after_tool")
                return Ran(action=action, result=result)
            case Seek():
                return await self._seek(state, action, epoch=epoch)
            case Backoff(thread_id=thread_id):
                await asyncio.sleep(backoff_seconds(state.threads[thread_id]))
                return Waited(action=action)

    async def _seek(self, state: State, action: Seek, *, epoch: int) -> Sought:
        thread, look = state.threads[action.thread_id], self._gear.repository_skills

        async def skills() -> Sequence[Mapping[str, Json]] | None:
            if look is None or not thread.seeks_skills:
                return ()
            return await look.of(self.session_id, waits=action.waits)

        async def listings() -> tuple[McpTools, ...]:
            if not uses_mcp(thread.agent):
                return ()
            return await self._gear.dispatch.list_tools(
                state, thread, epoch=epoch, only_changed=not thread.seeks_tools
            )

        found, listed = await asyncio.gather(skills(), listings())
        return Sought(action=action, skills=None if found is None else tuple(found), listings=listed)

    async def _ask_model(self, state: State, action: AskModel, *, epoch: int) -> Completion:
        gear, thread = self._gear, state.threads[action.thread_id]
        request = build(
            self.session_id,
            thread,
            gear.models.resolve(thread.model),
            is_self_hosted=state.is_self_hosted,
            has_search=gear.has_search,
        )
        previews = Previews(
            bus=gear.bus, ids=gear.ids, session_id=self.session_id, thread_id=thread.thread_id
        )
        is_shown = thread.compacts is None  # a summary is for the model alone
        has_hands = not state.is_self_hosted
        warms_up = is_shown and has_hands and any(tool["name"] in SANDBOX_TOOLS for tool in request.tools)
        crash_point("brain.before_model")
        try:
            async with (
                gear.slots.slot(self._key),
                aclosing(gear.model.stream(request)) as stream,  # type: ignore[type-var]  # a generator
            ):
                self._require_trust(epoch)  # nothing is asked before the first look into the stream
                async for event in stream:
                    self._require_trust(epoch)
                    if isinstance(event, ModelReply):
                        reply = event
                        break
                    if is_shown:
                        previews.see(event)
                    if warms_up and isinstance(event, BlockStarted) and event.type in WARM_UP:
                        gear.dispatch.provision(state, epoch=epoch)
                        warms_up = False
                else:
                    raise AssertionError(f"the model of {thread.model!r} ended its stream without a reply")
        except ModelFailed as error:
            return Failed(action=action, error=error)
        crash_point("brain.after_model")
        has_calls = is_shown and reply.stop_reason == "tool_use"
        async with gear.slots.slot(self._key):
            judgements = await judge_calls(gear.judge, self.session_id, thread, reply) if has_calls else {}
        return Replied(
            action=action,
            reply=reply,
            message_ids=previews.message_ids,
            judgements=judgements,
            placement=await gear.dispatch.placement(
                self.session_id, patience_seconds=HANDS_AWAY_SECONDS_MAX
            )
            if has_calls and (has_hands or _goes_out(reply))
            else None,
        )


def _goes_out(reply: ModelReply) -> bool:
    """Whether it calls a web tool, or one of an MCP server: wherever the session's sandbox is, those run
    here."""
    return any(
        block["type"] == "tool_use" and (block["name"] in WEB_TOOLS or is_mcp_name(block["name"]))
        for block in reply.content
    )


def backoff_seconds(thread: Thread) -> float:
    """Exponential with full jitter on its upper half, never shorter than the provider asked for."""
    backoff = min(MODEL_BACKOFF_SECONDS * 2.0 ** (thread.failures - 1), MODEL_BACKOFF_SECONDS_MAX)
    return max(backoff * random.uniform(0.5, 1.0), thread.retry_after_seconds or 0.0)
