"""The fold: log -> State. Deterministic, no I/O; the same events always give the same state.

`fold(state, event)` changes the state it is given, because a long log is folded once and then event by
event. A brain folds what it is about to append into a fork, which it throws away if the append fails.

    idle ──status_running──> running ──status_idle──> idle
                              │    ▲
              status_rescheduled   status_running
                              ▼    │
                            rescheduling ──status_idle──> idle
    any ──status_terminated──> terminated
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from corral.catalog.memory.attach import memory_note
from corral.catalog.toolset import offers
from corral.kernel.ids import EnvironmentId, EventId, SessionId, ThreadId
from corral.session import events as ev
from corral.session.budget import BUDGET_REACHED, Budget, running_seconds
from corral.session.call import Placement
from corral.session.content import Block, Json
from corral.session.conversation import Entry, clear, compact, entry_weight, leave_out, shortened
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord, Status, ThreadRecord
from corral.session.tokens import Tokens, tokens_of_request

_BODIES_UNREAD: Mapping[str, type[ev.Event]] = {
    kind.TYPE: kind
    for kind in (
        ev.AgentMessage,
        ev.AgentThinking,
        ev.AgentThreadContextCompacted,
        ev.SessionStatusRunning,
        ev.SessionUsage,
        ev.SpanModelRequestStart,
    )
}
"""Types of whose events `fold` reads nothing but the id: of a long log, two fifths need not be parsed."""

_PAUSES = ("requires_action", BUDGET_REACHED["type"])
"""Stop reasons after which the same turn goes on."""

STATUS_AFTER: Mapping[str, Status] = {
    "session.status_running": "running",
    "session.status_rescheduled": "rescheduling",
    "session.status_idle": "idle",
    "session.status_terminated": "terminated",
    "session.thread_status_running": "running",
    "session.thread_status_rescheduled": "rescheduling",
    "session.thread_status_idle": "idle",
    "session.thread_status_terminated": "terminated",
}
"""The status that each status event leaves behind; the diagram above and in the docs is this table."""


@dataclass(kw_only=True, slots=True)
class PendingCall:
    """A tool use without a result. `epoch` and `placement`: who dispatched it, and where to.

    is_remote: a worker of the session's self-hosted environment runs it, and sends a user.tool_result.
    """

    call_id: EventId
    thread_id: ThreadId
    name: str
    input: Mapping[str, Json]
    is_custom: bool
    permission: Literal["allow", "ask", "deny"]
    model_tool_use_id: str
    placement: Placement | None
    epoch: int
    evaluation: Mapping[str, Json] | None = None
    confirmation: Literal["allow", "deny"] | None = None
    deny_message: str | None = None
    is_remote: bool = False

    @property
    def awaits_client(self) -> bool:
        return self.is_custom or self.awaits_worker or self.awaits_confirmation

    @property
    def awaits_confirmation(self) -> bool:
        return self.permission == "ask" and self.confirmation is None

    @property
    def awaits_worker(self) -> bool:
        """A worker may run it now; while it also awaits a confirmation, nobody may."""
        is_refused = self.permission == "deny" or self.confirmation == "deny"
        return self.is_remote and not self.awaits_confirmation and not is_refused


@dataclass(kw_only=True, slots=True)
class Thread:
    """One thread of a session, folded.

    skills:      of its agent, as the record of its session has them, and then of repositories.
    seeks_skills: its repositories may bring some, and nobody has looked yet; before its first request.
    wants_model: the conversation ends with something that the model has not answered.
    weight:      of all entries, as `conversation.weight` counts.
    measured_tokens, measured_weight: what the provider counted, reply included, when the entries weighed
                 so much; 0 if they were made shorter since.
    request:     a model request was started and has not ended; made under `request_epoch`.
    compacts:    that request asks for a summary; what is to become of the conversation then.
    compactions: summaries asked for since the model last said or called something.
    overflows:   requests since then that did not fit its window; overflow: what was said of the last one,
                 if nothing was made shorter since.
    failures:    failed attempts since the last reply; retry_after_seconds as the last one asked for.
    refusals:    requests since the last reply whose content the provider refused for good.
    rounds:      model replies since the turn began. A turn goes on while it waits for the client.
    tokens_before: of all earlier turns. worked_seconds: of this turn, without the time since working_since.
    tool_ids:    model's tool-use id by event id, for results still to come.
    memory_note: what its system prompt says of the session's memory stores, which are fixed at creation.
    """

    thread_id: ThreadId
    parent_thread_id: ThreadId | None
    agent: Mapping[str, Json]
    skills: tuple[Mapping[str, Json], ...] = ()
    seeks_skills: bool = False
    created_at: datetime
    memory_note: str | None = None
    status: Status = "idle"
    entries: list[Entry] = field(default_factory=list)
    weight: int = 0
    measured_tokens: int = 0
    measured_weight: int = 0
    wants_model: bool = False
    request: EventId | None = None
    request_epoch: int = 0
    compacts: Mapping[str, Json] | None = None
    compactions: int = 0
    overflows: int = 0
    overflow: str | None = None
    calls: dict[EventId, PendingCall] = field(default_factory=dict)
    failures: int = 0
    retry_after_seconds: float | None = None
    refusals: int = 0
    rounds: int = 0
    tokens_before: int = 0
    worked_seconds: float = 0.0
    working_since: datetime | None = None
    stop_reason: Mapping[str, Json] | None = None
    reply_stop_reason: str | None = None
    reply_stop_details: Mapping[str, Json] | None = None
    tokens: Tokens = field(default_factory=Tokens)
    has_been_idle: bool = False
    active_seconds: float = 0.0
    running_since: datetime | None = None
    updated_at: datetime | None = None

    def add(self, entry: Entry) -> None:
        """Something more was said."""
        self.entries.append(entry)
        self.weight += entry_weight(entry)

    def shorten(self, entries: list[Entry]) -> None:
        """The conversation is these entries from now on."""
        self.entries = entries
        self.weight = sum(map(entry_weight, entries))
        self.measured_tokens = self.measured_weight = 0
        self.overflow = None

    @property
    def model(self) -> str:
        return str(self.agent["model"]["id"])

    @property
    def turn_tokens(self) -> int:
        """Tokens of this turn's requests."""
        return self.tokens.total - self.tokens_before

    def turn_seconds(self, now: datetime) -> float:
        """How long this turn has worked: waiting for the client does not count."""
        if self.working_since is None:
            return self.worked_seconds
        return self.worked_seconds + (now - self.working_since).total_seconds()

    @property
    def is_paused(self) -> bool:
        """The reply ended with `pause_turn`: it goes on unchanged, so nothing may come behind it."""
        return self.wants_model and bool(self.entries) and self.entries[-1].role == "assistant"

    @property
    def awaits_budget(self) -> bool:
        """It is idle in the middle of a turn, until the session's budget is raised or removed."""
        return self.status == "idle" and self.wants_model and self.stopped_for(BUDGET_REACHED["type"])

    def stopped_for(self, *reasons: str) -> bool:
        """Whether it last went idle for one of these reasons."""
        return self.stop_reason is not None and self.stop_reason["type"] in reasons

    @property
    def blocked_on(self) -> list[EventId]:
        """Calls that wait for the client."""
        return [call.call_id for call in self.calls.values() if call.awaits_client]


