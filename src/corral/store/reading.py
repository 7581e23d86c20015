"""Reading a session: what a brain folds, what a list pages through, what a stream has not seen.

A position is (last seq, last arrival given). Ascending, the log after `seq` comes first and then the
inbox after `arrival`: an input that was processed since is found in the log. Descending, the inbox
comes first; `arrival` > 0 says that the reader is still in it, and `seq` is then one above the end of
the log when the listing began, so that nothing moves past it unseen.
"""

from collections.abc import Sequence

import orjson
from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select

from corral.kernel.errors import NotFound
from corral.kernel.ids import SessionId
from corral.session.log import EventFilter, EventPage, InboxEntry, Position, Snapshot, StoredEvent
from corral.store.driver import Query
from corral.store.rows import STORED, WAITING, AnySelect, inbox_entry, read_record, stored_event
from corral.store.schema import events, inbox, sessions, tombstones

Entry = StoredEvent | InboxEntry

_ENDS = Query(
    select(sessions.c.last_seq, sessions.c.last_arrival).where(
        sessions.c.session_id == bindparam("of_session_id")
    )
)
_ENDS_OF = select(sessions.c.session_id, sessions.c.last_seq, sessions.c.last_arrival).where(
    sessions.c.session_id.in_(bindparam("session_ids", expanding=True))
)
_DELETED = select(tombstones.c.session_id).where(tombstones.c.session_id == bindparam("of_session_id"))
_LOG_AFTER = STORED.where(events.c.seq > bindparam("after_seq")).order_by(events.c.seq)
_INBOX_AFTER = WAITING.where(inbox.c.arrival > bindparam("after_arrival")).order_by(inbox.c.arrival)
_LOG = Query(_LOG_AFTER)
_INBOX = Query(_INBOX_AFTER)
_ARRIVED = STORED.where(
    events.c.arrival > bindparam("after_arrival"),
    events.c.arrival <= bindparam("to_arrival"),
    events.c.seq > bindparam("after_seq"),
).order_by(events.c.arrival)


def snapshot(connection: Connection, session_id: SessionId, *, after_seq: int) -> Snapshot:
    record = read_record(connection, session_id)
    if record is None:
        raise not_found(connection, session_id)
    of_session = {"of_session_id": session_id}
    log = _LOG.all(connection, of_session | {"after_seq": after_seq})
    waiting = _INBOX.all(connection, of_session | {"after_arrival": 0})
    return Snapshot(
        record=record,
        events=[stored_event(row) for row in log],
        inbox=[inbox_entry(row) for row in waiting],
    )


def page(
    connection: Connection,
    session_id: SessionId,
    where: EventFilter,
    *,
    descending: bool,
    limit: int,
    after: Position | None,
) -> EventPage:
    last_seq = _ends(connection, session_id)[0]
    if descending:
        entries = _descending(connection, session_id, where, limit + 1, after, last_seq)
    else:
        entries = _ascending(connection, session_id, where, limit + 1, after or Position())
    given = entries[:limit]
    if len(entries) == len(given) or not given:
        return EventPage(events=given, next_position=None)
    match given[-1]:
        case StoredEvent() as event:
            # Descending, the inbox is behind; ascending, it goes on where an earlier page may have left it.
            position = Position(seq=event.seq, arrival=0 if descending or after is None else after.arrival)
        case InboxEntry() as entry if descending:
            top = after.seq if after and after.arrival else last_seq + 1
            position = Position(seq=top, arrival=entry.arrival)
        case InboxEntry() as entry:
            position = Position(seq=last_seq, arrival=entry.arrival)
    return EventPage(events=given, next_position=position)


def _ascending(
    connection: Connection, session_id: SessionId, where: EventFilter, limit: int, after: Position
) -> list[Entry]:
    log = _matching_log(where).where(events.c.seq > after.seq).order_by(events.c.seq)
    entries = _log_rows(connection, session_id, log, limit)
    waiting = _matching_inbox(where)
    if waiting is not None and len(entries) < limit:
        waiting = waiting.where(inbox.c.arrival > after.arrival).order_by(inbox.c.arrival)
        entries += _inbox_rows(connection, session_id, waiting, limit - len(entries))
    return entries


def _descending(
    connection: Connection,
    session_id: SessionId,
    where: EventFilter,
    limit: int,
    after: Position | None,
    last_seq: int,
) -> list[Entry]:
    entries: list[Entry] = []
    waiting = _matching_inbox(where)
    if waiting is not None and (after is None or after.arrival):
        if after is not None:
            waiting = waiting.where(inbox.c.arrival < after.arrival)
        entries = _inbox_rows(connection, session_id, waiting.order_by(inbox.c.arrival.desc()), limit)
    if len(entries) < limit:
        log = _matching_log(where)
        if after is not None:
            # Inputs that were still to be given, but have moved into the log meanwhile, are given there.
            log = log.where(or_(events.c.seq < after.seq, events.c.arrival < after.arrival))
        log = log.order_by(events.c.seq.desc())
        entries += _log_rows(connection, session_id, log, limit - len(entries))
    return entries


