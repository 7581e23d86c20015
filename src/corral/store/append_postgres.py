"""Appends on PostgreSQL: one statement checks a batch of them, writes those that are right, and names them.

There a statement is a message to the server and back, and one that is repeated for every row costs more
processor than the rows do. `store.append` has the same rules step by step, as SQLite runs them (`_refusal`,
`_advanced`); a test holds the two together. It also looks at those that are not named, to say why.

The statement, part by part:

    given     a row for each append: what it expects of its session, and what the session becomes
    held      the sessions that are as expected, locked in the order of their ids; the rest is theirs alone
    logged    events are inserted
    taken     inputs leave the inbox
    advanced  the sessions' rows change
    changed   and those of their threads

How rows travel: as one JSON text per table, which both sides read quickly. It holds ids, figures, and JSON
made of these. What others wrote (bodies of events, private payloads) may have a NUL, which PostgreSQL's
JSON does not take; it travels beside, as one piece of bytes: the JSON says where each begins, and its size.

Why it is right while others write (READ COMMITTED): the statement sees what was committed when it began.
Where it locks or updates a row that was changed since, PostgreSQL fetches the newest version and checks the
conditions again, so the sessions of `held` are as expected, whoever was waited for. Their events, inputs
and threads it sees as they were at first, and nothing is missing: what the brain has seen was committed
before, and who changes them later holds the session's row and moves `last_seq` or `last_arrival`.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Float, Integer, LargeBinary

from corral.kernel.ids import SessionId
from corral.session.lease import Claim
from corral.session.log import Append, StoredEvent
from corral.session.record import ThreadRecord
from corral.store.driver import fetch, text_of
from corral.store.freedom import FAILURES, FREE_FROM, LEASE_TTL_US
from corral.store.prepared import Prepared
from corral.store.schema import JsonBytes, Moment, events, sessions, threads, to_us

__all__ = ["SESSION_COLUMNS", "THREAD_COLUMNS", "Written", "write_what_is_right"]


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
    "stop_reason",
    "requests_cost",
    "updated_at",
    "terminated_at",
)
"""What an append changes of its session."""
THREAD_COLUMNS = ("status", "usage", "active_seconds", "running_since", "updated_at", "archived_at")
"""And of its threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """session_ids: whose appends were written. inputs, threads: how many of theirs were found."""

    session_ids: Set[SessionId]
    inputs: int
    threads: int


