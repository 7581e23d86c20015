"""Accepting client-sent events: admission under the row lock, then the inbox or the log."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from corral.kernel.ids import EnvironmentId, EventId, SessionId, ThreadId
from corral.session.events import Event, UserToolConfirmation, parse
from corral.session.inbox import Admitted, View, admit, is_self_hosted, left_to_run, referenced
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord
from corral.store.driver import Query
from corral.store.locks import lock_sessions
from corral.store.reading import not_found
from corral.store.rows import (
    STORED,
    WAITING,
    event_row,
    inbox_entry,
    inbox_row,
    read_record,
    stored_event,
)
from corral.store.schema import events, inbox, sessions
from corral.store.work_offer import has_live_work, offer_work

Entry = StoredEvent | InboxEntry
Fact = tuple[Event, ThreadId, EventId | None]
"""An event, its thread, and the tool use that it answers."""

_MICROSECOND = timedelta(microseconds=1)

_INBOX = Query(WAITING.order_by(inbox.c.arrival))
_TOOL_USES = STORED.where(events.c.event_id.in_(bindparam("event_ids", expanding=True)))
_ANSWERS = STORED.where(events.c.answers.in_(bindparam("event_ids", expanding=True)))
_CONFIRMATIONS = STORED.where(
    events.c.seq > bindparam("after_seq"), events.c.type == UserToolConfirmation.TYPE
)
_LAST_PROCESSED = select(sessions.c.last_processed_at).where(
    sessions.c.session_id == bindparam("of_session_id")
)
_END_OF_LOG = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session_id"))
    .values(
        last_seq=bindparam("to_seq"),
        last_processed_at=bindparam("to_processed_at"),
        updated_at=bindparam("to_processed_at"),
    )
)
_NEEDS_BRAIN = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session_id"))
    .values(
        last_arrival=bindparam("to_arrival"),
        needs_brain_since=func.coalesce(sessions.c.needs_brain_since, bindparam("since")),
    )
)


def lock_record(connection: Connection, session_id: SessionId) -> SessionRecord:
    """The record, its row locked until the commit. Raises NotFound."""
    lock_sessions(connection, [session_id])
    record = read_record(connection, session_id)
    if record is None:
        raise not_found(connection, session_id)
    return record


def accept(
    connection: Connection,
    session_id: SessionId,
    inputs: Sequence[Event],
    *,
    now: datetime,
    now_us: int,
    offered: list[EnvironmentId],
) -> list[Entry]:
    """What was stored, in order, and for a duplicate what had been. What had no effect is left out. Adds to
    `offered` the environment whose workers have work by this.

    Raises NotFound and what `admit` raises; nothing is written then.
    """
    record = lock_record(connection, session_id)
    view = view_of(connection, record, inputs, now)
    if is_self_hosted(record.environment) and left_to_run(view):
        view = replace(view, work_failed=not has_live_work(connection, session_id, now_us=now_us))
    admitted = admit(view, inputs)
    if any(item.wants_worker for item in admitted):
        offered.append(record.environment_id)
    return store_inputs(connection, record, admitted, now=now, now_us=now_us)


def store_inputs(
    connection: Connection,
    record: SessionRecord,
    admitted: Sequence[Admitted],
    *,
    now: datetime,
    now_us: int,
) -> list[Entry]:
    """Put each where it goes, and note that the session needs a brain if any of them does."""
    to_log = [(item.event, item.thread_id, item.answers) for item in admitted if item.to == "log"]
    stored = iter(log_facts(connection, record, to_log, now=now))
    waiting: list[InboxEntry] = []
    entries: list[Entry] = []
    for item in admitted:
        if item.to == "nowhere":
            if item.duplicate_of is not None:
                entries.append(item.duplicate_of)
        elif item.to == "log":
            entries.append(next(stored))
        else:
            waiting.append(_waiting(item, record.last_arrival + len(waiting) + 1))
            entries.append(waiting[-1])
    if waiting:
        connection.execute(insert(inbox), [inbox_row(record.session_id, entry) for entry in waiting])
    if any(item.wants_worker for item in admitted):
        offer_work(connection, record.session_id, now_us=now_us)
    needs_brain = any(item.needs_brain for item in admitted)
    if waiting or needs_brain:
        connection.execute(
            _NEEDS_BRAIN,
            {
                "of_session_id": record.session_id,
                "to_arrival": record.last_arrival + len(waiting),
                "since": now_us if needs_brain else None,
            },
        )
    return entries


def log_facts(
    connection: Connection,
    record: SessionRecord,
    facts: Sequence[Fact],
    *,
    now: datetime,
) -> list[StoredEvent]:
    """Append at once, under the row lock; no brain is needed for it."""
    if not facts:
        return []
    last = connection.scalar(_LAST_PROCESSED, {"of_session_id": record.session_id})
    assert last is not None
    stored: list[StoredEvent] = []
    for seq, (event, thread_id, answers) in enumerate(facts, start=record.last_seq + 1):
        last = max(now, last + _MICROSECOND)
        stored.append(
            StoredEvent(
                seq=seq,
                event_id=event.id,
                type=event.type,
                thread_id=thread_id,
                arrival=None,
                body=event.body(processed_at=last),
                private=None,
                processed_at=last,
                answers=answers,
            )
        )
    connection.execute(insert(events), [event_row(record.session_id, event) for event in stored])
    connection.execute(
        _END_OF_LOG,
        {"of_session_id": record.session_id, "to_seq": stored[-1].seq, "to_processed_at": last},
    )
    return stored


def _waiting(item: Admitted, arrival: int) -> InboxEntry:
    return InboxEntry(
        arrival=arrival,
        event_id=item.event.id,
        type=item.event.type,
        thread_id=item.thread_id,
        body=item.event.body(processed_at=None),
    )


def view_of(connection: Connection, record: SessionRecord, inputs: Sequence[Event], now: datetime) -> View:
    """What admission looks at, under the row lock."""
    of_session: dict[str, Any] = {"of_session_id": record.session_id}
    waiting = [inbox_entry(row) for row in _INBOX.all(connection, of_session)]
    named = referenced(inputs)
    has_workers = is_self_hosted(record.environment)
    if has_workers:
        named = [*{*named, *map(EventId, record.blocked_on)}]
    if not named:
        return View(record=record, inbox=waiting, now=now)
    of_named = of_session | {"event_ids": named}
    tool_uses = {use.event_id: use for use in map(stored_event, connection.execute(_TOOL_USES, of_named))}
    answers = {
        answer.answers: answer
        for answer in map(stored_event, connection.execute(_ANSWERS, of_named))
        if answer.answers is not None
    }
    confirmations = [entry.body for entry in waiting if entry.type == UserToolConfirmation.TYPE]
    if tool_uses and (has_workers or any(isinstance(event, UserToolConfirmation) for event in inputs)):
        # A confirmation follows its tool use: the log before the first of these need not be searched.
        first = min(use.seq for use in tool_uses.values())
        logged = connection.execute(_CONFIRMATIONS, of_session | {"after_seq": first})
        confirmations += [bytes(row.body) for row in logged]
    confirmed = dict(map(_confirmed, confirmations))
    return View(
        record=record,
        inbox=waiting,
        now=now,
        tool_uses=tool_uses,
        answers=answers,
        confirmations={each: result for each, result in confirmed.items() if each in named},
    )


def _confirmed(body: bytes) -> tuple[EventId, Literal["allow", "deny"]]:
    confirmation = parse(body)
    assert isinstance(confirmation, UserToolConfirmation)
    return confirmation.tool_use_id, confirmation.result