@dataclass(kw_only=True, slots=True)
class State:
    """A session, folded up to `seq` and `arrival`. `last_at` is the last processed_at, or the creation.

    runtime_rate: micro-cents per hour of running, of its creation; None if that is not known.
    """

    session_id: SessionId
    primary_thread_id: ThreadId
    environment_id: EnvironmentId
    environment: Mapping[str, Json]
    status: Status
    threads: dict[ThreadId, Thread]
    inbox: dict[EventId, "Waiting"] = field(default_factory=dict)
    seq: int = 0
    arrival: int = 0
    last_at: datetime
    active_seconds: float = 0.0
    running_since: datetime | None = None
    blocked_on: list[EventId] = field(default_factory=list)
    stop_reason: str | None = None
    budget: Budget | None = None
    runtime_rate: Decimal | None = None
    failed_mounts: frozenset[str] = frozenset()
    """Since the session last went running: it goes on without them."""

    @property
    def primary(self) -> Thread:
        return self.threads[self.primary_thread_id]

    def fork(self) -> "State":
        """A copy to draft on: folding into it leaves this one as it is. Cheap: events are shared."""
        return replace(
            self,
            threads={
                thread_id: replace(
                    thread,
                    entries=list(thread.entries),
                    calls={call_id: replace(call) for call_id, call in thread.calls.items()},
                )
                for thread_id, thread in self.threads.items()
            },
            inbox=dict(self.inbox),
            blocked_on=list(self.blocked_on),
        )

    @property
    def chars(self) -> int:
        """About how much the conversations hold: what keeping this state costs in memory."""
        return sum(
            _chars(block)
            for thread in self.threads.values()
            for entry in thread.entries
            for block in entry.content
        )

    @property
    def is_self_hosted(self) -> bool:
        """Its tools run at workers of its environment, and never in a sandbox of ours."""
        return self.environment.get("type") == "self_hosted"

    @property
    def awaits_worker(self) -> bool:
        """Some call may be run by a worker now."""
        return any(call.awaits_worker for thread in self.threads.values() for call in thread.calls.values())

    def call(self, call_id: EventId) -> PendingCall | None:
        """The pending call of that id, in whichever thread."""
        return next((t.calls[call_id] for t in self.threads.values() if call_id in t.calls), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """An inbox entry, parsed."""

    arrival: int
    thread_id: ThreadId
    event: ev.Event
    private: Mapping[str, Json] | None = None


def _chars(value: Json) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_chars, value.values()))
    if isinstance(value, Sequence):
        return sum(map(_chars, value))
    return 1


