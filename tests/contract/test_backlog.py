"""Counting work that waits: every number is one that something made."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.kernel.ids import Ids
from corral.kernel.limits import LEASE_TTL_SECONDS
from corral.store.backlog import Backlogs
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.sessions import new_session, user_message


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Database]:
    is_sqlite = request.param == "sqlite"
    where = tmp_path / "corral.db" if is_sqlite else request.getfixturevalue("database_url")
    database = await Database.open(where, clock=clock)
    yield database
    await database.close()


async def test_what_waits_and_who_works(database: Database, clock: ManualClock) -> None:
    ids, bus = Ids(), LocalBus()
    backlogs, leases, log = Backlogs(database), Leases(database), Log(database, bus)
    sessions = Sessions(database, bus, clock)
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
