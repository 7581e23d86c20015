"""Counting the work that waits. Every statement reads a partial index, or the inbox, which is short."""

from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select

from corral.kernel.limits import BACKLOG_COUNT_MAX
from corral.session.backlog import Backlog
from corral.store.database import Database
from corral.store.freedom import LEASE_TTL_US
from corral.store.schema import inbox, sessions

__all__ = ["Backlogs"]


class Backlogs:
    """`session.backlog.BacklogStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self) -> Backlog:
        def body(connection: Connection) -> Backlog:
            now_us = self._database.now_us(connection)
            needs = connection.execute(_needs(now_us)).one()
            owners = connection.execute(_owners(now_us)).all()
            waits = connection.scalar(_INBOX) or 0
            renewed_us = [row.least_until - LEASE_TTL_US for row in owners if row.least_until is not None]
            return Backlog(
                needing=needs.needing,
                waiting=needs.waiting,
                held_back=needs.held_back,
                oldest_wait_seconds=_age(now_us, needs.oldest),
                inbox=waits,
                leases={row.owner: row.live for row in owners if row.live},
                leases_ended=sum(row.held - row.live for row in owners),
                stalest_lease_seconds=_age(now_us, min(renewed_us, default=None)),
            )

        return await self._database.read(body)


_INBOX = select(func.count()).select_from(select(inbox.c.session_id).limit(BACKLOG_COUNT_MAX).subquery())


def _needs(now_us: int) -> Select[Any]:
    since = sessions.c.needs_brain_since
    unserved = or_(sessions.c.owner.is_(None), sessions.c.lease_until <= now_us)
    waits = and_(unserved, sessions.c.not_before <= now_us)
    columns: list[Any] = [
        func.count().label("needing"),
        func.count().filter(waits).label("waiting"),
        func.count().filter(unserved, sessions.c.not_before > now_us).label("held_back"),
        func.min(since).filter(waits).label("oldest"),
    ]
    return select(*columns).where(since.is_not(None))


def _owners(now_us: int) -> Select[Any]:
    live = sessions.c.lease_until > now_us
    columns: list[Any] = [
        sessions.c.owner,
        func.count().label("held"),
        func.count().filter(live).label("live"),
        func.min(sessions.c.lease_until).filter(live).label("least_until"),
    ]
    return select(*columns).where(sessions.c.owner.is_not(None)).group_by(sessions.c.owner)


def _age(now_us: int, then_us: int | None) -> float:
    return 0.0 if then_us is None else max(0, now_us - then_us) / 1_000_000
