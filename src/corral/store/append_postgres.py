"""What an append writes, as one statement of PostgreSQL.

There a statement is a message to the server and back, and one that is repeated for every row costs more
processor than the rows do. So four writes are one statement, and the rows of a batch travel as one JSON
text per table, which both sides read quickly (arrays, one per column, are built element by element in
Python). What is bytes in the table, such as the bodies of events, travels beside it in one piece,
unescaped; the JSON says where each begins and how long it is. JSON that holds nothing but what we count
and mint is part of it (what others wrote may hold a NUL, which PostgreSQL's JSON does not take). Columns
and types come from the schema.
SQLite has no use for this: there a statement is a function call.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, Table

from corral.store.driver import fetch
from corral.store.schema import JsonBytes, Moment, events, inbox, sessions, threads, to_us

__all__ = ["SESSION_COLUMNS", "THREAD_COLUMNS", "write_at_once"]

Row = Mapping[str, Any]

SESSION_COLUMNS = (
    "owner",
    "epoch",
    "lease_until",
    "failures",
    "not_before",
    "last_seq",
    "last_processed_at",
    "needs_brain_since",
    "status",
    "usage",
    "active_seconds",
    "running_since",
    "blocked_on",
    "updated_at",
    "terminated_at",
)
"""What an append changes of its session."""
THREAD_COLUMNS = ("status", "usage", "active_seconds", "running_since", "updated_at", "archived_at")
"""And of its threads."""
_OUR_JSON = ("usage", "blocked_on")


class _Blob:
    """Bytes of many rows in one piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> int:
        """Where it begins; SQL counts from 1."""
        self._pieces.append(piece)
        self._size += len(piece)
        return self._size - len(piece) + 1

    def whole(self) -> bytes:
        return b"".join(self._pieces)


class _Rows:
    """Rows on their way: JSON objects here, a set of rows there.

    keys: of the columns that say which row is meant; a caller has their values as `of_` + name.
    """

    def __init__(self, table: Table, keys: Sequence[str], columns: Sequence[str]) -> None:
        def of_type(*types: type) -> list[str]:
            return [name for name in columns if isinstance(table.c[name].type, types)]

        self._moments = of_type(Moment)
        self._bytes: list[tuple[str, str, Callable[[Any], bytes]]] = [
            *((name, f"{name}_size", bytes) for name in of_type(LargeBinary)),
            *((name, f"{name}_size", orjson.dumps) for name in of_type(JsonBytes) if name not in _OUR_JSON),
        ]
        other = {*self._moments, *(name for name, _, _ in self._bytes)}
        plain = [name for name in columns if name not in other]
        self._plain = (*keys, *plain)
        # In one call, because this is done for every row; of several names, or it would return no tuple.
        self._values_of = itemgetter(*(f"of_{name}" for name in keys), *plain)
        assert len(self._plain) > 1
        every = [table.c[name] for name in (*keys, *columns)]
        self.names = ", ".join(column.name for column in every)
        self.values = ", ".join(map(_value, every))
        self.changes = ", ".join(f"{name} = {_value(table.c[name])}" for name in columns)
        self.match = " AND ".join(f"{table.name}.{name} = t.{name}" for name in keys)
        self._types = ", ".join(map(_typed, every))

    def source(self, parameter: str) -> str:
        return f"json_to_recordset(%({parameter})s::json) AS t({self._types})"

    def json(self, rows: Sequence[Row], blob: _Blob) -> str:
        return orjson.dumps([self._encoded(row, blob) for row in rows]).decode()

    def _encoded(self, row: Row, blob: _Blob) -> dict[str, Any]:
        encoded: dict[str, Any] = dict(zip(self._plain, self._values_of(row), strict=True))
        for name in self._moments:
            if (moment := row[name]) is not None:
                encoded[name] = to_us(moment)
        for name, size, dump in self._bytes:
            if (value := row[name]) is not None:
                piece = dump(value)
                encoded[name], encoded[size] = blob.add(piece), len(piece)
        return encoded


def _is_bytes(column: Column[Any]) -> bool:
    return isinstance(column.type, JsonBytes | LargeBinary) and column.name not in _OUR_JSON


def _typed(column: Column[Any]) -> str:
    """Its name and type in the JSON; what is left out there is null."""
    if column.name in _OUR_JSON:
        return f"{column.name} json"
    if _is_bytes(column):
        return f"{column.name} integer, {column.name}_size integer"
    if isinstance(column.type, Moment | Integer):
        return f"{column.name} bigint"
    return f"{column.name} {'double precision' if isinstance(column.type, Float) else 'text'}"


def _value(column: Column[Any]) -> str:
    if column.name in _OUR_JSON:
        return f"convert_to(t.{column.name}::text, 'UTF8')"
    if _is_bytes(column):
        return f"substring(%(blob)b::bytea FROM t.{column.name} FOR t.{column.name}_size)"
    return f"t.{column.name}"


_EVENTS = _Rows(events, (), [str(column.name) for column in events.columns])
_TAKEN = _Rows(inbox, ("session_id", "arrival", "event_id"), ())
_SESSIONS = _Rows(sessions, ("session_id",), SESSION_COLUMNS)
_THREADS = _Rows(threads, ("session_id", "thread_id"), THREAD_COLUMNS)
# No value is part of the text: names are the schema's, rows are parameters.
_WRITE = f"""
WITH logged AS (
    INSERT INTO events ({_EVENTS.names}) SELECT {_EVENTS.values} FROM {_EVENTS.source("events")}
), taken AS (
    DELETE FROM inbox USING {_TAKEN.source("taken")} WHERE {_TAKEN.match} RETURNING 1
), advanced AS (
    UPDATE sessions SET {_SESSIONS.changes} FROM {_SESSIONS.source("sessions")} WHERE {_SESSIONS.match}
), changed AS (
    UPDATE threads SET {_THREADS.changes} FROM {_THREADS.source("threads")} WHERE {_THREADS.match}
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM changed)
"""  # noqa: S608


def write_at_once(
    connection: Connection,
    *,
    logged: Sequence[Row],
    taken: Sequence[Row],
    advanced: Sequence[Row],
    changed: Sequence[Row],
) -> tuple[int, int]:
    """Insert events, take inputs, update sessions and threads (each of them once). Returns how many inputs
    and how many threads there were."""
    blob = _Blob()
    rows = {
        "events": _EVENTS.json(logged, blob),
        "taken": _TAKEN.json(taken, blob),
        "sessions": _SESSIONS.json(advanced, blob),
        "threads": _THREADS.json(changed, blob),
    }
    [(inputs_taken, threads_changed)] = fetch(connection, _WRITE, {**rows, "blob": blob.whole()})
    return inputs_taken, threads_changed
