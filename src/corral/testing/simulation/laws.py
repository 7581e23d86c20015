"""What must be true of a log, whatever happened on the way to it.

Each law is a function that yields a sentence per violation. `check` runs all of them over a world at rest.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import orjson

from corral.brain.derive import cost, derive
from corral.brain.dispatch import NO_SANDBOX, OUTCOME_UNKNOWN
from corral.brain.ending import NEVER_RAN
from corral.brain.turn import DENIED, NO_HANDS
from corral.catalog.models import ModelTable
from corral.hands.news import OUTCOME_UNKNOWN as HOST_OUTCOME_UNKNOWN
from corral.hands.news import SANDBOX_STOPPED
from corral.kernel.ids import EventId, SessionId
from corral.session.budget import cap, running_cost
from corral.session.call import INTERRUPTED
from corral.session.closing import LEFT_BEHIND
from corral.session.fold import fold_stored
from corral.session.log import Append, StoredEvent
from corral.session.state import begin
from corral.testing.simulation.actors import FIRST_BUDGET
from corral.testing.simulation.world import World

__all__ = ["LAWS", "check"]

Law = Callable[[World, SessionId, Sequence[StoredEvent]], Iterator[str]]

_NOT_RUN = (
    NO_HANDS,
    NO_SANDBOX.split("{", 1)[0],
    DENIED,
    NEVER_RAN,
    "This tool call was refused",
    "The tool '",
)
_UNKNOWN = (OUTCOME_UNKNOWN, HOST_OUTCOME_UNKNOWN, SANDBOX_STOPPED)


def check(world: World, session_id: SessionId, last: Append | None, models: ModelTable) -> list[str]:
    """The violations of a world whose session is at rest."""
    log = world.oracle.sessions[session_id].log
    found = [text for law in LAWS for text in law(world, session_id, log)]
    if last is not None:
        found += _derived_columns_repeat_the_fold(world, session_id, last, models)
    return found


def is_gap_free(world: World, session_id: SessionId, log: Sequence[StoredEvent]) -> Iterator[str]:
    if [event.seq for event in log] != list(range(1, len(log) + 1)):
        yield "the log has gaps"
    if len({event.event_id for event in log}) != len(log):
        yield "an event is in the log twice"
    for earlier, later in pairwise(log):
        if earlier.processed_at >= later.processed_at:
            yield f"processed_at does not increase at {later.seq}"


def nothing_accepted_is_missing(
    world: World, session_id: SessionId, log: Sequence[StoredEvent]
) -> Iterator[str]:
    there = {event.event_id for event in log}
    for event_id in world.ledger.acknowledged:
        if event_id not in there:
            yield f"{event_id} was acknowledged and is not in the log"
    sent = set(world.ledger.sent)
    for event in log:
        if event.type.startswith(("user.", "system.")) and event.event_id not in sent:
            yield f"nobody sent {event.event_id}"


def epochs_grow(world: World, session_id: SessionId, log: Sequence[StoredEvent]) -> Iterator[str]:
    """A zombie writes nothing: what a brain appended is never behind what a later one did."""
    epochs = [epoch for epoch in world.ledger.epochs if epoch]
    if epochs != sorted(epochs):
        yield "a brain wrote after a later one had"


def statuses_follow_the_grammar(
    world: World, session_id: SessionId, log: Sequence[StoredEvent]
) -> Iterator[str]:
    """Of the session and of its thread: what may come after what. Usage comes just before idle."""
    allowed: Mapping[str, set[str]] = {
        "idle": {"running"},
        "running": {"idle", "rescheduled"},
        "rescheduled": {"running", "idle"},
    }
    for prefix in ("session.status_", "session.thread_status_"):
        status = "idle"
        for event in log:
            if event.type.startswith(prefix):
                after = event.type.removeprefix(prefix)
                if after not in allowed[status] and not (status == after == "idle"):
                    yield f"{event.type} at {event.seq} after {status}"
                status = after
        if status != "idle":
            yield f"the last {prefix}* is {status}"
    kinds = [event.type for event in log]
    for place, kind in enumerate(kinds):
        if kind == "session.status_idle" and kinds[place - 2 : place] != [
            "session.thread_status_idle",
            "session.usage",
        ]:
            yield f"session.status_idle at {place + 1} without what belongs before it"


def requests_end_once(world: World, session_id: SessionId, log: Sequence[StoredEvent]) -> Iterator[str]:
    open_request: str | None = None
    for event in log:
        if event.type == "span.model_request_start":
            if open_request is not None:
                yield f"a second model request begins at {event.seq}"
            open_request = event.event_id
        elif event.type == "span.model_request_end":
            if orjson.loads(event.body)["model_request_start_id"] != open_request:
                yield f"a request that is not open ends at {event.seq}"
            open_request = None
        elif event.type.startswith("agent.") and event.type != "agent.tool_result" and open_request is None:
            yield f"{event.type} at {event.seq} outside of a model request"
    if open_request is not None:
        yield "a model request never ended"


def calls_are_answered_once(
    world: World, session_id: SessionId, log: Sequence[StoredEvent]
) -> Iterator[str]:
    uses = [event.event_id for event in log if event.type in ("agent.tool_use", "agent.custom_tool_use")]
    answers = Counter(event.answers for event in log if event.answers is not None)
    for use in uses:
        if answers[use] != 1:
            yield f"{use} is answered {answers[use]} times"
    seen: set[EventId] = set()
    for event in log:
        seen.add(event.event_id)
        if event.answers is not None and event.answers not in seen:
            yield f"an answer at {event.seq} comes before its call"


def results_are_true(world: World, session_id: SessionId, log: Sequence[StoredEvent]) -> Iterator[str]:
    """A call runs at most once; its answer is its one real result, or says truly why there is none."""
    ledger = world.ledger
    for call_id, executions in ledger.executions.items():
        if len(executions) > 1:
            yield f"{call_id} ran {len(executions)} times"
    for event in log:
        if event.type != "agent.tool_result" or event.answers is None:
            continue
        text = orjson.loads(event.body)["content"][-1]["text"]  # before it, a note on the sandbox
        run = next(iter(ledger.executions.get(event.answers, ())), None)
        where = f"{event.answers} at {event.seq}"
        if text.startswith("result of "):
            if run is None or run.end != "finished" or run.text != text:
                yield f"the result of {where} is invented: {text!r}"
        elif text.startswith(_NOT_RUN):
            if run is not None:
                yield f"{where} ran, and is answered {text[:40]!r}"
        elif text == INTERRUPTED:
            # A refused call is interrupted, too, if an earlier request for it might still be on its way.
            if not ledger.interrupts and not ledger.refusals:
                yield f"{where} says that it was interrupted, and nobody did"
        elif text == LEFT_BEHIND:
            if not ledger.has_failed:
                yield f"{where} was left behind by a turn that nobody had to end"
        elif text in _UNKNOWN:
            if not _may_be_unknown(world, event.answers):
                yield f"{where} is said to be unknown, and nothing was lost"
        else:
            yield f"{where} has an answer that nobody gave: {text[:60]!r}"


def _may_be_unknown(world: World, call_id: EventId) -> bool:
    """Whether something was lost that only this call's host could tell."""
    ledger = world.ledger
    run = next(iter(ledger.executions.get(call_id, ())), None)
    if run is not None and run.end != "finished":
        return True
    # It never acted, or it finished; what says so may have died with its host, or not be reached.
    return bool(ledger.hands_away or ledger.journals_lost or ledger.sandboxes_lost)


