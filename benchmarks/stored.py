"""Fills a store with copies of one session, so that a figure can be taken among many stored ones.

A template session has taken its turns through the API; its rows are copied under new ids, which also stand
in the bodies. Nothing of it is made up, so copies are as large as what they stand for.
"""

import itertools
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Table, create_engine, event, insert, select, update

from corral.kernel.ids import EVENT, SESSION, THREAD, Ids
from corral.store.schema import events, session_details, sessions, thread_details, threads

__all__ = ["copy_sessions", "lengthen", "open_store"]

_BATCH = 2_000
_Row = dict[str, Any]


def open_store(url: str) -> Engine:
    """`sqlite:///path` (a running server may hold it: we wait for its lock) or `postgresql://...`."""
    if not url.startswith("sqlite"):
        return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _plain(connection: Any, _record: Any) -> None:
        connection.execute(
            "PRAGMA synchronous=OFF"
        )  # this connection's copies need not survive a power cut

    return engine


def copy_sessions(engine: Engine, template_id: str, count: int) -> None:
    """Store `count` more sessions like it."""
    ids = Ids()
    originals = {table: _rows(engine, table, template_id) for table in _TABLES}
    old_ids = [row["event_id"] for row in originals[events]]
    thread_id = originals[sessions][0]["primary_thread_id"]
    for some in _batched(range(count), _BATCH // max(1, len(old_ids)) + 1):
        batch: dict[Table, list[_Row]] = {table: [] for table in _TABLES}
        for _ in some:
            new = {template_id: ids.mint(SESSION), thread_id: ids.mint(THREAD)}
            new |= {old: ids.mint(EVENT) for old in old_ids}
            for table, rows in originals.items():
                batch[table] += [_renamed(row, new) for row in rows]
        with engine.begin() as connection:
            for table in _TABLES:
                connection.execute(insert(table), batch[table])


def lengthen(engine: Engine, session_id: str, *, events_min: int) -> int:
    """Repeat what the session's log holds until it has at least `events_min` events; returns how many."""
    ids = Ids()
    once = _rows(engine, events, session_id)
    assert all(row["arrival"] is None or row["type"].startswith("user.") for row in once)
    calls = [row["private"]["model_tool_use_id"] for row in once if row["type"] == "agent.tool_use"]
    seq, at = once[-1]["seq"], once[-1]["processed_at"]
    arrivals = sum(row["arrival"] is not None for row in once)
    rounds = -(-events_min // len(once)) - 1
    with engine.begin() as connection:
        for some in _batched(range(rounds), _BATCH // len(once) + 1):
            batch: list[_Row] = []
            for number in some:
                new = {row["event_id"]: ids.mint(EVENT) for row in once}
                new |= {call: f"{call}_{number}" for call in calls}  # models refuse an id that comes twice
                for row in once:
                    seq, at = seq + 1, at + timedelta(microseconds=1)
                    arrival = row["arrival"] and row["arrival"] + (number + 1) * arrivals
                    batch.append(_renamed(row, new) | {"seq": seq, "processed_at": at, "arrival": arrival})
            connection.execute(insert(events), batch)
        connection.execute(
            update(sessions)
            .where(sessions.c.session_id == session_id)
            .values(last_seq=seq, last_processed_at=at, last_arrival=arrivals * (rounds + 1))
        )
    return int(seq)


_TABLES = (sessions, session_details, threads, thread_details, events)


def _rows(engine: Engine, table: Table, session_id: str) -> list[_Row]:
    with engine.connect() as connection:
        statement = select(table).where(table.c.session_id == session_id)
        if table is events:
            statement = statement.order_by(events.c.seq)
        return [dict(row._mapping) for row in connection.execute(statement)]


def _renamed(value: Any, new: Mapping[str, str]) -> Any:
    """The value with every id in it replaced, also within bodies."""
    if isinstance(value, str):
        return new.get(value, value)
    if isinstance(value, bytes):
        for old, name in new.items():
            value = value.replace(old.encode(), name.encode())
        return value
    if isinstance(value, dict):
        return {key: _renamed(item, new) for key, item in value.items()}
    return [_renamed(item, new) for item in value] if isinstance(value, list) else value


def _batched(numbers: range, size: int) -> Iterator[list[int]]:
    while some := list(itertools.islice(numbers, size)):
        yield some
        numbers = numbers[len(some) :]
