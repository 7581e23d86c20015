"""Columns that repeat the fold: what the API shows without folding a log. A test rebuilds them."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import reduce

from corral.catalog.models import ModelTable, whole_cents
from corral.session.budget import cap, running_cost, running_seconds
from corral.session.content import Json
from corral.session.log import Derived
from corral.session.record import ThreadRecord
from corral.session.state import State, Thread
from corral.session.tokens import Tokens


def derive(state: State, models: ModelTable, *, needs_brain: bool, before: State | None = None) -> Derived:
    """The columns as of the last folded event; of the threads those that differ from `before`."""
    threads = [_thread(thread, models) for thread in state.threads.values()]
    if before is not None:
        known = [_thread(thread, models) for thread in before.threads.values()]
        threads = [thread for thread in threads if thread not in known]
    return Derived(
        status=state.status,
        usage=usage(state, models, at=state.last_at),
        active_seconds=state.active_seconds,
        running_since=state.running_since,
        blocked_on=state.blocked_on,
        needs_brain=needs_brain,
        threads=threads,
        stop_reason=state.stop_reason,
        requests_cost=_tokens(state).cost_microcents,
    )


def usage(state: State, models: ModelTable, *, at: datetime) -> Mapping[str, Json]:
    """The wire's session `usage`: all threads' tokens, and running time counted once, up to `at`."""
    return {
        **_tokens(state).wire(),
        "active_seconds": running_seconds(state.active_seconds, state.running_since, at),
        "list_cost": {"amount": whole_cents(cost(state, models, at=at)), "currency": "USD"},
    }


def cost(state: State, models: ModelTable, *, at: datetime) -> Decimal:
    """List cost of the session up to then, in micro-cents, unrounded."""
    rate = models.runtime_rate if state.runtime_rate is None else state.runtime_rate
    running = running_seconds(state.active_seconds, state.running_since, at)
    return _tokens(state).cost_microcents + running_cost(running, rate)


def is_at_cap(state: State, models: ModelTable, *, at: datetime) -> bool:
    """Whether its budget allows no further model request: it is used up, or it could not be measured."""
    if state.budget is None:
        return False
    if not all(is_priced(thread, models) for thread in state.threads.values()):
        return True
    return cost(state, models, at=at) >= cap(state.budget)


def is_priced(thread: Thread, models: ModelTable) -> bool:
    return models.resolve(thread.model).is_budgetable(thread.agent["model"].get("speed") or "standard")


def _tokens(state: State) -> Tokens:
    return reduce(Tokens.merged, (thread.tokens for thread in state.threads.values()))  # there is a primary


def _thread(thread: Thread, models: ModelTable) -> ThreadRecord:
    wire = {
        **thread.tokens.wire(),
        "active_seconds": thread.active_seconds,
        "list_cost": {"amount": whole_cents(thread.tokens.cost_microcents), "currency": "USD"},
    }
    return ThreadRecord(
        thread_id=thread.thread_id,
        parent_thread_id=thread.parent_thread_id,
        agent=thread.agent,
        status=thread.status,
        usage=wire if thread.has_been_idle else None,
        active_seconds=thread.active_seconds,
        running_since=thread.running_since,
        created_at=thread.created_at,
        updated_at=thread.updated_at or thread.created_at,
    )
