"""What a session has cost at list price, and what it may cost at most. Pure and exact.

    cost = its model requests, as priced when they were made + its running time x the rate of its creation

Money is `Decimal` micro-cents; time is whole milliseconds, of `running` only. Both are folds of the log, so
a crash forgets nothing, and a dead brain's session runs, and is charged, until its turn ends. A budget is
the wire's object; it compares with the unrounded cost. Source: API docs, sessions "Budgets".
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from corral.catalog.models import MICROCENTS_PER_CENT, whole_cents
from corral.kernel.errors import InvalidRequest
from corral.session.content import Json
from corral.session.record import SessionRecord

__all__ = [
    "BUDGET_REACHED",
    "TAKEN_AT_THE_CAP",
    "Budget",
    "cap",
    "changed_budget",
    "consumed",
    "is_at_cap",
    "is_paused",
    "running_cost",
    "running_seconds",
]

Budget = Mapping[str, Json]
"""`{"type": "limit", "max_list_cost": {"amount": "<cents>", "currency": "USD"}}`"""

BUDGET_REACHED: Mapping[str, Json] = {"type": "budget_reached"}

TAKEN_AT_THE_CAP = (
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "user.interrupt",
)
"""What a session still takes that has used up its budget: what settles the calls that are open."""

_MS_PER_HOUR = 3_600_000


def cap(budget: Budget) -> Decimal:
    """Micro-cents."""
    return Decimal(budget["max_list_cost"]["amount"]) * MICROCENTS_PER_CENT


def running_cost(running_seconds: float, rate: Decimal) -> Decimal:
    """List cost of running time, in micro-cents. `rate`: micro-cents per hour.

    Seconds are sums of microseconds, rounded to them at each step (`fold`), so that this is exact.
    """
    return rate * round(running_seconds * 1000) / _MS_PER_HOUR


def running_seconds(active_seconds: float, running_since: datetime | None, at: datetime) -> float:
    """With the time that is still open. The nearest to a whole number of microseconds."""
    if running_since is None:
        return active_seconds
    return round(active_seconds + max(timedelta(), at - running_since).total_seconds(), 6)


def consumed(record: SessionRecord, *, at: datetime) -> Decimal | None:
    """What it has cost by then, in micro-cents. None for a session that nobody appended to since the
    figures are kept (it has no budget)."""
    if record.requests_cost is None or record.runtime_rate is None:
        return None
    seconds = running_seconds(record.active_seconds, record.running_since, at)
    return record.requests_cost + running_cost(seconds, record.runtime_rate)


def is_at_cap(record: SessionRecord, *, at: datetime) -> bool:
    if record.budget is None:
        return False
    cost = consumed(record, at=at)
    return cost is not None and cost >= cap(record.budget)


def is_paused(record: SessionRecord) -> bool:
    """Whether it stopped because of its budget, and goes on when that is raised or removed."""
    return record.status == "idle" and record.stop_reason == BUDGET_REACHED["type"]


def changed_budget(record: SessionRecord, wanted: Budget | None, *, at: datetime) -> None:
    """Check a change of the budget. Raises InvalidRequest with the documented code."""
    if wanted is None:
        return
    if record.budget is None:
        raise InvalidRequest(
            "budget: it can only be given when a session is created; this session has none, or it was"
            " removed. Create a new session to have one.",
            error_code="budget_create_only",
        )
    cost = consumed(record, at=at)
    if cost is not None and cap(wanted) <= cost:
        raise InvalidRequest(
            "budget.max_list_cost must be greater than the consumed list cost, which is"
            f" {whole_cents(cost)} cents (rounded)",
            error_code="budget_not_raised",
        )