def begin(record: SessionRecord) -> State:
    """The state before the first event. The agent and the budget come from the record, as they are by now:
    an older `session.updated` sets them back, and the last one to what they are."""
    threads = record.threads or (
        ThreadRecord(
            thread_id=record.primary_thread_id,
            agent=record.agent,
            created_at=record.created_at,
            updated_at=record.created_at,
        ),
    )
    noted = memory_note([resource.body for resource in record.resources])
    return State(
        session_id=record.session_id,
        primary_thread_id=record.primary_thread_id,
        environment_id=record.environment_id,
        environment=record.environment,
        status="idle",
        budget=record.budget,
        runtime_rate=record.runtime_rate,
        last_at=record.created_at,
        threads={
            thread.thread_id: Thread(
                thread_id=thread.thread_id,
                parent_thread_id=thread.parent_thread_id,
                agent=thread.agent,
                **_skills(record, thread),
                created_at=thread.created_at,
                memory_note=noted,
            )
            for thread in threads
        },
    )


def _skills(record: SessionRecord, thread: ThreadRecord) -> dict[str, Any]:
    if thread.thread_id != record.primary_thread_id:
        return {}
    has_repositories = any(resource.body["type"] == "github_repository" for resource in record.resources)
    return {
        "skills": tuple(record.skills),
        "seeks_skills": has_repositories and offers(thread.agent["tools"], "read"),
    }


def _tell_skills(thread: Thread, private: Mapping[str, Json]) -> None:
    """With its first request it is settled which skills a thread is told of: every later one says so."""
    if thread.seeks_skills:
        thread.seeks_skills = False
        thread.skills += tuple(private.get("skills", ()))


def receive(state: State, entry: InboxEntry) -> None:
    """Fold an inbox entry, read together with the log; one that was folded before is ignored.

    It may have arrived before an input that is in the log already: interrupts and confirmations overtake.
    """
    state.arrival = max(state.arrival, entry.arrival)
    if entry.event_id not in state.inbox:
        state.inbox[entry.event_id] = Waiting(
            arrival=entry.arrival,
            thread_id=entry.thread_id,
            event=ev.parse(entry.body),
            private=entry.private,
        )


def fold_stored(state: State, stored: StoredEvent) -> None:
    """Fold a stored event; one that was folded before is ignored."""
    if stored.seq <= state.seq:
        return
    assert stored.seq == state.seq + 1, f"gap in {state.session_id}: {stored.seq} after {state.seq}"
    is_moot = stored.private is not None and stored.private.get("moot")
    unread = ev.Event if is_moot else _BODIES_UNREAD.get(stored.type)
    fold(
        state,
        ev.parse(stored.body) if unread is None else ev.without_body(unread, stored.event_id),
        thread_id=stored.thread_id,
        at=stored.processed_at,
        private=stored.private,
        answers=stored.answers,
    )
    if stored.arrival is not None:
        state.arrival = max(state.arrival, stored.arrival)


