"""What every session store must do with budgets. See contract_store."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from corral.kernel.errors import InvalidRequest
from corral.session.events import UserInterrupt
from corral.session.log import InboxEntry
from corral.session.record import SessionChanges, SessionRecord
from corral.testing.sessions import agent_message, new_session, user_message
from corral.testing.stores import Check, Stores, error_of

__all__ = ["CHECKS"]

_CENT = 1_000_000
_COST = Decimal("4.0000000001") * _CENT  # no float tells it from 4 cents


def _budget(cents: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


async def _paused(stores: Stores, cents: int = 4) -> SessionRecord:
    """A session that has cost a little more than 4 cents, and waits for its budget."""
    stores.clock.advance(0)
    record = replace(
        new_session(stores.ids, stores.clock.now()),
        budget=_budget(cents),
        requests_cost=Decimal(0),
        runtime_rate=Decimal(0),
    )
    assert await stores.sessions.create(record) == record
    [lease] = await stores.leases.claim(owner="brain-1", limit=1, session_ids=[record.session_id])
    draft = await stores.draft(lease)
    append = draft.append([agent_message(stores.ids)], status="idle", needs_brain=False, releases=True)
    derived = replace(append.derived, stop_reason="budget_reached", requests_cost=_COST)
    await stores.log.append(replace(append, derived=derived))
    paused = await stores.sessions.read(record.session_id)
    assert (paused.stop_reason, paused.requests_cost) == ("budget_reached", _COST)
    assert (paused.budget, paused.runtime_rate) == (record.budget, Decimal(0))
    assert await stores.leases.waiting(limit=9) == []
    return paused


async def _change(stores: Stores, record: SessionRecord, budget: dict[str, Any] | None) -> SessionRecord:
    changes = SessionChanges(given=frozenset({"budget"}), budget=budget)
    return await stores.sessions.update(record.session_id, changes)


async def check_a_raised_budget_wakes_a_paused_session(stores: Stores) -> None:
    record = await _paused(stores)
    for cents in (3, 4):
        error = await error_of(_change(stores, record, _budget(cents)))
        assert isinstance(error, InvalidRequest) and error.error_code == "budget_not_raised"
    assert await stores.leases.waiting(limit=9) == []
    raised = await _change(stores, record, _budget(5))
    assert (raised.budget, raised.last_seq) == (_budget(5), record.last_seq + 1)
    assert await stores.leases.waiting(limit=9) == [record.session_id]
    again = await _change(stores, record, _budget(5))
    assert again.last_seq == raised.last_seq, "nothing has changed"


async def check_a_removed_budget_wakes_it_and_does_not_come_back(stores: Stores) -> None:
    record = await _paused(stores)
    assert (await _change(stores, record, None)).budget is None
    assert await stores.leases.waiting(limit=9) == [record.session_id]
    for other in (record, await stores.session()):
        error = await error_of(_change(stores, other, _budget(9)))
        assert isinstance(error, InvalidRequest) and error.error_code == "budget_create_only"


async def check_a_paused_session_takes_what_it_may(stores: Stores) -> None:
    record, now = await _paused(stores), stores.clock.now()
    accept = stores.log.accept(record.session_id, [user_message(stores.ids)], now=now)
    assert isinstance(await error_of(accept), InvalidRequest)
    interrupt = UserInterrupt(id=stores.ids.event())
    assert list(await stores.log.accept(record.session_id, [interrupt], now=now)) == []
    seen = await stores.log.snapshot(record.session_id)
    assert (seen.record.last_seq, seen.record.last_arrival, seen.inbox) == (record.last_seq, 0, [])
    assert await stores.leases.waiting(limit=9) == []
    await _change(stores, record, _budget(5))
    [entry] = await stores.log.accept(record.session_id, [interrupt], now=now)
    assert isinstance(entry, InboxEntry), "it goes on by now, which can be interrupted"


async def check_a_budget_that_is_not_in_the_way_wakes_nobody(stores: Stores) -> None:
    stores.clock.advance(0)
    record = replace(
        new_session(stores.ids, stores.clock.now()),
        budget=_budget(5),
        requests_cost=Decimal(0),
        runtime_rate=Decimal(0),
    )
    await stores.sessions.create(record)
    await _change(stores, record, _budget(1))
    await _change(stores, record, None)
    assert await stores.leases.waiting(limit=9) == []


CHECKS: tuple[Check, ...] = (
    check_a_raised_budget_wakes_a_paused_session,
    check_a_removed_budget_wakes_it_and_does_not_come_back,
    check_a_paused_session_takes_what_it_may,
    check_a_budget_that_is_not_in_the_way_wakes_nobody,
)
