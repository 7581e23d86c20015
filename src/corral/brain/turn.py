"""What the log calls for next, as events. Pure: folded state, inbox and completions in, a draft out.

Per thread, in this order: what finished is written down; an interrupt is applied once nothing of the
thread is in flight any more; a request that died with an earlier brain is closed; confirmations and
messages are taken; and then the thread asks the model, waits for its calls, or goes idle.

The order of events is the hosted one. Source: API docs, events "A hosted turn, as observed", "Order within
a turn", "Interrupts", "Requires action".
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from corral.brain import ending, policy, window
from corral.brain.actions import (
    Aborted,
    Action,
    AskModel,
    Completion,
    Failed,
    Ran,
    Replied,
    Sought,
    Unmounted,
    Waited,
)
from corral.brain.context import fixed_weight
from corral.brain.decide import is_interrupted, left_running, of_thread
from corral.brain.derive import is_at_cap
from corral.brain.derive import usage as session_usage
from corral.brain.draft import Draft
from corral.brain.ending import Ending, TurnLimits
from corral.brain.mcp import news_of
from corral.brain.ports import ModelFailed, Usage
from corral.brain.reply import model_usage, write_reply, write_summary
from corral.catalog.models import ModelTable
from corral.kernel import limits
from corral.kernel.ids import EVENT, EventId, ThreadId, derived
from corral.session import events as ev
from corral.session.budget import BUDGET_REACHED
from corral.session.call import INTERRUPTED, Placement
from corral.session.content import Block, Json, text_block
from corral.session.state import PendingCall, Thread, Waiting

DENIED = "Tool call was rejected by the user."
JUDGED_RISKY = (
    "This tool call was not run: it was judged to be high risk. Find another way, or tell the user what you"
    " wanted to do and why."
)
NOT_JUDGED = "This tool call was not run: whether it may run could not be judged."
LEAVES_OUT = "What was sent since its last reply is left out of later requests."
NO_HANDS = "No hands host was available, so this tool call was not started. Try again in a moment."

END_TURN: Mapping[str, Json] = {"type": "end_turn"}
RETRIES_EXHAUSTED: Mapping[str, Json] = {"type": "retries_exhausted"}

_FLUSHED = (ev.UserMessage, ev.SystemMessage, ev.UserToolConfirmation, ev.UserInterrupt)

_ERROR_TYPES: Mapping[str, str] = {
    "overloaded": "model_overloaded_error",
    "rate_limited": "model_rate_limited_error",
    "request_failed": "model_request_failed_error",
    "billing": "billing_error",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a turn is decided under.

    epoch:     of the lease that the append will carry.
    placement: where a call confirmed now will go; None if no hands host could be found.
    failures:  of the session, when the lease was granted.
    starts_requests: False while the session is handed over: no message is taken, no request begun.
    has_search: as for `policy.offered`.
    """

    epoch: int
    placement: Placement | None
    models: ModelTable
    limits: TurnLimits = field(default_factory=TurnLimits)
    failures: int = 0
    starts_requests: bool = True
    has_search: bool = False


def advance(
    draft: Draft, terms: Terms, *, completions: Sequence[Completion], in_flight: frozenset[Action]
) -> None:
    """Write everything that is due. `in_flight` no longer holds the completed actions."""
    for completion in completions:
        _finish(draft, terms, completion)
    for thread in list(draft.state.threads.values()):
        _Thread(draft, terms, thread).advance(
            is_busy=bool(of_thread(draft.state, thread.thread_id, in_flight))
        )


# -- what finished -----------------------------------------------------------------------------------