def fold(
    state: State,
    event: ev.Event,
    *,
    thread_id: ThreadId,
    at: datetime,
    private: Mapping[str, Json] | None = None,
    answers: EventId | None = None,
) -> None:
    """Fold the next event of the log."""
    state.seq += 1
    state.last_at = at
    state.inbox.pop(event.id, None)
    thread = state.threads[thread_id]
    private = private or {}
    if "usage" in private and not isinstance(event, ev.SpanModelRequestEnd):
        thread.tokens = thread.tokens.plus(private["usage"])  # a tool of ours has cost something
    match event:
        case _ if private.get("moot"):
            pass  # an input that came too late: taken, without effect
        case ev.UserMessage(content=content):
            thread.add(Entry("user", tuple(content), state.seq))
            thread.wants_model = True
        case ev.SystemMessage(content=content):
            thread.add(Entry("system", tuple(content), state.seq))
        case ev.UserToolConfirmation():
            _confirm(thread, event, private)
        case ev.UserCustomToolResult() | ev.UserToolResult() | ev.AgentToolResult():
            if answers is not None:
                _settle(thread, answers, event.content or (), bool(event.is_error), state.seq)
        case ev.AgentToolUse() | ev.AgentCustomToolUse():
            thread.calls[event.id] = _pending(event, thread_id, private)
        case ev.SpanModelRequestStart():
            _begin_request(thread, event.id, private)
            _tell_skills(thread, private)
        case ev.SpanModelRequestEnd():
            _end_request(thread, event, private, state.seq)
        case ev.AgentThreadContextCompacted():
            _compact(thread, private)
        case ev.SessionError(error=error):
            if error["retry_status"]["type"] == "retrying" and str(error["type"]).startswith("model_"):
                thread.failures += 1
                thread.retry_after_seconds = private.get("retry_after_seconds")
            if failed_mount := private.get("failed_mount"):
                state.failed_mounts |= {failed_mount}
            if private.get("leaves_out"):
                thread.refusals += 1
                thread.shorten(leave_out(thread.entries, is_repeated=thread.refusals > 1))
        case ev.SessionUpdated(agent=agent, budget=budget):
            if agent is not None:
                state.primary.agent = agent
            if "budget" in event.model_fields_set:
                state.budget = budget
        case (
            ev.SessionStatusRunning()
            | ev.SessionStatusRescheduled()
            | ev.SessionStatusIdle()
            | ev.SessionStatusTerminated()
        ):
            _session_status(state, event, at)
        case (
            ev.SessionThreadStatusRunning()  # and its subclasses: rescheduled, terminated
            | ev.SessionThreadStatusIdle()
        ):
            _thread_status(state.threads[event.session_thread_id], event, at)
        case _:
            pass  # an event that changes nothing here, or a type from a newer version


def _pending(
    event: ev.AgentToolUse | ev.AgentCustomToolUse, thread_id: ThreadId, private: Mapping[str, Json]
) -> PendingCall:
    is_custom = isinstance(event, ev.AgentCustomToolUse)
    permission = "allow" if isinstance(event, ev.AgentCustomToolUse) else event.evaluated_permission
    return PendingCall(
        call_id=event.id,
        thread_id=thread_id,
        name=event.name,
        input=event.input,
        is_custom=is_custom,
        permission=permission or "allow",
        model_tool_use_id=private["model_tool_use_id"],
        placement=_placement(private),
        epoch=int(private.get("epoch", 0)),
        evaluation=None if isinstance(event, ev.AgentCustomToolUse) else event.evaluation,
        is_remote=bool(private.get("remote")),
    )


def _placement(private: Mapping[str, Json]) -> Placement | None:
    placement = private.get("placement")
    return None if placement is None else Placement(**placement)


def _confirm(thread: Thread, event: ev.UserToolConfirmation, private: Mapping[str, Json]) -> None:
    call = thread.calls.get(event.tool_use_id)
    if call is not None and call.confirmation is None:
        call.confirmation = event.result
        call.deny_message = event.deny_message
        call.placement = _placement(private)
        call.epoch = int(private.get("epoch", 0))


def _settle(thread: Thread, call_id: EventId, content: Sequence[Block], is_error: bool, seq: int) -> None:
    call = thread.calls.pop(call_id, None)
    if call is None:
        return
    result: dict[str, Json] = {
        "type": "tool_result",
        "tool_use_id": call.model_tool_use_id,
        "content": list(content),
    }
    if is_error:
        result["is_error"] = True
    thread.add(Entry("user", (result,), seq))
    thread.wants_model = True


def _begin_request(thread: Thread, request: EventId, private: Mapping[str, Json]) -> None:
    """A request may begin with a shorter conversation, or be there to make it shorter."""
    thread.request, thread.request_epoch = request, int(private.get("epoch", 0))
    thread.compacts = private.get("compacts")
    clears = private.get("clears")
    if clears is not None:
        thread.shorten(
            clear(thread.entries, through=clears["through"], block_bytes=clears.get("block_bytes"))
        )


