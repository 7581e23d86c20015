"""Counting work that waits: every number is one that something made."""

import pytest

from corral.kernel.ids import Ids
from corral.kernel.limits import LEASE_TTL_SECONDS
from corral.store.backlog import Backlogs
from corral.testing.sessions import new_session, user_message
from tests.opened import Opened


async def test_what_waits_and_who_works(opened: Opened) -> None:
    ids, clock, backlogs = Ids(), opened.stores.clock, Backlogs(opened.database)
    leases, log, sessions = opened.stores.leases, opened.stores.log, opened.stores.sessions
    nothing = await backlogs.count()
    assert (nothing.needing, nothing.waiting, nothing.inbox, nothing.leases) == (0, 0, 0, {})
    assert (nothing.oldest_wait_seconds, nothing.stalest_lease_seconds) == (0, 0)

    records = []
    for _ in range(3):
        records.append(await sessions.create(new_session(ids, clock.now())))
        await log.accept(records[-1].session_id, [user_message(ids)], now=clock.now())
        clock.advance(1)
    await sessions.create(new_session(ids, clock.now()))  # which nobody spoke to
    waiting = await backlogs.count()
    assert (waiting.needing, waiting.waiting, waiting.inbox) == (3, 3, 3)
    assert waiting.oldest_wait_seconds == pytest.approx(3, abs=0.01)

    held = await leases.claim(owner="node_1.inc_1", limit=2)
    clock.advance(LEASE_TTL_SECONDS / 2)
    await leases.renew(held[:1])
    working = await backlogs.count()
    assert (working.needing, working.waiting, working.leases) == (3, 1, {"node_1.inc_1": 2})
    assert working.stalest_lease_seconds == pytest.approx(LEASE_TTL_SECONDS / 2, abs=0.01)

    clock.advance(LEASE_TTL_SECONDS / 2)
    ended = await backlogs.count()
    assert (ended.waiting + ended.held_back, ended.leases, ended.leases_ended) == (
        2,
        {"node_1.inc_1": 1},
        1,
    )
