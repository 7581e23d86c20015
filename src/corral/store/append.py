"""The hot path: all appends of a batch in a handful of statements.

Rules of this file:
- One append per session in a round; rows are locked in the order of their session ids, so that two
  batches (PostgreSQL) cannot wait for each other.
- Everything that can be known before the lock is computed before: seqs are consecutive from
  `seen_seq + 1`, and an append with another idea of the end of the log is Stale.
- On PostgreSQL one statement checks and writes (`append_postgres`), by the rules that are here; who it
  leaves out is looked at here, to be told why.
- When a merged write fails (a consumed input is gone, an id or an answer is already there), the batch is
  run again carefully: its appends one by one, so that only the guilty one fails.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError

from corral.kernel.errors import LeaseLost, NotFound, Stale
from corral.kernel.ids import SessionId
from corral.session.lease import Claim, session_backoff_seconds
from corral.session.log import StoredEvent
from corral.store.append_postgres import SESSION_COLUMNS, THREAD_COLUMNS, write_what_is_right
from corral.store.cleanup import queue_cleanup
from corral.store.freedom import LEASE_TTL_US
from corral.store.locks import one_of
from corral.store.prepared import Prepared
from corral.store.rows import (
    STORED,
    AnySelect,
    event_row,
    insert_threads,
    stored_event,
    thread_values,
)
from corral.store.schema import NOT_HELD_BACK, events, from_us, inbox, sessions, threads
from corral.store.work_offer import end_work, offer_work

_HEADS: AnySelect = select(
    sessions.c.session_id,
    sessions.c.owner,
    sessions.c.epoch,
    sessions.c.lease_until,
    sessions.c.failures,
    sessions.c.not_before,
    sessions.c.last_seq,
    sessions.c.last_arrival,
    type_coerce(sessions.c.last_processed_at, BigInteger).label("last_processed_at"),
    sessions.c.needs_brain_since,
    type_coerce(sessions.c.terminated_at, BigInteger).label("terminated_at"),
).where(one_of(sessions.c.session_id, "session_ids"))
_TAKE = delete(inbox).where(
    inbox.c.session_id == bindparam("of_session_id"),
    inbox.c.arrival == bindparam("of_arrival"),
    inbox.c.event_id == bindparam("of_event_id"),
)
_ADVANCE = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session_id"))
    .values({name: bindparam(name) for name in SESSION_COLUMNS})
)
_ADVANCE_THREADS = (
    update(threads)
    .where(
        threads.c.session_id == bindparam("of_session_id"),
        threads.c.thread_id == bindparam("of_thread_id"),
    )
    .values({name: bindparam(name) for name in THREAD_COLUMNS})
)
_KNOWN_THREADS = select(threads.c.session_id, threads.c.thread_id).where(
    tuple_(threads.c.session_id, threads.c.thread_id).in_(bindparam("keys", expanding=True))
)
_BY_IDS = STORED.where(events.c.event_id.in_(bindparam("event_ids", expanding=True)))


class _Head(NamedTuple):
    """What an append needs to know of its session; of a row of `_HEADS`. Times in microseconds."""

    session_id: SessionId
    owner: str | None
    epoch: int
    lease_until: int
    failures: int
    not_before: int
    last_seq: int
    last_arrival: int
    last_processed_at: int
    needs_brain_since: int | None
    terminated_at: int | None


class _InputGone(Exception):
    """A consumed input is not in the inbox."""


_Answer = Sequence[StoredEvent] | Exception


def append_all(
    connection: Connection, items: Sequence[Prepared], *, careful: bool, now_us: Callable[[Connection], int]
) -> list[_Answer]:
    """Write the appends; each is answered with what is stored, or with why nothing of it is.

    Raises, if not `careful`, what a database or an append that breaks a constraint raises.
    """
    answers: list[_Answer | None] = [None] * len(items)
    waiting = list(enumerate(items))
    while waiting:
        chosen: dict[SessionId, int] = {}
        for number, item in waiting:
            chosen.setdefault(item.append.session_id, number)
        waiting = [(number, item) for number, item in waiting if chosen[item.append.session_id] != number]
        for number, answer in _round(
            connection, items, sorted(chosen.items()), careful=careful, now_us=now_us(connection)
        ):
            answers[number] = answer
    assert all(answer is not None for answer in answers)
    return answers  # type: ignore[return-value]  # the line above


def _round(
    connection: Connection,
    items: Sequence[Prepared],
    chosen: Sequence[tuple[SessionId, int]],
    *,
    careful: bool,
    now_us: int,
) -> list[tuple[int, _Answer]]:
    """One append per session."""
    refused: dict[SessionId, Exception] = {}
    if careful:
        for session_id, number in chosen:
            if (refusal := _try_write(connection, items[number], now_us)) is not None:
                refused[session_id] = refusal
    else:
        refused = _write(connection, [items[number] for _, number in chosen], now_us)
    return [(number, _answer(connection, items[number], refused.get(id_))) for id_, number in chosen]


def _answer(connection: Connection, item: Prepared, refusal: Exception | None) -> _Answer:
    return item.stored if refusal is None else _earlier(connection, item) or refusal


def _heads(connection: Connection, items: Sequence[Prepared]) -> dict[SessionId, _Head]:
    rows = connection.execute(_HEADS, {"session_ids": [item.append.session_id for item in items]})
    return {row.session_id: _Head(*row) for row in rows}


def _refusal(item: Prepared, head: _Head | None, now_us: int) -> Exception | None:
    append, lease = item.append, item.append.lease
    if head is None:
        return NotFound(f"Session {append.session_id!r} was not found.")
    if head.terminated_at is not None:
        return LeaseLost(f"{append.session_id}: the session has ended, its log takes no more events")
    if isinstance(lease, Claim):
        if head.epoch != lease.epoch - 1 or _free_from(head) > now_us:
            return LeaseLost(f"{append.session_id}: epoch {lease.epoch} is not free to claim")
    elif head.epoch != lease.epoch or head.owner != lease.owner:
        return LeaseLost(
            f"{append.session_id}: epoch {lease.epoch} is over, the session is at {head.epoch}"
        )
    if (head.last_seq, head.last_arrival) != (append.seen_seq, append.seen_arrival):
        return Stale(f"{append.session_id}: the log or the inbox has moved on")
    last = from_us(head.last_processed_at)
    for event in item.stored:
        if event.processed_at <= last:
            return AssertionError(f"{append.session_id}: processed_at of seq {event.seq} does not increase")
        last = event.processed_at
    return None


def _free_from(head: _Head) -> int:
    """When the session may be claimed, as `store.lease` has it in SQL."""
    if head.owner is None:
        return int(head.not_before)
    if head.not_before == NOT_HELD_BACK:
        return int(head.lease_until)
    return int(head.lease_until) + int(session_backoff_seconds(head.failures + 1) * 1_000_000)


def _earlier(connection: Connection, item: Prepared) -> Sequence[StoredEvent] | None:
    """What an earlier attempt of this very append has stored."""
    rows = connection.execute(
        _BY_IDS,
        {
            "of_session_id": item.append.session_id,
            "event_ids": [event.event_id for event in item.stored],
        },
    )
    found = {row.event_id: stored_event(row) for row in rows}
    stored = [found.get(event.event_id) for event in item.stored]
    same = [
        earlier
        for earlier, event in zip(stored, item.stored, strict=True)
        if earlier is not None and earlier.body == event.body
    ]
    return same if len(same) == len(item.stored) else None


def _try_write(connection: Connection, item: Prepared, now_us: int) -> Exception | None:
    """Why it was refused, and nothing written: it is not granted, or something is already there, or an
    input no longer is."""
    session_id = item.append.session_id
    try:
        with connection.begin_nested():
            return _write(connection, [item], now_us).get(session_id)
    except (IntegrityError, _InputGone):
        return Stale(f"{session_id}: an input, an event or an answer is already in the log")


def _write(connection: Connection, items: Sequence[Prepared], now_us: int) -> dict[SessionId, Exception]:
    """Who is refused, and why; the others are written."""
    if connection.dialect.name == "postgresql":  # where statements are messages: see there
        written = write_what_is_right(connection, items, now_us=now_us)
        inputs_taken, threads_changed = written.inputs, written.threads
        granted = [item for item in items if item.append.session_id in written.session_ids]
        refused = _reasons(
            connection,
            [item for item in items if item.append.session_id not in written.session_ids],
            now_us,
        )
    else:
        heads = _heads(connection, items)
        checked = [(item, _refusal(item, heads.get(item.append.session_id), now_us)) for item in items]
        granted = [item for item, refusal in checked if refusal is None]
        refused = {item.append.session_id: refusal for item, refusal in checked if refusal is not None}
        inputs_taken, threads_changed = (
            _write_rows(connection, granted, heads, now_us) if granted else (0, 0)
        )
    if inputs_taken != sum(len(item.append.consumes) for item in granted):
        raise _InputGone
    if threads_changed != sum(len(item.append.derived.threads) for item in granted):
        _add_threads(connection, granted)
    for item in granted:
        if item.append.derived.status == "terminated":
            queue_cleanup(connection, item.append.session_id, "sandbox", now=item.stored[-1].processed_at)
            end_work(connection, item.append.session_id, now=from_us(now_us))
        elif item.append.work_for is not None:
            offer_work(connection, item.append.session_id, now_us=now_us)
    return refused


def _reasons(connection: Connection, items: Sequence[Prepared], now_us: int) -> dict[SessionId, Exception]:
    """Why these were not written. Should it look right by now, it is to be tried anew."""
    heads = _heads(connection, items) if items else {}
    return {
        (session_id := item.append.session_id): _refusal(item, heads.get(session_id), now_us)
        or Stale(f"{session_id}: the log or the inbox moved meanwhile")
        for item in items
    }


def _write_rows(
    connection: Connection, granted: Sequence[Prepared], heads: Mapping[SessionId, _Head], now_us: int
) -> tuple[int, int]:
    """How many inputs were there, and how many threads."""
    if not granted:
        return 0, 0
    logged = [event_row(item.append.session_id, event) for item in granted for event in item.stored]
    taken = [
        {
            "of_session_id": item.append.session_id,
            "of_arrival": event.arrival,
            "of_event_id": event.event_id,
        }
        for item in granted
        for event in item.stored
        if event.arrival is not None
    ]
    advanced = [_advanced(item, heads[item.append.session_id], now_us) for item in granted]
    changed = [
        {"of_session_id": item.append.session_id, "of_thread_id": record.thread_id, **thread_values(record)}
        for item in granted
        for record in item.append.derived.threads
    ]
    connection.execute(insert(events), logged)
    inputs_taken = connection.execute(_TAKE, taken).rowcount if taken else 0
    connection.execute(_ADVANCE, advanced)
    threads_changed = connection.execute(_ADVANCE_THREADS, changed).rowcount if changed else 0
    return inputs_taken, threads_changed


def _advanced(item: Prepared, head: _Head, now_us: int) -> Mapping[str, Any]:
    append, derived, last = item.append, item.append.derived, item.stored[-1]
    claims = isinstance(append.lease, Claim)
    is_terminated = derived.status == "terminated"
    is_well = append.gets_on or append.releases
    failures = head.failures + (claims and head.owner is not None)  # a lease that nobody gave back
    needs_brain = derived.needs_brain and not is_terminated
    return {
        "of_session_id": append.session_id,
        "owner": None if append.releases else append.lease.owner,
        "epoch": append.lease.epoch,
        "lease_until": 0 if append.releases else now_us + LEASE_TTL_US if claims else head.lease_until,
        "failures": 0 if is_well else failures,
        "not_before": 0 if is_well or claims else head.not_before,
        "last_seq": last.seq,
        "last_processed_at": last.processed_at,
        "needs_brain_since": (head.needs_brain_since or now_us) if needs_brain else None,
        "status": derived.status,
        "usage": derived.usage,
        "active_seconds": derived.active_seconds,
        "running_since": derived.running_since,
        "blocked_on": list(derived.blocked_on),
        "stop_reason": derived.stop_reason,
        "requests_cost": derived.requests_cost,
        "updated_at": last.processed_at,
        "terminated_at": last.processed_at if is_terminated else None,
    }


def _add_threads(connection: Connection, granted: Sequence[Prepared]) -> None:
    """Insert the threads that the update did not find: they begin with this append."""
    told = [(item.append.session_id, record) for item in granted for record in item.append.derived.threads]
    keys = [(session_id, record.thread_id) for session_id, record in told]
    known = {tuple(row) for row in connection.execute(_KNOWN_THREADS, {"keys": keys})}
    insert_threads(connection, [each for each, key in zip(told, keys, strict=True) if key not in known])