def _compact(thread: Thread, private: Mapping[str, Json]) -> None:
    if "summary" in private:
        thread.shorten(
            compact(
                thread.entries,
                summary=shortened(private["summary"], private["summary_bytes"], private["through"]),
                through=private["through"],
                task_bytes=private["task_bytes"],
                block_bytes=private["block_bytes"],
            )
        )


def _end_request(
    thread: Thread, event: ev.SpanModelRequestEnd, private: Mapping[str, Json], seq: int
) -> None:
    was_for_summary, thread.request, thread.compacts = thread.compacts is not None, None, None
    if event.is_error:
        if private.get("overflow"):
            _overflow(thread, private["overflow"])
            thread.compactions += was_for_summary
        return
    thread.failures, thread.retry_after_seconds, thread.refusals = 0, None, 0
    usage = private.get("usage", {})
    thread.tokens = thread.tokens.plus(usage)
    if was_for_summary:
        thread.compactions += 1
        return
    thread.rounds += 1
    stop_reason = private.get("stop_reason")
    thread.reply_stop_reason = stop_reason
    thread.reply_stop_details = private.get("stop_details")
    content = tuple(private.get("content", ()))
    if stop_reason != "tool_use":
        # A call in a reply that did not stop for it is never executed, so it may not be in the
        # conversation either: a tool use without a result is refused by every provider.
        content = tuple(block for block in content if block["type"] != "tool_use")
    # Providers write text blocks without any text, and refuse a conversation that holds one.
    content = tuple(block for block in content if block["type"] != "text" or block["text"].strip())
    if content and stop_reason != "refusal":  # a refused reply in the context makes the next one refuse
        thread.add(Entry("assistant", content, seq))
    thread.wants_model = stop_reason == "pause_turn"
    counted = private.get("reply_tokens")  # without what judges of its calls took
    thread.measured_tokens = tokens_of_request(usage) if counted is None else int(counted)
    thread.measured_weight = thread.weight
    if stop_reason == "model_context_window_exceeded":
        # It had no room to say all of it: what it said is kept, and it goes on.
        _overflow(thread, "The model's reply outgrew its context window.")
        thread.wants_model = True
    elif content:
        thread.compactions, thread.overflows, thread.overflow = 0, 0, None


def _overflow(thread: Thread, said: str) -> None:
    thread.overflows += 1
    thread.overflow = said


def _session_status(state: State, event: ev.Event, at: datetime) -> None:
    state.status = STATUS_AFTER[event.type]
    state.blocked_on, state.stop_reason = [], None
    if state.status == "running":
        state.failed_mounts = frozenset()
    if isinstance(event, ev.SessionStatusIdle):
        state.blocked_on = list(event.stop_reason.get("event_ids", ()))
        state.stop_reason = event.stop_reason["type"]
    state.active_seconds, state.running_since = _tick(
        state.active_seconds, state.running_since, state.status, at
    )


def _thread_status(thread: Thread, event: ev.Event, at: datetime) -> None:
    was, thread.status = thread.status, STATUS_AFTER[event.type]
    thread.updated_at = at
    if was == "idle" and thread.status == "running" and not thread.stopped_for(*_PAUSES):
        thread.rounds, thread.worked_seconds, thread.tokens_before = 0, 0.0, thread.tokens.total
    if thread.status in ("running", "rescheduling"):
        thread.working_since = thread.working_since or at
    elif thread.working_since is not None:
        thread.worked_seconds += (at - thread.working_since).total_seconds()
        thread.working_since = None
    if isinstance(event, ev.SessionThreadStatusIdle):
        thread.stop_reason = event.stop_reason
        thread.has_been_idle = True
        thread.failures, thread.retry_after_seconds = 0, None
        if event.stop_reason["type"] not in _PAUSES:
            thread.compactions, thread.overflows, thread.overflow = 0, 0, None
            thread.wants_model = False
    thread.active_seconds, thread.running_since = _tick(
        thread.active_seconds, thread.running_since, thread.status, at
    )


def _tick(
    active_seconds: float, running_since: datetime | None, status: Status, at: datetime
) -> tuple[float, datetime | None]:
    if status == "running":
        return active_seconds, running_since or at
    return running_seconds(active_seconds, running_since, at), None
