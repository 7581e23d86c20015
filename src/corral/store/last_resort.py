"""Ending the turn of a session that nobody survives folding: rows are counted, contents stay unread."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from corral.kernel.errors import LeaseLost
from corral.kernel.ids import EventId, Ids, ThreadId
from corral.session.closing import OpenCall, Remains, closed_seconds, closed_usage, closing
from corral.session.events import (
    AgentCustomToolUse,
    AgentMcpToolUse,
    AgentToolUse,
    SpanModelRequestEnd,
    SpanModelRequestStart,
)
from corral.session.lease import Lease
from corral.session.log import StoredEvent
from corral.store.accept import lock_record
from corral.store.rows import WAITING, event_row, inbox_entry
from corral.store.schema import events, inbox, sessions, threads

__all__ = ["close_turn"]

_HEAD = select(sessions.c.owner, sessions.c.epoch, sessions.c.last_processed_at).where(
    sessions.c.session_id == bindparam("of_session_id")
)
_SPANS = (
    select(events.c.thread_id, events.c.type, func.max(events.c.seq).label("seq"))
    .where(
        events.c.session_id == bindparam("of_session_id"),
        events.c.type.in_([SpanModelRequestStart.TYPE, SpanModelRequestEnd.TYPE]),
    )
    .group_by(events.c.thread_id, events.c.type)
)
_ID_AT = select(events.c.event_id).where(
    events.c.session_id == bindparam("of_session_id"), events.c.seq == bindparam("at_seq")
)
_answers = events.alias("answers")
_OPEN_CALLS = (
    select(events.c.event_id, events.c.thread_id, events.c.type)
    .where(
        events.c.session_id == bindparam("of_session_id"),
        events.c.type.in_([AgentToolUse.TYPE, AgentMcpToolUse.TYPE, AgentCustomToolUse.TYPE]),
        ~select(_answers.c.seq)
        .where(_answers.c.session_id == events.c.session_id, _answers.c.answers == events.c.event_id)
        .exists(),
    )
    .order_by(events.c.seq)
)
_INBOX = WAITING.order_by(inbox.c.arrival)
_IDLE: dict[str, Any] = {"status": "idle", "running_since": None}
_STOPPED: dict[str, Any] = _IDLE | {"blocked_on": [], "stop_reason": "retries_exhausted"}


def close_turn(
    connection: Connection, lease: Lease, *, message: str, now: datetime, ids: Ids
) -> list[StoredEvent]:
    """Append what ends the turn, empty the inbox, give the lease back. Raises NotFound, LeaseLost."""
    record = lock_record(connection, lease.session_id)
    of_session = {"of_session_id": lease.session_id}
    head = connection.execute(_HEAD, of_session).one()
    if (head.owner, head.epoch) != (lease.owner, lease.epoch):
        raise LeaseLost(f"{lease.session_id}: epoch {lease.epoch} is over")
    remains = Remains(
        record=record,
        requests=_open_requests(connection, of_session),
        calls=[
            OpenCall(
                call_id=EventId(row.event_id),
                thread_id=ThreadId(row.thread_id),
                is_mcp=row.type == AgentMcpToolUse.TYPE,
            )
            for row in connection.execute(_OPEN_CALLS, of_session)
        ],
        inbox=[inbox_entry(row) for row in connection.execute(_INBOX, of_session)],
    )
    stored = closing(remains, message=message, ids=ids, now=now, last_at=head.last_processed_at)
    connection.execute(insert(events), [event_row(lease.session_id, event) for event in stored])
    connection.execute(delete(inbox).where(inbox.c.session_id == lease.session_id))
    last = stored[-1]
    connection.execute(
        update(sessions)
        .where(sessions.c.session_id == lease.session_id)
        .values(
            _STOPPED
            | {
                "owner": None,
                "lease_until": 0,
                "failures": 0,
                "not_before": 0,
                "needs_brain_since": None,
                "last_seq": last.seq,
                "last_processed_at": last.processed_at,
                "updated_at": last.processed_at,
                "active_seconds": closed_seconds(record, at=last.processed_at),
                "usage": closed_usage(record, at=now),
            }
        )
    )
    connection.execute(
        update(threads)
        .where(threads.c.session_id == lease.session_id, threads.c.status != "terminated")
        .values(_IDLE | {"updated_at": last.processed_at})
    )
    return stored


def _open_requests(connection: Connection, of_session: dict[str, Any]) -> list[tuple[EventId, ThreadId]]:
    """A thread makes one request at a time: its last one is open if it began after the last end."""
    last = {(row.thread_id, row.type): row.seq for row in connection.execute(_SPANS, of_session)}
    return [
        (
            EventId(connection.scalar(_ID_AT, {**of_session, "at_seq": seq}) or ""),
            ThreadId(thread_id),
        )
        for (thread_id, kind), seq in sorted(last.items(), key=lambda item: item[1])
        if kind == SpanModelRequestStart.TYPE and seq > last.get((thread_id, SpanModelRequestEnd.TYPE), 0)
    ]
