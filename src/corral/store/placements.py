"""Placements on the database: one row per session that is on a host."""

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from corral.cluster.placement import Placed, Why
from corral.kernel.ids import SessionId
from corral.store.database import Database
from corral.store.locks import lock_sessions
from corral.store.reading import not_found
from corral.store.schema import events, from_us, placements, sessions, to_us, tombstones

__all__ = ["Placements"]

_FIND = (
    select(placements.c.host_id, placements.c.placed_at, sessions.c.epoch)
    .join_from(placements, sessions, placements.c.session_id == sessions.c.session_id, isouter=True)
    .where(placements.c.session_id == bindparam("of_session_id"))
)
_HEAD = select(sessions.c.epoch, sessions.c.owner, sessions.c.lease_until).where(
    sessions.c.session_id == bindparam("of_session_id")
)
_MOVE = update(placements).where(placements.c.session_id == bindparam("of_session_id"))
_REMOVE = delete(placements).where(
    placements.c.session_id == bindparam("of_session_id"), placements.c.host_id == bindparam("of_host_id")
)
_ON_HOST = (
    select(placements.c.session_id, placements.c.placed_at)
    .where(placements.c.host_id == bindparam("of_host_id"), placements.c.session_id > bindparam("after_id"))
    .order_by(placements.c.session_id)
)
_KNOWN = (
    select(sessions.c.session_id, sessions.c.status, placements.c.host_id)
    .join_from(sessions, placements, sessions.c.session_id == placements.c.session_id, isouter=True)
    .where(sessions.c.session_id.in_(bindparam("session_ids", expanding=True)))
)
_DELETED = select(tombstones.c.session_id).where(
    tombstones.c.session_id.in_(bindparam("session_ids", expanding=True))
)
_COUNTS = select(placements.c.host_id, func.count()).group_by(placements.c.host_id)
_ACTED = (
    select(events.c.seq)
    .where(events.c.session_id == bindparam("of_session_id"), events.c.type == "agent.tool_result")
    .limit(1)
)


class Placements:
    """`cluster.placement.PlacementStore`."""

    def __init__(self, database: Database, *, owner: str | None = None) -> None:
        """owner: of the leases of this process; None: it has none, and does not ask who has."""
        self._database = database
        self._owner = owner

    async def find(self, session_id: SessionId) -> Placed | None:
        return await self._database.read(lambda connection: _find(connection, session_id))

    async def place(
        self, session_id: SessionId, *, host_id: str, instead_of: Placed | None, until: float | None = None
    ) -> Placed:
        def body(connection: Connection) -> Placed:
            lock_sessions(connection, [session_id])
            head = connection.execute(_HEAD, {"of_session_id": session_id}).first()
            if head is None:
                raise not_found(connection, session_id)
            found = _find(connection, session_id)
            now_us = self._database.now_us(connection)
            if found is not None:  # unplaced meanwhile: nobody is in the way
                has_others = self._owner is not None and head.owner not in (None, self._owner)
                if has_others and head.lease_until > now_us:
                    return found
                if found != instead_of or found.epoch != instead_of.epoch:  # somebody was first
                    return found
                if until is not None and time.monotonic() > until:  # this waited, or is tried once more
                    return found
            placed_at = max(now_us, found.placed_at + 1) if found else now_us
            row = {"host_id": host_id, "placed_at": from_us(placed_at)}
            if found is None:
                connection.execute(insert(placements), {"session_id": session_id, **row})
            else:
                connection.execute(_MOVE.values(row), {"of_session_id": session_id})
            return Placed(session_id=session_id, host_id=host_id, placed_at=placed_at, epoch=head.epoch)

        return await self._database.write(body, locks=[session_id], checks_first=True)

    async def remove(self, session_id: SessionId, *, host_id: str) -> None:
        def body(connection: Connection) -> None:
            lock_sessions(connection, [session_id])
            connection.execute(_REMOVE, {"of_session_id": session_id, "of_host_id": host_id})

        await self._database.write(body, locks=[session_id])

    async def on_host(self, host_id: str, *, after: SessionId | None, limit: int) -> Sequence[Placed]:
        rows = await self._database.read(
            lambda connection: connection.execute(
                _ON_HOST.limit(limit), {"of_host_id": host_id, "after_id": after or ""}
            ).all()
        )
        return [
            Placed(session_id=SessionId(row.session_id), host_id=host_id, placed_at=to_us(row.placed_at))
            for row in rows
        ]

    async def misplaced(self, host_id: str, session_ids: Sequence[SessionId]) -> Mapping[SessionId, Why]:
        if not session_ids:
            return {}
        listed = {"session_ids": list(session_ids)}
        rows, deleted = await self._database.read(
            lambda connection: (
                connection.execute(_KNOWN, listed).all(),
                frozenset(connection.scalars(_DELETED, listed)),
            )
        )
        known = {row.session_id: row for row in rows}
        found: dict[SessionId, Why] = {}
        for session_id in session_ids:
            row = known.get(session_id)
            if row is None:
                found[session_id] = "deleted" if session_id in deleted else "unknown"
            elif row.host_id is not None and row.host_id != host_id:
                found[session_id] = "elsewhere"
            elif row.status == "terminated":
                found[session_id] = "ended"
        return found

    async def counts(self) -> Mapping[str, int]:
        rows = await self._database.read(lambda connection: connection.execute(_COUNTS).all())
        return {row[0]: row[1] for row in rows}

    async def has_acted(self, session_id: SessionId) -> bool:
        def body(connection: Connection) -> bool:
            return connection.execute(_ACTED, {"of_session_id": session_id}).first() is not None

        return await self._database.read(body)


def _find(connection: Connection, session_id: SessionId) -> Placed | None:
    row = connection.execute(_FIND, {"of_session_id": session_id}).first()
    if row is None:
        return None
    return Placed(
        session_id=session_id, host_id=row.host_id, placed_at=to_us(row.placed_at), epoch=row.epoch
    )
