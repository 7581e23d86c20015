"""Several writers of one process: who commits what, and who goes on when one has to wait."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from corral.kernel.errors import Stale
from corral.kernel.ids import Ids
from corral.kernel.limits import POSTGRES_LOCK_SECONDS, WRITE_HELD_UP_SECONDS
from corral.session.lease import Claim
from corral.session.log import Append
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.postgres import Postgres
from corral.testing.sessions import Draft, agent_message, new_session
from corral.testing.stores import error_of
from tests.opened import Opened

WAITING_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
TEST_SECONDS = POSTGRES_LOCK_SECONDS - 1  # for which a row lock is waited for in any case


async def test_appends_go_on_while_one_waits_for_a_row(postgres: Postgres, database_url: str) -> None:
    clock, ids = ManualClock(), Ids()
    database = await Database.open(database_url, clock=clock)
    try:
        log, sessions = Log(database, LocalBus()), Sessions(database, LocalBus(), clock)

        async def first_append() -> Append:
            record = await sessions.create(new_session(ids, clock.now()))
            seen = await log.snapshot(record.session_id)
            claim = Claim(session_id=record.session_id, owner="brain", epoch=1)
            now = clock.now() + timedelta(seconds=1)
            return Draft(seen=seen, lease=claim, now=now).append([agent_message(ids)])

        held, other = await first_append(), await first_append()
        with postgres.connect(database_url) as connection:
            with connection.transaction():
                connection.execute(
                    "SELECT 1 FROM sessions WHERE session_id = %s FOR UPDATE", [held.session_id]
                )
                waiting = asyncio.create_task(log.append(held))
                async with asyncio.timeout(TEST_SECONDS):
                    while not connection.execute(WAITING_FOR_A_LOCK).fetchone()[0]:  # noqa: ASYNC110  # the server knows
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(WRITE_HELD_UP_SECONDS)  # what comes sooner waits with it
                    stored = await log.append(other)
                assert [event.seq for event in stored] == [1]
                assert not waiting.done()
            assert [event.seq for event in await waiting] == [1]
    finally:
        await database.close()


@pytest.mark.parametrize("careful", [False, True])
async def test_a_batch_that_takes_several_statements_holds_nothing_out_of_order(
    postgres: Postgres, database_url: str, careful: bool
) -> None:
    """The first append of a session is refused, so its second is another statement; or all are run again,
    one by one, because one of them breaks a constraint. Somebody else locks both sessions in order."""
    opened = await Opened.open(database_url)
    stores = opened.stores
    try:
        first, second, third = sorted(
            [await stores.leased() for _ in range(3)], key=lambda lease: lease.session_id
        )
        message = agent_message(stores.ids)
        await stores.log.append((await stores.draft(third)).append([message]))
        appends = [
            (await stores.draft(lease)).append([agent_message(stores.ids)]) for lease in (first, second)
        ]
        batch = [replace(appends[0], seen_seq=7), appends[1], appends[0]]
        if careful:
            batch.append((await stores.draft(third)).append([message]))
        lock = "SELECT 1 FROM sessions WHERE session_id = %s FOR UPDATE"
        with postgres.connect(database_url) as other:
            with other.transaction():
                other.execute("SET LOCAL deadlock_timeout = '50ms'")
                other.execute(lock, [first.session_id])
                waiting = [asyncio.create_task(error_of(stores.log.append(append))) for append in batch]
                async with asyncio.timeout(TEST_SECONDS):
                    while not other.execute(WAITING_FOR_A_LOCK).fetchone()[0]:  # noqa: ASYNC110  # as above
                        await asyncio.sleep(0.01)
                other.execute(lock, [second.session_id])
            errors = await asyncio.gather(*waiting)
        assert [type(error) for error in errors] == [Stale, type(None), type(None), Stale][: len(batch)]
    finally:
        await opened.database.close()
