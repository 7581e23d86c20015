"""Columns that repeat the fold: what the API shows without folding a log. A test rebuilds them."""

from collections.abc import Mapping
from datetime import datetime
from functools import reduce

from corral.catalog.models import ModelTable, whole_cents
from corral.session.content import Json
from corral.session.fold import State, Thread
from corral.session.log import Derived
from corral.session.record import ThreadRecord
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
    )


def usage(state: State, models: ModelTable, *, at: datetime) -> Mapping[str, Json]:
    """The wire's session `usage`: all threads' tokens, and running time counted once, up to `at`."""
    tokens = reduce(Tokens.merged, (thread.tokens for thread in state.threads.values()), Tokens())
    running = state.active_seconds
    if state.running_since is not None:
        running += (at - state.running_since).total_seconds()
    cost = tokens.cost_microcents + models.runtime_cost(round(running * 1000))
    return {
        **tokens.wire(),
        "active_seconds": running,
        "list_cost": {"amount": whole_cents(cost), "currency": "USD"},
    }


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