def _finish(draft: Draft, terms: Terms, completion: Completion) -> None:
    match completion:
        case Ran(action=action, result=result):
            call = draft.state.call(action.call_id)
            if call is not None:
                private = None if result.is_error else _used(call, terms.models)
                if result.trouble is not None:
                    _tell_of_server(draft, call.thread_id, result.trouble)
                _answer(draft, call, result.content, is_error=result.is_error, private=private)
        case Unmounted(needed_failures=int()):
            _lack(draft, completion)
        case Unmounted(action=action, mount_id=mount_id, error=error):
            call = draft.state.call(action.call_id)
            if mount_id not in draft.state.failed_mounts:
                draft.add(
                    ev.SessionError,
                    draft.state.primary_thread_id if call is None else call.thread_id,
                    private={"failed_mount": mount_id},
                    error={**error, "retry_status": {"type": "retrying"}},
                )
        case Sought(action=action, skills=skills, listings=listings):
            draft.sought[action.thread_id] = skills
            draft.listings[action.thread_id] = listings
        case Waited(action=action):
            thread = draft.state.threads[action.thread_id]
            if thread.status == "rescheduling":
                _Thread(draft, terms, thread).run()
        case Aborted(action=AskModel() as action):
            _Thread(draft, terms, draft.state.threads[action.thread_id]).lose_request(action.request)
        case Replied(action=action) if draft.state.threads[action.thread_id].request == action.request:
            if draft.state.threads[action.thread_id].compacts is not None:
                write_summary(draft, completion, models=terms.models)
            else:
                write_reply(draft, completion, epoch=terms.epoch, models=terms.models)
        case Failed(action=action, error=error):
            thread = draft.state.threads[action.thread_id]
            if thread.request == action.request:
                _Thread(draft, terms, thread).fail(error)
        case _:
            pass  # an aborted backoff, or an answer to a request that was closed already


def _lack(draft: Draft, completion: Unmounted) -> None:
    """A mount that the session needs failed. Calls side by side find the same failure: it is said once. The
    last one is the end of the turn (`advance`), for which its calls are answered."""
    state = draft.state
    call = state.call(completion.action.call_id)
    if call is None:
        return
    is_over = state.needed_failures >= limits.MOUNT_FAILURES_MAX
    if completion.needed_failures == state.needed_failures and not is_over:
        is_over = state.needed_failures + 1 == limits.MOUNT_FAILURES_MAX
        draft.add(
            ev.SessionError,
            call.thread_id,
            private={"needed_mount": completion.mount_id},
            error={**completion.error, "retry_status": {"type": "exhausted" if is_over else "retrying"}},
        )
    if is_over:
        _answer_for(draft, call, ending.NEVER_RAN)


def _used(call: PendingCall, models: ModelTable) -> Mapping[str, Json] | None:
    """What a call that did its work counts for; one that failed is free, and so is every fetch."""
    if call.own_tool != "web_search":
        return None
    return {"usage": {"web_search_requests": 1, "cost_microcents": str(models.search_cost(1))}}


def _answer(
    draft: Draft,
    call: PendingCall,
    content: Sequence[Block],
    *,
    is_error: bool,
    private: Mapping[str, Json] | None = None,
) -> None:
    of_mcp = call.mcp_server is not None
    draft.add(
        ev.AgentMcpToolResult if of_mcp else ev.AgentToolResult,
        call.thread_id,
        private=private,
        answers=call.call_id,
        content=list(content),
        is_error=is_error,
        **{"mcp_tool_use_id" if of_mcp else "tool_use_id": call.call_id},
    )


def _tell_of_server(draft: Draft, thread_id: ThreadId, error: Mapping[str, Json]) -> None:
    """An MCP server failed: that is said once, until the session goes running; then it is tried again."""
    if error["mcp_server_name"] not in draft.state.failed_servers:
        draft.add(ev.SessionError, thread_id, error={**error, "retry_status": {"type": "retrying"}})


def _answer_for(draft: Draft, call: PendingCall, text: str, *, is_left: bool = False) -> None:
    """A synthetic error result: its id is a function of the call, so that it cannot exist twice.
    is_left: the call may still be running."""
    of_mcp = call.mcp_server is not None
    # A worker that reads the log would run the call if it had another answer than one of its own kind.
    of_sandbox = ev.UserToolResult if call.is_remote else ev.AgentToolResult
    draft.add(
        ev.AgentMcpToolResult if of_mcp else of_sandbox,
        call.thread_id,
        event_id=EventId(derived(EVENT, "result", call.call_id)),
        private={"left": True} if is_left else None,
        answers=call.call_id,
        content=[text_block(text)],
        is_error=True,
        **{"mcp_tool_use_id" if of_mcp else "tool_use_id": call.call_id},
    )


# -- what is due ---------------------------------------------------------------------------------------


