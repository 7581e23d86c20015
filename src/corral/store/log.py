"""The session log on the database. What each statement does is in append, accept and reading."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from corral.kernel.crash import crash_point
from corral.kernel.errors import Stale, Stop
from corral.kernel.ids import EnvironmentId, Ids, SessionId
from corral.kernel.metrics import count, observe
from corral.session.bus import Bus, Committed
from corral.session.events import Event
from corral.session.lease import Lease
from corral.session.log import Append, EventFilter, EventPage, InboxEntry, Position, Snapshot, StoredEvent
from corral.session.work import topic
from corral.store import reading
from corral.store.accept import accept
from corral.store.append import append_all
from corral.store.database import Database
from corral.store.last_resort import close_turn
from corral.store.prepared import Prepared, prepare

__all__ = ["Log"]


class Log:
    """`session.log.SessionLog`. Tells the bus what is durable, after each commit."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._ids = Ids()

    async def append(self, append: Append) -> Sequence[StoredEvent]:
        def committed(stored: Sequence[StoredEvent]) -> None:
            count("events_appended", len(stored))
            self._bus.publish(Committed(session_id=append.session_id, entries=tuple(stored)))
            if append.releases and append.derived.needs_brain:
                self._bus.wake(append.session_id)
            if append.work_for is not None:
                self._bus.publish(Committed(session_id=topic(append.work_for)))

        crash_point("store.append.before")
        if append.consumes:
            crash_point("store.consume.before")
        asked_at = time.perf_counter()
        try:
            prepared = prepare(append)
            stored = await self._database.merge(
                self._append_all,
                prepared,
                locks=[append.session_id],
                committed=committed,
                size=sum(len(event.body) for event in prepared.stored),
            )
        except Stop as refusal:
            count("appends_refused", reason="stale" if isinstance(refusal, Stale) else "fenced")
            raise
        observe("append_seconds", time.perf_counter() - asked_at)
        if append.consumes:
            crash_point("store.consume.after")
        crash_point("store.append.after")
        return stored

    def _append_all(
        self, connection: Connection, items: Sequence[Prepared], /, *, careful: bool
    ) -> list[Sequence[StoredEvent] | Exception]:
        outcomes = append_all(connection, items, careful=careful, now_us=self._database.now_us)
        crash_point("store.append.written")
        return outcomes

    async def close_turn(self, lease: Lease, *, message: str, now: datetime) -> Sequence[StoredEvent]:
        return await self._database.write(
            lambda connection: close_turn(connection, lease, message=message, now=now, ids=self._ids),
            locks=[lease.session_id],
            committed=lambda stored: self._bus.publish(
                Committed(session_id=lease.session_id, entries=tuple(stored))
            ),
        )

    async def accept(
        self, session_id: SessionId, inputs: Sequence[Event], *, now: datetime
    ) -> Sequence[StoredEvent | InboxEntry]:
        new_ids = {event.id for event in inputs}
        offered: list[EnvironmentId] = []

        def body(connection: Connection) -> list[StoredEvent | InboxEntry]:
            offered.clear()
            entries = accept(
                connection,
                session_id,
                inputs,
                now=now,
                now_us=self._database.now_us(connection),
                offered=offered,
            )
            crash_point("store.accept.written")
            return entries

        def committed(entries: Sequence[StoredEvent | InboxEntry]) -> None:
            new = tuple(entry for entry in entries if entry.event_id in new_ids)
            if new:  # a duplicate answers with an event that was published when it was stored
                self._bus.publish(Committed(session_id=session_id, entries=new))
                self._bus.wake(session_id)
            for environment_id in offered:
                self._bus.publish(Committed(session_id=topic(environment_id)))

        crash_point("store.accept.before")
        entries = await self._database.write(
            body, locks=[session_id], checks_first=True, committed=committed
        )
        crash_point("store.accept.after")
        return entries

    async def snapshot(self, session_id: SessionId, *, after_seq: int = 0) -> Snapshot:
        return await self._database.read(
            lambda connection: reading.snapshot(connection, session_id, after_seq=after_seq)
        )

    async def page(
        self,
        session_id: SessionId,
        where: EventFilter,
        *,
        descending: bool,
        limit: int,
        after: Position | None = None,
    ) -> EventPage:
        return await self._database.read(
            lambda connection: reading.page(
                connection, session_id, where, descending=descending, limit=limit, after=after
            )
        )

    async def tail(self, session_id: SessionId, after: Position, *, limit: int) -> EventPage:
        return await self._database.read(
            lambda connection: reading.tail(connection, session_id, after, limit=limit)
        )

    async def ends(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, Position]:
        return await self._database.read(lambda connection: reading.ends(connection, session_ids))
