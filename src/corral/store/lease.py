"""Leases on the database: columns of the session's row, judged by the database's clock."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select, update

from corral.kernel.crash import crash_point
from corral.kernel.ids import SessionId
from corral.session.lease import Lease
from corral.store.append import LEASE_TTL_US
from corral.store.database import Database
from corral.store.schema import sessions

__all__ = ["Leases"]

_GRANT = (
    update(sessions)
    .where(sessions.c.session_id.in_(bindparam("session_ids", expanding=True)))
    .values(owner=bindparam("to_owner"), epoch=sessions.c.epoch + 1, lease_until=bindparam("until"))
)
_HELD = (
    select(sessions.c.session_id, sessions.c.owner, sessions.c.epoch)
    .where(sessions.c.session_id.in_(bindparam("session_ids", expanding=True)))
    .order_by(sessions.c.session_id)
    .with_for_update()
)
_EXTEND = (
    update(sessions)
    .where(sessions.c.session_id.in_(bindparam("session_ids", expanding=True)))
    .values(lease_until=bindparam("until"))
)
_RELEASE = (
    update(sessions)
    .where(
        sessions.c.session_id == bindparam("of_session_id"),
        sessions.c.owner == bindparam("of_owner"),
        sessions.c.epoch == bindparam("of_epoch"),
    )
    .values(owner=None, lease_until=0)
)
_OF_THE_DEAD = select(sessions.c.session_id).where(
    func.substr(sessions.c.owner, 1, func.length(bindparam("prefix"))) == bindparam("prefix"),
    sessions.c.owner != bindparam("except_owner"),
)
_END = (
    update(sessions)
    .where(sessions.c.session_id.in_(bindparam("session_ids", expanding=True)))
    .values(owner=None, lease_until=0)
)


def _is_free(now_us: int) -> ColumnElement[bool]:
    return or_(sessions.c.owner.is_(None), sessions.c.lease_until <= now_us)


class Leases:
    """`session.lease.LeaseStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, *, owner: str, limit: int, session_ids: Sequence[SessionId] | None = None
    ) -> list[Lease]:
        def body(connection: Connection) -> list[Lease]:
            now_us = self._database.now_us(connection)
            free = select(sessions.c.session_id, sessions.c.epoch).where(_is_free(now_us))
            if session_ids is None:
                free = free.where(sessions.c.needs_brain_since.is_not(None))
                free = free.order_by(sessions.c.needs_brain_since)
            else:
                free = free.where(sessions.c.session_id.in_(session_ids)).order_by(sessions.c.session_id)
            rows = connection.execute(free.limit(limit).with_for_update(skip_locked=True)).all()
            if rows:
                connection.execute(
                    _GRANT,
                    {
                        "session_ids": [row.session_id for row in rows],
                        "to_owner": owner,
                        "until": now_us + LEASE_TTL_US,
                    },
                )
            return [
                Lease(session_id=SessionId(row.session_id), owner=owner, epoch=row.epoch + 1)
                for row in rows
            ]

        crash_point("store.claim.before")
        leases = await self._database.write(body)
        crash_point("store.claim.after")
        return leases

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        def body(connection: Connection) -> list[Lease]:
            rows = connection.execute(_HELD, {"session_ids": [lease.session_id for lease in leases]})
            found = {(row.session_id, row.owner, row.epoch) for row in rows}
            held = [lease for lease in leases if (lease.session_id, lease.owner, lease.epoch) in found]
            if held:
                until = self._database.now_us(connection) + LEASE_TTL_US
                connection.execute(
                    _EXTEND, {"session_ids": [lease.session_id for lease in held], "until": until}
                )
            return held

        if not leases:
            return []
        crash_point("store.renew.before")
        renewed = await self._database.write(body)
        crash_point("store.renew.after")
        return renewed

    async def fail(self, leases: Sequence[Lease]) -> None:
        await self.release(leases)

    async def release(self, leases: Sequence[Lease]) -> None:
        rows: list[dict[str, Any]] = [
            {"of_session_id": lease.session_id, "of_owner": lease.owner, "of_epoch": lease.epoch}
            for lease in sorted(leases, key=lambda lease: lease.session_id)
        ]

        def body(connection: Connection) -> None:
            connection.execute(_RELEASE, rows)

        if rows:
            await self._database.write(body)

    async def end(self, *, owner_prefix: str, except_owner: str) -> list[SessionId]:
        def body(connection: Connection) -> list[SessionId]:
            dead = {"prefix": owner_prefix, "except_owner": except_owner}
            found = connection.scalars(_OF_THE_DEAD.order_by(sessions.c.session_id).with_for_update(), dead)
            session_ids = [SessionId(session_id) for session_id in found]
            if session_ids:
                connection.execute(_END, {"session_ids": session_ids})
            return session_ids

        return await self._database.write(body)

    async def waiting(self, *, limit: int) -> list[SessionId]:
        def body(connection: Connection) -> list[SessionId]:
            statement = (
                select(sessions.c.session_id)
                .where(
                    sessions.c.needs_brain_since.is_not(None), _is_free(self._database.now_us(connection))
                )
                .order_by(sessions.c.needs_brain_since)
                .limit(limit)
            )
            return [SessionId(session_id) for session_id in connection.scalars(statement)]

        return await self._database.read(body)