class _Blob:
    """Bytes of many rows in one piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._end = 1  # SQL counts from 1

    def put(self, row: dict[str, Any], name: str, piece: bytes) -> None:
        row[name], row[f"{name}_size"] = self._end, len(piece)
        self._pieces.append(piece)
        self._end += len(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)


def _is_bytes(column: Column[Any]) -> bool:
    """Whether it travels beside the JSON."""
    return column.table is events and isinstance(column.type, JsonBytes | LargeBinary)


def _typed(column: Column[Any]) -> str:
    """Its name and type in the JSON; what is left out there is null."""
    if _is_bytes(column):
        return f"{column.name} integer, {column.name}_size integer"
    if isinstance(column.type, JsonBytes):
        return f"{column.name} json"
    if isinstance(column.type, Moment | Integer):
        return f"{column.name} bigint"
    return f"{column.name} {'double precision' if isinstance(column.type, Float) else 'text'}"


def _value(column: Column[Any]) -> str:
    """What it gets, of a row `t` of the JSON."""
    if _is_bytes(column):
        return f"substring(%(blob)b::bytea FROM t.{column.name} FOR t.{column.name}_size)"
    if isinstance(column.type, JsonBytes):
        return f"convert_to(t.{column.name}::text, 'UTF8')"
    return f"t.{column.name}"


def _source(parameter: str, types: Sequence[str]) -> str:
    """The rows of a JSON text, as `t`."""
    return f"json_to_recordset(%({parameter})s::json) AS t({', '.join(types)})"


def _set(columns: Sequence[Column[Any]], **other: str) -> str:
    return ", ".join(f"{column.name} = {other.get(column.name) or _value(column)}" for column in columns)


_EVENT = list(events.columns)
_SESSION = [sessions.c[name] for name in SESSION_COLUMNS]
_THREAD = [threads.c[name] for name in THREAD_COLUMNS]
_GIVEN = [
    "session_id text",
    # what it expects
    "holder text",  # null: it claims
    "seen_seq bigint",
    "seen_arrival bigint",
    "first_at bigint",  # later than the end of the log
    # what the session becomes; lease_until, failures and not_before may be null: then its row decides
    *map(_typed, _SESSION),
]
_CLAIMS = "t.holder IS NULL"
# No value is part of the text: names are the schema's, rows are parameters.
_WRITE = f"""
WITH given AS MATERIALIZED (
    SELECT * FROM {_source("sessions", _GIVEN)}
), held AS MATERIALIZED (
    SELECT sessions.session_id FROM sessions JOIN given AS t ON sessions.session_id = t.session_id
    WHERE sessions.terminated_at IS NULL
      AND sessions.last_seq = t.seen_seq AND sessions.last_arrival = t.seen_arrival
      AND sessions.last_processed_at < t.first_at
      AND CASE WHEN {_CLAIMS}
          THEN sessions.epoch = t.epoch - 1 AND {
    text_of(FREE_FROM, has_constants=True)
} <= %(now_us)s::bigint
          ELSE sessions.epoch = t.epoch AND sessions.owner = t.holder END
    ORDER BY sessions.session_id FOR UPDATE OF sessions
), logged AS (
    INSERT INTO events ({", ".join(column.name for column in _EVENT)})
    SELECT {", ".join(map(_value, _EVENT))} FROM {_source("events", [_typed(column) for column in _EVENT])}
    WHERE t.session_id IN (SELECT session_id FROM held)
), taken AS (
    DELETE FROM inbox USING {_source("taken", ["session_id text", "arrival bigint", "event_id text"])}
    WHERE inbox.session_id = t.session_id AND inbox.arrival = t.arrival AND inbox.event_id = t.event_id
      AND t.session_id IN (SELECT session_id FROM held)
    RETURNING 1
), advanced AS (
    UPDATE sessions SET {
    _set(
        _SESSION,
        lease_until="coalesce(t.lease_until, sessions.lease_until)",
        failures=f"coalesce(t.failures, CASE WHEN {_CLAIMS} THEN {text_of(FAILURES, has_constants=True)}"
        " ELSE sessions.failures END)",
        not_before="coalesce(t.not_before, sessions.not_before)",
        needs_brain_since="CASE WHEN t.needs_brain_since IS NOT NULL"
        " THEN coalesce(sessions.needs_brain_since, t.needs_brain_since) END",
    )
}
    FROM given AS t JOIN held ON held.session_id = t.session_id WHERE sessions.session_id = t.session_id
), changed AS (
    UPDATE threads SET {_set(_THREAD)}
    FROM {_source("threads", ["session_id text", "thread_id text", *map(_typed, _THREAD)])}
    WHERE threads.session_id = t.session_id AND threads.thread_id = t.thread_id
      AND t.session_id IN (SELECT session_id FROM held)
    RETURNING 1
)
SELECT ARRAY(SELECT session_id FROM held), (SELECT count(*) FROM taken), (SELECT count(*) FROM changed)
"""  # noqa: S608


def write_what_is_right(connection: Connection, items: Sequence[Prepared], *, now_us: int) -> Written:
    """At most one append per session. Raises DBAPIError: nothing of any was written."""
    blob = _Blob()
    rows = {
        "sessions": [_session(append, stored, now_us) for append, stored in items],
        "events": [_event(append.session_id, event, blob) for append, stored in items for event in stored],
        "taken": [
            {"session_id": append.session_id, "arrival": event.arrival, "event_id": event.event_id}
            for append, stored in items
            for event in stored
            if event.arrival is not None
        ],
        "threads": [
            _thread(append.session_id, record) for append, _ in items for record in append.derived.threads
        ],
    }
    values: dict[str, Any] = {name: orjson.dumps(each).decode() for name, each in rows.items()}
    [(session_ids, inputs, changed)] = fetch(
        connection, _WRITE, {**values, "blob": blob.whole(), "now_us": now_us}
    )
    return Written(session_ids=frozenset(session_ids), inputs=inputs, threads=changed)


def _session(append: Append, stored: Sequence[StoredEvent], now_us: int) -> dict[str, Any]:
    derived, lease = append.derived, append.lease
    claims, is_terminated = isinstance(lease, Claim), derived.status == "terminated"
    is_well = append.gets_on or append.releases
    last_at = to_us(stored[-1].processed_at)
    return {
        "session_id": append.session_id,
        "holder": None if claims else lease.owner,
        "seen_seq": append.seen_seq,
        "seen_arrival": append.seen_arrival,
        "first_at": last_at if len(stored) == 1 else to_us(stored[0].processed_at),
        "owner": None if append.releases else lease.owner,
        "epoch": lease.epoch,
        "lease_until": 0 if append.releases else now_us + LEASE_TTL_US if claims else None,
        "failures": 0 if is_well else None,
        "not_before": 0 if is_well or claims else None,
        "last_seq": stored[-1].seq,
        "last_processed_at": last_at,
        "needs_brain_since": now_us if derived.needs_brain and not is_terminated else None,
        "status": derived.status,
        "usage": derived.usage,
        "active_seconds": derived.active_seconds,
        "running_since": _us(derived.running_since),
        "blocked_on": list(derived.blocked_on),
        "stop_reason": derived.stop_reason,
        "requests_cost": str(derived.requests_cost),
        "updated_at": last_at,
        "terminated_at": last_at if is_terminated else None,
    }


def _event(session_id: SessionId, event: StoredEvent, blob: _Blob) -> dict[str, Any]:
    row: dict[str, Any] = {
        "session_id": session_id,
        "seq": event.seq,
        "event_id": event.event_id,
        "arrival": event.arrival,
        "thread_id": event.thread_id,
        "type": event.type,
        "processed_at": to_us(event.processed_at),
        "answers": event.answers,
    }
    blob.put(row, "body", event.body)
    if event.private is not None:
        blob.put(row, "private", orjson.dumps(event.private))
    return row


def _thread(session_id: SessionId, record: ThreadRecord) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "thread_id": record.thread_id,
        "status": record.status,
        "usage": record.usage,
        "active_seconds": record.active_seconds,
        "running_since": _us(record.running_since),
        "updated_at": to_us(record.updated_at),
        "archived_at": _us(record.archived_at),
    }


def _us(moment: Any) -> int | None:
    return None if moment is None else to_us(moment)
