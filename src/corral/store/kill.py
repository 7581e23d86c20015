"""Kills on the database: found by a reader in pages, told under the row lock of each session."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from corral.kernel.errors import NotFound
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import KILL_BATCH_MAX
from corral.session.bus import Bus, Committed
from corral.session.events import UserInterrupt, UserMessage
from corral.session.kill import Killed, KillTarget
from corral.session.log import InboxEntry
from corral.session.record import SessionRecord
from corral.store.database import Database
from corral.store.locks import lock_sessions
from corral.store.reading import not_found
from corral.store.rows import WAITING, inbox_entry, inbox_row, read_record
from corral.store.schema import NOT_HELD_BACK, JsonBytes, inbox, sessions

__all__ = ["Kills"]

_NOTHING = bindparam("nothing", value=[], type_=JsonBytes())
_HAS_WORK = or_(sessions.c.needs_brain_since.is_not(None), sessions.c.blocked_on != _NOTHING)
_FOUND = (
    select(sessions.c.session_id)
    .where(
        sessions.c.session_id > bindparam("after"),
        sessions.c.created_at <= bindparam("before"),
        sessions.c.terminated_at.is_(None),
        _HAS_WORK,
    )
    .order_by(sessions.c.session_id)
    .limit(KILL_BATCH_MAX + 1)
)
_INBOX = WAITING.order_by(inbox.c.arrival)
_NEEDS_BRAIN = select(sessions.c.needs_brain_since).where(
    sessions.c.session_id == bindparam("of_session_id")
)
_TELL = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session_id"))
    .values(
        last_arrival=bindparam("to_arrival"),
        needs_brain_since=func.coalesce(sessions.c.needs_brain_since, bindparam("since")),
        not_before=NOT_HELD_BACK,  # stopping does not wait, not even for who let its lease pass
    )
)


class Kills:
    """`session.kill.KillStore`."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._ids = Ids()

    async def kill(
        self, target: KillTarget, *, reason: str, now: datetime, after: SessionId | None, before: datetime
    ) -> Killed:
        found = [target.session_id] if target.session_id else await self._find(target, after, before)
        chosen = found[:KILL_BATCH_MAX]
        told: dict[SessionId, InboxEntry] = {}

        def body(connection: Connection) -> dict[SessionId, InboxEntry]:
            now_us = self._database.now_us(connection)
            entries: dict[SessionId, InboxEntry] = {}
            lock_sessions(connection, chosen)
            for session_id in chosen:
                record = read_record(connection, session_id)
                if record is None and target.session_id:
                    raise not_found(connection, session_id)
                if record is not None and target.workspace_id not in (None, record.workspace_id):
                    raise NotFound(f"Session {session_id!r} was not found.")
                entry = None if record is None else self._tell(connection, record, reason, now_us)
                if entry is not None:
                    entries[session_id] = entry
            return entries

        def committed(entries: dict[SessionId, InboxEntry]) -> None:
            for session_id, entry in entries.items():
                self._bus.publish(Committed(session_id=session_id, entries=(entry,)))
                self._bus.wake(session_id)

        if chosen:
            told = await self._database.write(body, locks=chosen, checks_first=True, committed=committed)
        return Killed(session_ids=list(told), after=chosen[-1] if len(found) > len(chosen) else None)

    async def _find(
        self, target: KillTarget, after: SessionId | None, before: datetime
    ) -> Sequence[SessionId]:
        statement = _FOUND
        if target.agent_id is not None:
            statement = statement.where(sessions.c.agent_id == target.agent_id)
        if target.workspace_id is not None:
            statement = statement.where(sessions.c.workspace_id == target.workspace_id)

        def body(connection: Connection) -> list[SessionId]:
            rows = connection.scalars(statement, {"after": after or "", "before": before})
            return [SessionId(session_id) for session_id in rows]

        return await self._database.read(body)

    def _tell(
        self, connection: Connection, record: SessionRecord, reason: str, now_us: int
    ) -> InboxEntry | None:
        """Queue the interrupt, unless the session does nothing, has ended, or was told already."""
        of_session = {"of_session_id": record.session_id}
        waiting = [inbox_entry(row) for row in connection.execute(_INBOX, of_session)]
        has_work = (
            connection.scalar(_NEEDS_BRAIN, of_session) is not None
            or record.status in ("running", "rescheduling")
            or bool(record.blocked_on)
            or any(entry.type == UserMessage.TYPE for entry in waiting)
        )
        was_told = any("kill" in (entry.private or {}) for entry in waiting)
        if not has_work or was_told or record.status == "terminated" or record.archived_at is not None:
            return None
        event = UserInterrupt(id=self._ids.event())
        entry = InboxEntry(
            arrival=record.last_arrival + 1,
            event_id=event.id,
            type=event.type,
            thread_id=record.primary_thread_id,
            body=event.body(processed_at=None),
            private={"kill": {"reason": reason}},
        )
        connection.execute(insert(inbox), inbox_row(record.session_id, entry))
        connection.execute(_TELL, of_session | {"to_arrival": entry.arrival, "since": now_us})
        return entry
