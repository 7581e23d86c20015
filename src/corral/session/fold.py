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
from datetime import datetime

from corral.catalog.mcp.servers import uses_mcp
from corral.kernel.ids import EventId, ThreadId
from corral.session import events as ev
from corral.session.budget import BUDGET_REACHED, running_seconds
from corral.session.call import Placement
from corral.session.content import Block, Json
from corral.session.conversation import Entry, clear, compact, leave_out, shortened
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import Status
from corral.session.state import PendingCall, State, Thread, Waiting
from corral.session.tokens import tokens_of_request

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
        case (
            ev.UserCustomToolResult() | ev.UserToolResult() | ev.AgentToolResult() | ev.AgentMcpToolResult()
        ):
            if answers is not None:
                _settle(thread, answers, event.content or (), bool(event.is_error), state.seq)
        case ev.AgentToolUse() | ev.AgentCustomToolUse():
            thread.calls[event.id] = _pending(event, thread_id, private)
        case ev.SpanModelRequestStart():
            _begin_request(thread, event.id, private)
            _tell_skills(thread, private)
            _tell_tools(thread, private)
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
            if private.get("needed_mount"):
                state.needed_failures += 1
            if server := error.get("mcp_server_name"):
                state.failed_servers |= {server}
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
        mcp_server=event.mcp_server_name if isinstance(event, ev.AgentMcpToolUse) else None,
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


def _tell_skills(thread: Thread, private: Mapping[str, Json]) -> None:
    """With its first request it is settled which skills a thread is told of: every later one says so.
    Unless nobody knew yet: then a later one settles it, and from there on prompts begin anew."""
    if not thread.seeks_skills:
        return
    told = tuple(private.get("skills", ()))
    if told and thread.is_told_later:
        thread.measured_tokens = thread.measured_weight = 0  # it was without them
    thread.skills += told
    thread.seeks_skills = thread.is_told_later = bool(private.get("skills_later"))


def _tell_tools(thread: Thread, private: Mapping[str, Json]) -> None:
    """The first request since the session went running settles what all MCP servers list, later ones what
    has changed there. Only news are in the log; from there on prompts begin anew."""
    thread.seeks_tools = False
    if news := private.get("mcp"):
        thread.mcp = {**thread.mcp, **news}
        thread.measured_tokens = thread.measured_weight = 0


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
    was, state.status = state.status, STATUS_AFTER[event.type]
    state.blocked_on, state.stop_reason = [], None
    if was == "idle" and state.status == "running":  # and not after a pause within a turn
        state.failed_mounts, state.needed_failures = frozenset(), 0
        state.failed_servers = frozenset()
    if isinstance(event, ev.SessionStatusIdle):
        state.blocked_on = list(event.stop_reason.get("event_ids", ()))
        state.stop_reason = event.stop_reason["type"]
    state.active_seconds, state.running_since = _tick(
        state.active_seconds, state.running_since, state.status, at
    )


def _thread_status(thread: Thread, event: ev.Event, at: datetime) -> None:
    was, thread.status = thread.status, STATUS_AFTER[event.type]
    thread.updated_at = at
    if was == "idle" and thread.status == "running":
        thread.seeks_tools = uses_mcp(thread.agent)
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