def usage_counts_once(world: World, session_id: SessionId, log: Sequence[StoredEvent]) -> Iterator[str]:
    nonces: list[str] = []
    tokens = 0
    for event in log:
        private = event.private or {}
        if event.type == "span.model_request_end" and "usage" in private:
            nonce = private["content"][0]["text"]
            nonces.append(nonce)
            tokens += private["usage"]["output_tokens"]
            if world.ledger.replies.get(nonce) != private["usage"]["output_tokens"]:
                yield f"{nonce} was never replied like this"
    if len(nonces) != len(set(nonces)):
        yield "a reply is in the log twice"
    usage = [orjson.loads(event.body)["usage"] for event in log if event.type == "session.usage"]
    if usage and usage[-1]["output_tokens"] != tokens:
        yield "the usage is not the sum of the replies"


def requests_are_within_the_budget(
    world: World, session_id: SessionId, log: Sequence[StoredEvent]
) -> Iterator[str]:
    """None begins once the budget of that moment is used up."""
    record = world.oracle.snapshot(session_id).record
    if record.runtime_rate is None:
        return
    models = ModelTable.packaged()
    state = begin(replace(record, budget=FIRST_BUDGET))
    for event in log:
        if event.type == "span.model_request_start" and state.budget is not None:
            spent = cost(state, models, at=event.processed_at)
            if spent >= cap(state.budget) + running_cost(0.001, record.runtime_rate):
                yield f"a request begins at {event.seq}, after {spent} of {cap(state.budget)}"
        fold_stored(state, event)
        if event.type == "session.status_idle" and state.stop_reason == "budget_reached":
            world.note("paused at the budget")


def _derived_columns_repeat_the_fold(
    world: World, session_id: SessionId, last: Append, models: ModelTable
) -> Iterator[str]:
    snapshot = world.oracle.snapshot(session_id)
    state = begin(snapshot.record)
    for stored in snapshot.events[: last.seen_seq]:
        fold_stored(state, stored)
    before = state.fork()
    for stored in snapshot.events[last.seen_seq :][: len(last.events)]:
        fold_stored(state, stored)
    needs_brain = last.derived.needs_brain
    if last.derived not in (
        derive(state, models, needs_brain=needs_brain),
        derive(state, models, needs_brain=needs_brain, before=before),
    ):
        yield "the derived columns are not those of the log"
    is_last = len(snapshot.events) == last.seen_seq + len(last.events)
    if is_last and list(snapshot.record.threads) != derive(state, models, needs_brain=False).threads:
        yield "the threads are not those of the log"


LAWS: Sequence[Law] = (
    is_gap_free,
    nothing_accepted_is_missing,
    epochs_grow,
    statuses_follow_the_grammar,
    requests_end_once,
    calls_are_answered_once,
    results_are_true,
    usage_counts_once,
    requests_are_within_the_budget,
)
