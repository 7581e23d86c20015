"""The rules of appends are there twice: in Python for SQLite, in SQL for PostgreSQL. They are the same."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from corral.kernel.limits import SESSION_BACKOFF_SECONDS_MAX
from corral.session.lease import Claim, Lease
from corral.session.log import Append, Derived, NewEvent
from corral.session.record import SessionRecord
from corral.store.schema import NOT_HELD_BACK, events, sessions, threads, to_us
from corral.testing.clock import ManualClock
from corral.testing.sessions import agent_message, new_session
from corral.testing.stores import Stores
from tests.opened import Opened

CASES = 300
NOW = ManualClock().now()
NOW_US = to_us(NOW)
MICROSECOND = timedelta(microseconds=1)
LEASE_ENDS = [0, NOW_US - int(SESSION_BACKOFF_SECONDS_MAX * 1e6), NOW_US - 1_000_000, NOW_US, NOW_US + 1]
FIGURES = [0.0, 0.1, 1e-7, 5e-324, 1.7976931348623157e308, 123456789.123456789]


async def test_both_engines_grant_and_write_the_same(tmp_path: Path, database_url: str) -> None:
    chance, opened = (
        random.Random(7),
        [await Opened.open(tmp_path / "a.db"), await Opened.open(database_url)],
    )
    try:
        stores = opened[0].stores
        cases = [
            (record, _row(chance), _append(chance, stores, record))
            for record in (new_session(stores.ids, NOW) for _ in range(CASES))
        ]
        one, other = [await _outcome(each, cases) for each in opened]
        for case, of_sqlite, of_postgres in zip(cases, one, other, strict=True):
            assert of_sqlite == of_postgres, case
        reached = Counter(answer for answer, _ in one)
        assert set(reached) == {"granted", "LeaseLost", "Stale", "AssertionError"}
        assert min(reached.values()) >= 10, reached
    finally:
        for each in opened:
            await each.database.close()


async def _outcome(
    opened: Opened, cases: Sequence[tuple[SessionRecord, Mapping[str, Any], Append]]
) -> list[tuple[str, object]]:
    """Of each case the answer, and what the database has afterwards."""

    def prepare(connection: Connection) -> None:
        for record, row, _ in cases:
            of_session = sessions.c.session_id == record.session_id
            connection.execute(update(sessions).where(of_session).values(row))

    def found(connection: Connection, record: SessionRecord) -> object:
        return [
            connection.execute(
                select(table).where(table.c.session_id == record.session_id).order_by(*table.primary_key)
            ).all()
            for table in (sessions, threads, events)
        ]

    for record, _, _ in cases:
        await opened.stores.sessions.create(record)
    await opened.database.write(prepare)
    answers = await asyncio.gather(
        *(opened.stores.log.append(append) for _, _, append in cases), return_exceptions=True
    )
    rows = await opened.database.read(
        lambda connection: [found(connection, record) for record, _, _ in cases]
    )
    return [
        (type(answer).__name__ if isinstance(answer, Exception) else "granted", row)
        for answer, row in zip(answers, rows, strict=True)
    ]


def _row(chance: random.Random) -> dict[str, Any]:
    """What a session's row may be like when an append comes; that of seq 3 and arrival 1, most of them."""
    return {
        "owner": chance.choice([None, "brain", "brain", "rival"]),
        "epoch": chance.choice([1, 1, 1, 2]),
        "lease_until": chance.choice(LEASE_ENDS),
        "failures": chance.choice([0, 1, 2, 7, 8, 100]),
        "not_before": chance.choice([0, 0, NOT_HELD_BACK, NOW_US, NOW_US + 1]),
        "last_seq": chance.choice([3] * 7 + [4]),
        "last_arrival": chance.choice([1] * 7 + [2]),
        "last_processed_at": NOW + chance.choice([0, 0, 0, 0, 4, 5, 6]) * MICROSECOND,
        "needs_brain_since": chance.choice([None, NOW_US - 5]),
        "terminated_at": chance.choice([None] * 9 + [NOW]),
    }


def _append(chance: random.Random, stores: Stores, record: SessionRecord) -> Append:
    owner, session_id = chance.choice(["brain", "brain", "rival"]), record.session_id
    status = chance.choice(["running", "idle", "terminated"])
    return Append(
        session_id=session_id,
        lease=Lease(session_id=session_id, owner=owner, epoch=1)
        if chance.random() < 0.5
        else Claim(session_id=session_id, owner=owner, epoch=2),
        seen_seq=3,
        seen_arrival=1,
        events=[
            NewEvent(
                event=agent_message(stores.ids, chance.choice(["", "\0", "ä\U0001f600", "%s %(x)s \\"])),
                thread_id=record.primary_thread_id,
                processed_at=NOW + (5 + number) * MICROSECOND,
                private=chance.choice([None, {}, {"said": "\0\\u0000"}]),
            )
            for number in range(chance.choice([1, 3]))
        ],
        derived=Derived(
            status=status,
            usage={"figure": chance.choice(FIGURES), "count": 2**63 - 1},
            active_seconds=chance.choice(FIGURES),
            running_since=NOW if status == "running" else None,
            blocked_on=chance.choice([(), ("sevt_1", "sevt_2")]),
            needs_brain=chance.random() < 0.5,
            threads=[
                replace(
                    thread,
                    status=status,
                    usage=chance.choice([None, {"figure": chance.choice(FIGURES)}]),
                    active_seconds=chance.choice(FIGURES),
                    updated_at=NOW + MICROSECOND,
                )
                for thread in record.threads
            ],
            stop_reason=chance.choice([None, "end_turn"]),
            requests_cost=chance.choice([Decimal(0), Decimal("12345678901234567890.0000000001")]),
        ),
        releases=chance.random() < 0.3,
        gets_on=chance.random() < 0.3,
    )
