"""The deep sweep: each contradiction is made by hand, found through an index, and repaired."""

from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text, update

from corral.kernel.limits import LEASE_TTL_SECONDS, SESSION_BACKOFF_SECONDS_MAX, SWEEP_BATCH_MAX
from corral.orchestrator.sweep import Sweep
from corral.session.events import SystemMessage, UserMessage
from corral.session.log import InboxEntry
from corral.session.record import SessionRecord
from corral.store.rows import inbox_row
from corral.store.schema import inbox, sessions
from corral.store.sweep import Sweeps
from corral.testing.sessions import agent_message, user_message
from corral.testing.stores import Stores
from tests.opened import Opened


async def _break(opened: Opened, record: SessionRecord, **values: Any) -> None:
    statement = update(sessions).where(sessions.c.session_id == record.session_id).values(values)
    await opened.database.write(lambda connection: connection.execute(statement))


async def _repaired(opened: Opened) -> dict[str, int]:
    """What one look repairs; a second finds nothing."""
    sweep = Sweep(Sweeps(opened.database), opened.stores.bus)
    await sweep.once()
    found = dict(sweep.repaired)
    await sweep.once()
    assert dict(sweep.repaired) == found, "a repair is made once"
    return found


async def _waiting(stores: Stores) -> list[str]:
    return list(await stores.leases.waiting(limit=9))


@pytest.mark.parametrize("status", ["running", "rescheduling"])
async def test_a_session_at_work_that_nobody_looks_for(opened: Opened, status: str) -> None:
    stores = opened.stores
    record, live = await stores.session(), await stores.session()
    for each in (record, live):
        await _break(opened, each, status=status)
    [lease] = await stores.leases.claim(owner="b", limit=1, session_ids=[live.session_id])
    draft = await stores.draft(lease)
    await stores.log.append(draft.append([agent_message(stores.ids)]))
    assert await _repaired(opened) == {"unserved_session": 1}
    assert await _waiting(stores) == [record.session_id]


async def test_an_input_that_nobody_takes(opened: Opened) -> None:
    stores = opened.stores
    forgotten = await stores.session()
    await stores.log.accept(forgotten.session_id, [user_message(stores.ids)], now=stores.clock.now())
    blocked, patient = await stores.session(), await stores.session()
    await stores.log.accept(blocked.session_id, [user_message(stores.ids)], now=stores.clock.now())
    await _queue(
        opened, patient, SystemMessage(id=stores.ids.event(), content=[{"type": "text", "text": "x"}])
    )
    for record in (forgotten, blocked, patient):
        await _break(opened, record, needs_brain_since=None, blocked_on=["x"] if record == blocked else [])
    assert await _repaired(opened) == {"untaken_input": 1}
    assert await _waiting(stores) == [forgotten.session_id]


async def test_a_lease_of_the_dead_that_nobody_needs(opened: Opened) -> None:
    stores = opened.stores
    lease = await stores.leased()
    stores.clock.advance(LEASE_TTL_SECONDS - 1)
    assert await _repaired(opened) == {}, "it may still be renewed"
    stores.clock.advance(1)
    assert await _repaired(opened) == {"dead_lease": 1}
    assert await stores.leases.renew([lease]) == []


async def test_a_clock_that_was_set_back(opened: Opened) -> None:
    """Leases and waits that end in a far future hold nobody up for longer than they could have."""
    stores = opened.stores
    held, failed = await stores.leased(), await stores.leased()
    for lease in (held, failed):
        await stores.log.accept(lease.session_id, [user_message(stores.ids)], now=stores.clock.now())
    await stores.leases.fail([failed])
    hour = 3600 * 1_000_000
    await _break(
        opened, await stores.sessions.read(held.session_id), lease_until=sessions.c.lease_until + hour
    )
    now_us = int(stores.clock.now().timestamp() * 1_000_000)
    await _break(opened, await stores.sessions.read(failed.session_id), not_before=now_us + hour)
    assert await _repaired(opened) == {"far_lease": 1, "far_backoff": 1}
    stores.clock.advance(max(LEASE_TTL_SECONDS, SESSION_BACKOFF_SECONDS_MAX) + 1)
    assert sorted(await _waiting(stores)) == sorted([held.session_id, failed.session_id])


async def test_the_inbox_is_looked_at_in_parts(opened: Opened) -> None:
    stores = opened.stores
    records = [await stores.session() for _ in range(3)]
    for record in records[:2]:
        for _ in range(SWEEP_BATCH_MAX // 2):
            await _queue(opened, record, user_message(stores.ids))
    await _queue(opened, records[2], user_message(stores.ids))
    sweep = Sweep(Sweeps(opened.database), stores.bus)
    await sweep.once()
    assert dict(sweep.repaired) == {"untaken_input": 2}
    await sweep.once()
    assert dict(sweep.repaired) == {"untaken_input": 3}


async def test_no_search_reads_the_whole_table(opened: Opened) -> None:
    """EXPLAIN of every statement of a look: none scans the sessions, however many are stored."""
    statements: list[tuple[str, Any]] = []

    def look(connection: Connection) -> None:
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
            statements.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        Sweeps(opened.database).look(connection, None)
        event.remove(connection, "before_cursor_execute", note)

    def explain(connection: Connection) -> list[str]:
        plans: list[str] = []
        if opened.database.is_postgres:  # which would scan a table that is nearly empty
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in statements:
            explained = "EXPLAIN " if opened.database.is_postgres else "EXPLAIN QUERY PLAN "
            rows = connection.exec_driver_sql(explained + statement, parameters)
            plans += [str(row[-1]) for row in rows]
        return plans

    await opened.database.read(look)
    plans = await opened.database.read(explain)
    assert len(statements) >= 6
    scans = ("SCAN sessions", "Seq Scan on sessions", "SCAN inbox", "Seq Scan on inbox")
    assert not [plan for plan in plans if any(scan in plan for scan in scans) and "INDEX" not in plan], (
        plans
    )


async def _queue(opened: Opened, record: SessionRecord, message: UserMessage | SystemMessage) -> None:
    """An inbox row that came without its session being told."""

    def body(connection: Connection) -> None:
        last = connection.execute(
            text("SELECT coalesce(max(arrival), 0) AS last FROM inbox WHERE session_id = :id"),
            {"id": record.session_id},
        ).one()
        entry = InboxEntry(
            arrival=last.last + 1,
            event_id=message.id,
            type=message.type,
            thread_id=record.primary_thread_id,
            body=message.body(processed_at=None),
        )
        connection.execute(insert(inbox), inbox_row(record.session_id, entry))
        connection.execute(
            update(sessions)
            .where(sessions.c.session_id == record.session_id)
            .values(last_arrival=entry.arrival)
        )

    await opened.database.write(body)