class _Thread:
    """One thread being advanced."""

    def __init__(self, draft: Draft, terms: Terms, thread: Thread) -> None:
        self.draft = draft
        self.terms = terms
        self.thread = thread
        self.thread_id = thread.thread_id

    def advance(self, *, is_busy: bool) -> None:
        thread = self.thread
        poison = ending.of_poison(self.draft.state, thread, failures=self.terms.failures)
        if poison is not None:
            self._end(poison)
            return
        if is_interrupted(self.draft.state, self.thread_id):
            if is_busy or left_running(thread, epoch=self.terms.epoch):
                return  # `decide` stops what is in flight; its completions come first
            if self._waiting(ev.UserMessage) and not self.terms.starts_requests:
                return  # else the session would be idle with a message that nobody takes
            self._interrupt()
        late = ending.of_time(thread, self.terms.limits, now=self.draft.now())
        if late is not None:
            if not is_busy and not left_running(thread, epoch=self.terms.epoch):
                self._end(late)
            return
        if thread.request is not None and thread.request_epoch != self.terms.epoch:
            self.lose_request(thread.request)
        if thread.request is not None or thread.status in ("rescheduling", "terminated"):
            return
        self._take_confirmations()
        self._answer_refused_calls()
        is_left = bool(left_running(thread, epoch=self.terms.epoch))
        if thread.status == "running" and not (is_busy or is_left) and self._is_stuck():
            return
        if thread.calls:
            self._wait_for_calls(is_busy=is_busy)
            return
        if (thread.wants_model or self._waiting(ev.UserMessage)) and not self.terms.starts_requests:
            return
        if not thread.is_paused:
            self._take_messages()
        if thread.awaits_budget and self._is_at_cap():
            return
        if thread.wants_model and thread.status == "idle":
            self.run()
        if thread.status != "running":
            return
        if not thread.wants_model:
            self._idle(*self._ended())
        elif self._is_at_cap():
            self._idle(BUDGET_REACHED)
        elif (large := ending.of_size(thread, self.terms.limits)) is not None:
            self._give_up(large.error_type, large.message)
        elif not thread.seeks or self.thread_id in self.draft.sought:
            self._ask()

    def _is_stuck(self) -> bool:
        """End a turn whose calls cannot be run, before any of them is; whether that is so."""
        lacks = ending.lacks(self.draft.state)
        wrong = ending.of_settings(self.draft.state, self.thread)
        if not lacks and wrong is None:
            return False
        for call in list(self.thread.calls.values()):
            _answer_for(self.draft, call, ending.NEVER_RAN)
        if lacks or wrong is None:
            self._stop()  # as has been said
        else:
            self._give_up(wrong.error_type, wrong.message)
        return True

    def _ask(self) -> None:
        """Announce the next model request: for a summary, if the conversation outgrows the window."""
        info = self.terms.models.resolve(self.thread.model)
        listings = self.draft.listings.get(self.thread_id, ())
        for listing in listings:
            if listing.error is not None:
                _tell_of_server(self.draft, self.thread_id, listing.error)
        news = news_of(self.thread, listings)
        try:
            plan = window.plan(self.thread, info, lambda: self._fixed_weight(news))
        except window.TooLong:
            too_long = ending.of_window(self.thread)
            self._give_up(too_long.error_type, too_long.message)
            return
        private = {"epoch": self.terms.epoch, **plan, **self._sought()}
        if news:
            private["mcp"] = news
        self.draft.add(ev.SpanModelRequestStart, self.thread_id, private=private)

    def _fixed_weight(self, news: Mapping[str, Json]) -> int:
        return fixed_weight(
            replace(self.thread, mcp={**self.thread.mcp, **news}),
            is_self_hosted=self.draft.state.is_self_hosted,
            has_search=self.terms.has_search,
        )

    def _is_at_cap(self) -> bool:
        """The gate before each model request. What is in flight when it closes goes on."""
        return is_at_cap(self.draft.state, self.terms.models, at=self.draft.now())

    def _sought(self) -> dict[str, Json]:
        """What the request is the first to be told of, for the log."""
        if not self.thread.seeks_skills:
            return {}
        skills = self.draft.sought[self.thread_id]
        if skills is None:
            return {"skills_later": True}
        return {"skills": list(skills)} if skills else {}

    def run(self) -> None:
        """idle or rescheduling -> running."""
        if self.draft.state.status != "running":
            self.draft.add(ev.SessionStatusRunning, self.thread_id)
        self.draft.add(ev.SessionThreadStatusRunning, self.thread_id, **self._naming())

    def lose_request(self, request: EventId, private: Mapping[str, Json] | None = None) -> None:
        """Close a request without a reply: interrupted, lost with its brain, failed."""
        if self.thread.request == request:
            self.draft.add(
                ev.SpanModelRequestEnd,
                self.thread_id,
                private=private,
                is_error=True,
                model_request_start_id=request,
                model_usage=model_usage(Usage()),
            )

    def fail(self, error: ModelFailed) -> None:
        """A failed attempt: try again later, visibly, or end the turn."""
        assert self.thread.request is not None
        if error.failure == "context_overflow":  # the next request is a shorter one
            self.lose_request(self.thread.request, {"overflow": error.message})
            return
        self.lose_request(self.thread.request)
        asked = error.retry_after_seconds or 0.0
        attempts = self.thread.failures + 1
        if (
            not error.retryable
            or attempts >= limits.MODEL_ATTEMPTS_MAX
            or asked > limits.MODEL_RETRY_AFTER_SECONDS_MAX
        ):
            if error.is_refused:
                self._give_up(
                    _ERROR_TYPES[error.failure], f"{error.message} {LEAVES_OUT}", {"leaves_out": True}
                )
            else:
                self._give_up(_ERROR_TYPES[error.failure], error.message)
            return
        self._error(
            _ERROR_TYPES[error.failure],
            error.message,
            retry="retrying",
            private={"retry_after_seconds": error.retry_after_seconds},
        )
        self.draft.add(ev.SessionStatusRescheduled, self.thread_id)
        self.draft.add(ev.SessionThreadStatusRescheduled, self.thread_id, **self._naming())

    def _end(self, why: Ending) -> None:
        """End the turn here and now. What became of calls that were sent out is not known."""
        is_fresh = self.thread.status == "idle" and not self.thread.calls
        if self.thread.request is not None:
            self.lose_request(self.thread.request)
        for call in list(self.thread.calls.values()):
            was_sent = call.placement is not None and not call.awaits_client
            said = ending.LEFT_BEHIND if was_sent or call.awaits_worker else ending.NEVER_RAN
            _answer_for(self.draft, call, said, is_left=was_sent)
        if is_fresh:
            self.run()
        self._give_up(why.error_type, why.message)

    def _interrupt(self) -> None:
        thread, kill = self.thread, ending.of_kill(self.draft.state, self.thread_id)
        was_working = thread.status != "idle" or bool(thread.calls) or thread.awaits_budget
        if thread.request is not None:
            self.lose_request(thread.request)
        for call in list(thread.calls.values()):
            _answer_for(self.draft, call, INTERRUPTED)
        for waiting in self._waiting(ev.UserInterrupt):
            self.draft.take(waiting)
        if kill is not None and (was_working or self._waiting(ev.UserMessage)):
            if not was_working:
                self.run()
            self._give_up(kill.error_type, kill.message)
        elif was_working:
            self._idle(END_TURN)

    def _take_confirmations(self) -> None:
        confirmations = self._waiting(ev.UserToolConfirmation)
        if not confirmations:
            return
        released = {
            confirmation.tool_use_id
            for confirmation in (waiting.event for waiting in confirmations)
            if isinstance(confirmation, ev.UserToolConfirmation)
            and not (confirmation.result == "allow" and self._is_remote(confirmation.tool_use_id))
        }
        if self.thread.status == "idle" and not set(self.thread.blocked_on) - released:
            self.run()
        placement = self.terms.placement
        for waiting in confirmations:
            self.draft.take(
                waiting,
                private={
                    "epoch": self.terms.epoch,
                    "placement": None if placement is None else asdict(placement),
                },
            )

    def _is_remote(self, call_id: EventId) -> bool:
        """Whether, once allowed, it waits for a worker."""
        call = self.thread.calls.get(call_id)
        return call is not None and call.is_remote

    def _answer_refused_calls(self) -> None:
        for call in list(self.thread.calls.values()):
            if call.awaits_client:
                continue
            if call.permission == "deny":
                refusal = policy.refusal(call)
                if call.evaluation is not None:
                    refusal = JUDGED_RISKY if policy.is_risky(call.evaluation) else NOT_JUDGED
                _answer_for(self.draft, call, refusal)
            elif call.confirmation == "deny":
                _answer_for(self.draft, call, " ".join(filter(None, (DENIED, call.deny_message))))
            elif call.placement is None:
                _answer_for(self.draft, call, NO_HANDS)

    def _wait_for_calls(self, *, is_busy: bool) -> None:
        """Calls are open: some run, or all that are left wait for the client."""
        thread, blocked_on = self.thread, self.thread.blocked_on
        waiting: Mapping[str, Json] = {"type": "requires_action", "event_ids": blocked_on}
        if thread.status == "idle":
            if not blocked_on:
                self.run()  # confirmed earlier; the last answer was a custom tool's result
            elif thread.stop_reason != waiting:
                self._idle(waiting)  # a partial answer: what is left
        elif not is_busy and len(blocked_on) == len(thread.calls):
            self._idle(waiting)

    def _take_messages(self) -> None:
        messages = self._waiting(ev.UserMessage, ev.SystemMessage)
        if self.thread.status == "idle" and any(isinstance(m.event, ev.UserMessage) for m in messages):
            self.run()
        for waiting in messages:
            self.draft.take(waiting)

    def _ended(self) -> tuple[Mapping[str, Json], Mapping[str, Json] | None]:
        """Stop reason and details of a turn that the model ended."""
        if self.thread.reply_stop_reason != "refusal":
            return END_TURN, None
        details = self.thread.reply_stop_details or {}
        return {"type": "refusal"}, {
            "type": "refusal",
            "category": details.get("category"),
            "explanation": details.get("explanation"),
        }

    def _give_up(self, error_type: str, message: str, private: Mapping[str, Json] | None = None) -> None:
        """The turn is dead: say why, flush what is queued, go idle."""
        self._error(error_type, message, retry="exhausted", private=private)
        self._stop()

    def _stop(self) -> None:
        """The turn is dead, and why has been said."""
        for waiting in self._waiting(*_FLUSHED):
            self.draft.take(waiting, private={"moot": True})
        self._idle(RETRIES_EXHAUSTED)

    def _error(
        self,
        error_type: str,
        message: str,
        *,
        retry: Literal["retrying", "exhausted"],
        private: Mapping[str, Json] | None = None,
    ) -> None:
        self.draft.add(
            ev.SessionError,
            self.thread_id,
            private=private,
            error={"type": error_type, "message": message, "retry_status": {"type": retry}},
        )

    def _idle(
        self, stop_reason: Mapping[str, Json], stop_details: Mapping[str, Json] | None = None
    ) -> None:
        """running -> idle; the session follows when no other thread works."""
        draft, state = self.draft, self.draft.state
        stop: dict[str, Json] = {"stop_reason": stop_reason, "stop_details": stop_details}
        draft.add(ev.SessionThreadStatusIdle, self.thread_id, **self._naming(), **stop)
        if any(thread.status in ("running", "rescheduling") for thread in state.threads.values()):
            return
        budget: dict[str, Json] = {} if state.budget is None else {"budget": state.budget}
        draft.add(
            ev.SessionUsage,
            self.thread_id,
            usage=session_usage(state, self.terms.models, at=draft.now()),
            **budget,
        )
        draft.add(ev.SessionStatusIdle, self.thread_id, **stop)

    def _naming(self) -> dict[str, Json]:
        return {"session_thread_id": self.thread_id, "agent_name": self.thread.agent["name"]}

    def _waiting(self, *kinds: type[ev.Event]) -> list[Waiting]:
        """This thread's queued inputs of these kinds, by arrival."""
        primary = self.draft.state.primary_thread_id
        return sorted(
            (
                waiting
                for waiting in self.draft.state.inbox.values()
                if isinstance(waiting.event, kinds) and (waiting.thread_id or primary) == self.thread_id
            ),
            key=lambda waiting: waiting.arrival,
        )
