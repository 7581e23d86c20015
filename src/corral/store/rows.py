"""Rows to records and back: the one place where column names meet field names."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import orjson
from sqlalchemy import (
    BigInteger,
    Connection,
    LargeBinary,
    Row,
    bindparam,
    insert,
    select,
    type_coerce,
)
from sqlalchemy.sql import Select

from corral.kernel.ids import EnvironmentId, EventId, SessionId, ThreadId, VaultId, WorkspaceId
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord, ThreadRecord
from corral.session.resources import Resource
from corral.store.driver import Query
from corral.store.schema import (
    events,
    from_us,
    inbox,
    session_details,
    sessions,
    thread_details,
    threads,
)

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
AnySelect: TypeAlias = Select[*tuple[Any, ...]]

RECORDS: AnySelect = select(
    sessions,
    session_details.c.title,
    session_details.c.metadata,
    session_details.c.agent,
    session_details.c.environment,
    session_details.c.vault_ids,
    session_details.c.resources,
    session_details.c.budget,
    session_details.c.runtime_rate,
    session_details.c.skills,
).join_from(sessions, session_details, sessions.c.session_id == session_details.c.session_id)

_THREADS = (
    select(threads, thread_details.c.parent_thread_id, thread_details.c.agent)
    .join_from(
        threads,
        thread_details,
        (threads.c.session_id == thread_details.c.session_id)
        & (threads.c.thread_id == thread_details.c.thread_id),
    )
    .where(threads.c.session_id.in_(bindparam("session_ids", expanding=True)))
    .order_by(threads.c.session_id, threads.c.created_at, threads.c.thread_id)
)

# A row for each thread: nearly always one, so its session is rarely repeated.
_OF_THREAD = "thread_"
_RECORD = Query(
    RECORDS.add_columns(
        *(
            column.label(_OF_THREAD + column.name)
            for column in (*threads.c, thread_details.c.parent_thread_id, thread_details.c.agent)
        )
    )
    .outerjoin(threads, threads.c.session_id == sessions.c.session_id)
    .outerjoin(
        thread_details,
        (thread_details.c.session_id == threads.c.session_id)
        & (thread_details.c.thread_id == threads.c.thread_id),
    )
    .where(sessions.c.session_id == bindparam("of_session_id"))
    .order_by(threads.c.created_at, threads.c.thread_id)
)

STORED: AnySelect = select(
    events.c.seq,
    events.c.event_id,
    events.c.type,
    events.c.thread_id,
    events.c.arrival,
    events.c.body,
    # As the database has them: `stored_event` converts, in a third of the time that typed columns take.
    type_coerce(events.c.private, LargeBinary).label("private"),
    type_coerce(events.c.processed_at, BigInteger).label("processed_at"),
    events.c.answers,
).where(events.c.session_id == bindparam("of_session_id"))

WAITING: AnySelect = select(
    inbox.c.arrival, inbox.c.event_id, inbox.c.type, inbox.c.thread_id, inbox.c.body, inbox.c.private
).where(inbox.c.session_id == bindparam("of_session_id"))


def read_record(connection: Connection, session_id: SessionId) -> SessionRecord | None:
    """The record with its threads; None if there is none."""
    rows = _RECORD.all(connection, {"of_session_id": session_id})
    of_session = [_thread(row, _OF_THREAD) for row in rows if row.thread_thread_id is not None]
    return _session(rows[0], tuple(of_session)) if rows else None


def read_records(
    connection: Connection, statement: AnySelect, values: Mapping[str, Any]
) -> list[SessionRecord]:
    """The records of a statement made from RECORDS, in its order."""
    rows = connection.execute(statement, values).all()
    if not rows:
        return []
    thread_rows = connection.execute(_THREADS, {"session_ids": [row.session_id for row in rows]})
    of_session = {
        session_id: tuple(_thread(row) for row in group)
        for session_id, group in groupby(thread_rows, key=lambda row: row.session_id)
    }
    return [_session(row, of_session.get(row.session_id, ())) for row in rows]


def stored_event(row: AnyRow) -> StoredEvent:
    """Of a row of STORED."""
    seq, event_id, type_, thread_id, arrival, body, private, processed_at, answers = row
    return StoredEvent(
        seq,
        event_id,
        type_,
        thread_id,
        arrival,
        bytes(body),
        None if private is None else orjson.loads(private),
        from_us(processed_at),
        answers,
    )


def inbox_entry(row: AnyRow) -> InboxEntry:
    return InboxEntry(
        arrival=row.arrival,
        event_id=EventId(row.event_id),
        type=row.type,
        thread_id=ThreadId(row.thread_id),
        body=bytes(row.body),
        private=row.private,
    )


def event_row(session_id: SessionId, event: StoredEvent) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "seq": event.seq,
        "event_id": event.event_id,
        "arrival": event.arrival,
        "thread_id": event.thread_id,
        "type": event.type,
        "body": event.body,
        "private": event.private,
        "processed_at": event.processed_at,
        "answers": event.answers,
    }


def inbox_row(session_id: SessionId, entry: InboxEntry) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "arrival": entry.arrival,
        "event_id": entry.event_id,
        "thread_id": entry.thread_id,
        "type": entry.type,
        "body": entry.body,
        "private": entry.private,
    }


def thread_values(record: ThreadRecord) -> dict[str, Any]:
    """What of a thread changes."""
    return {
        "status": record.status,
        "usage": record.usage,
        "active_seconds": record.active_seconds,
        "running_since": record.running_since,
        "updated_at": record.updated_at,
        "archived_at": record.archived_at,
    }


def insert_threads(connection: Connection, new: Sequence[tuple[SessionId, ThreadRecord]]) -> None:
    connection.execute(
        insert(threads),
        [
            {
                "session_id": session_id,
                "thread_id": record.thread_id,
                "created_at": record.created_at,
                **thread_values(record),
            }
            for session_id, record in new
        ],
    )
    connection.execute(
        insert(thread_details),
        [
            {
                "session_id": session_id,
                "thread_id": record.thread_id,
                "parent_thread_id": record.parent_thread_id,
                "agent": record.agent,
            }
            for session_id, record in new
        ],
    )


def resources_of(stored: list[dict[str, Any]] | None) -> tuple[Resource, ...]:
    return tuple(Resource(body=each["body"], private=each["private"]) for each in stored or ())


def stored_resources(resources: Sequence[Resource]) -> list[dict[str, Any]] | None:
    """Inverse of `resources_of`."""
    return [{"body": each.body, "private": each.private} for each in resources] or None


def _thread(row: AnyRow, prefix: str = "") -> ThreadRecord:
    def field(name: str) -> Any:
        return getattr(row, prefix + name)

    return ThreadRecord(
        thread_id=field("thread_id"),
        parent_thread_id=field("parent_thread_id"),
        agent=field("agent"),
        status=field("status"),
        usage=field("usage"),
        active_seconds=field("active_seconds"),
        running_since=field("running_since"),
        created_at=field("created_at"),
        updated_at=field("updated_at"),
        archived_at=field("archived_at"),
    )


def _session(row: AnyRow, of_session: Sequence[ThreadRecord]) -> SessionRecord:
    return SessionRecord(
        session_id=SessionId(row.session_id),
        primary_thread_id=ThreadId(row.primary_thread_id),
        title=row.title,
        metadata=row.metadata,
        agent=row.agent,
        environment_id=EnvironmentId(row.environment_id),
        environment=row.environment,
        vault_ids=tuple(VaultId(vault_id) for vault_id in row.vault_ids or ()),
        resources=resources_of(row.resources),
        skills=tuple(row.skills or ()),
        status=row.status,
        usage=row.usage,
        active_seconds=row.active_seconds,
        running_since=row.running_since,
        blocked_on=row.blocked_on,
        stop_reason=row.stop_reason,
        budget=row.budget,
        requests_cost=row.requests_cost,
        runtime_rate=row.runtime_rate,
        last_seq=row.last_seq,
        last_arrival=row.last_arrival,
        epoch=row.epoch,
        failures=row.failures,
        api_key_id=row.api_key_id,
        workspace_id=WorkspaceId(row.workspace_id),
        created_at=row.created_at,
        updated_at=row.updated_at,
        archived_at=row.archived_at,
        terminated_at=row.terminated_at,
        threads=of_session,
    )