def tail(connection: Connection, session_id: SessionId, after: Position, *, limit: int) -> EventPage:
    """Log entries in order, each input's echo before it, and echoes in the order of their arrival; every
    prefix is a valid position."""
    last_seq, last_arrival = _ends(connection, session_id)
    entries: list[Entry] = []
    if last_seq > after.seq or last_arrival > after.arrival:
        entries = _tail(connection, session_id, after, limit + 1)
    given = entries[:limit]
    position = after
    for entry in given:
        if isinstance(entry, StoredEvent):
            position = Position(seq=entry.seq, arrival=position.arrival)
        else:
            position = Position(seq=position.seq, arrival=entry.arrival)
    return EventPage(events=given, next_position=position if len(entries) > limit else None)


def ends(connection: Connection, session_ids: Sequence[SessionId]) -> dict[SessionId, Position]:
    rows = connection.execute(_ENDS_OF, {"session_ids": list(session_ids)})
    return {SessionId(row.session_id): Position(seq=row.last_seq, arrival=row.last_arrival) for row in rows}


def _tail(connection: Connection, session_id: SessionId, after: Position, limit: int) -> list[Entry]:
    log = _log_rows(
        connection, session_id, STORED.where(events.c.seq > after.seq).order_by(events.c.seq), limit
    )
    waiting = connection.execute(
        _INBOX_AFTER.limit(limit), {"of_session_id": session_id, "after_arrival": after.arrival}
    )
    echoes = {row.arrival: inbox_entry(row) for row in waiting}
    highest = max((entry.arrival or 0 for entry in log), default=0)
    if highest > after.arrival:
        # Some may be further up the log than this page reaches, processed later than they arrived.
        processed = connection.execute(
            _ARRIVED,
            {
                "of_session_id": session_id,
                "after_arrival": after.arrival,
                "to_arrival": highest,
                "after_seq": after.seq,
            },
        )
        echoes |= {row.arrival: _echo(stored_event(row)) for row in processed}
    pending = [echoes[arrival] for arrival in sorted(echoes)]
    pending.reverse()
    entries: list[Entry] = []
    for event in log:
        while pending and event.arrival is not None and pending[-1].arrival <= event.arrival:
            entries.append(pending.pop())
        entries.append(event)
    entries += reversed(pending)  # past the limit, and so cut off, if the log goes on
    return entries


def _echo(event: StoredEvent) -> InboxEntry:
    """The input as it was when it waited."""
    assert event.arrival is not None
    return InboxEntry(
        arrival=event.arrival,
        event_id=event.event_id,
        type=event.type,
        thread_id=event.thread_id,
        body=orjson.dumps(orjson.loads(event.body) | {"processed_at": None}),
    )


def not_found(connection: Connection, session_id: SessionId) -> NotFound:
    """Says "deleted" as long as the tombstone is there."""
    is_deleted = connection.execute(_DELETED, {"of_session_id": session_id}).first() is not None
    return NotFound(f"Session {session_id!r} {'has been deleted' if is_deleted else 'was not found'}.")


def _ends(connection: Connection, session_id: SessionId) -> tuple[int, int]:
    row = _ENDS.first(connection, {"of_session_id": session_id})
    if row is None:
        raise not_found(connection, session_id)
    return row.last_seq, row.last_arrival


def _log_rows(
    connection: Connection, session_id: SessionId, statement: AnySelect, limit: int
) -> list[Entry]:
    rows = connection.execute(statement.limit(limit), {"of_session_id": session_id})
    return [stored_event(row) for row in rows]


def _inbox_rows(
    connection: Connection, session_id: SessionId, statement: AnySelect, limit: int
) -> list[Entry]:
    rows = connection.execute(statement.limit(limit), {"of_session_id": session_id})
    return [inbox_entry(row) for row in rows]


def _matching_log(where: EventFilter) -> AnySelect:
    conditions: list[ColumnElement[bool]] = []
    if where.types:
        conditions.append(events.c.type.in_(where.types))
    if where.thread_id is not None:
        conditions.append(events.c.thread_id == where.thread_id)
    if where.created_gt is not None:
        conditions.append(events.c.processed_at > where.created_gt)
    if where.created_gte is not None:
        conditions.append(events.c.processed_at >= where.created_gte)
    if where.created_lt is not None:
        conditions.append(events.c.processed_at < where.created_lt)
    if where.created_lte is not None:
        conditions.append(events.c.processed_at <= where.created_lte)
    return STORED.where(and_(True, *conditions))


def _matching_inbox(where: EventFilter) -> AnySelect | None:
    """None if no entry can match: what waits has no time yet."""
    times: Sequence[object] = (where.created_gt, where.created_gte, where.created_lt, where.created_lte)
    if any(time is not None for time in times):
        return None
    statement = WAITING
    if where.types:
        statement = statement.where(inbox.c.type.in_(where.types))
    if where.thread_id is not None:
        statement = statement.where(inbox.c.thread_id == where.thread_id)
    return statement
