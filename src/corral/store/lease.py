"""Leases on the database: columns of the session's row, judged by the database's clock."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, case, func, select, update

from corral.kernel.crash import crash_point
from corral.kernel.ids import SessionId
from corral.kernel.limits import CLAIM_RIVALS, SUSPECT_TURNS
from corral.session.lease import Lease
from corral.store.database import Database
from corral.store.freedom import BACKOFF, FAILURES, FREE_FROM, LEASE_TTL_US
from corral.store.schema import sessions

__all__ = ["Leases"]


_OF_SESSIONS = sessions.c.session_id.in_(bindparam("session_ids", expanding=True))
_GRANT = (
    update(sessions)
    .where(_OF_SESSIONS)
    .values(
        owner=bindparam("to_owner"),
        epoch=sessions.c.epoch + 1,
        lease_until=bindparam("until"),
        failures=FAILURES,
        not_before=0,
    )
)
_HELD = (
    select(sessions.c.session_id, sessions.c.owner, sessions.c.epoch)
    .where(_OF_SESSIONS)
    .order_by(sessions.c.session_id)
    .with_for_update()
)
_EXTEND = update(sessions).where(_OF_SESSIONS).values(lease_until=bindparam("until"))
_OF_LEASE = update(sessions).where(
    sessions.c.session_id == bindparam("of_session_id"),
    sessions.c.owner == bindparam("of_owner"),
    sessions.c.epoch == bindparam("of_epoch"),
)
_RELEASE = _OF_LEASE.values(owner=None, lease_until=0, not_before=bindparam("free_from"))
_RESTED = _OF_LEASE.values(owner=None, lease_until=0, failures=0, not_before=0)
_REST = _OF_LEASE.where(
    sessions.c.last_seq == bindparam("seen_seq"), sessions.c.last_arrival == bindparam("seen_arrival")
).values(needs_brain_since=None)
_FAILED = {
    "owner": None,
    "lease_until": 0,
    "failures": sessions.c.failures + 1,
    "not_before": bindparam("now_us", type_=BigInteger) + BACKOFF,
}
_FAIL = _OF_LEASE.values(_FAILED)
_OF_THE_DEAD = (
    select(sessions.c.session_id)
    .where(
        func.substr(sessions.c.owner, 1, func.length(bindparam("prefix"))) == bindparam("prefix"),
        sessions.c.owner != bindparam("except_owner"),
    )
    .order_by(sessions.c.session_id)
    .with_for_update()
)
_END = update(sessions).where(_OF_SESSIONS).values(_FAILED)


def _is_free(now_us: int) -> ColumnElement[bool]:
    return now_us >= FREE_FROM


def _in_turn(now_us: int, limit: int) -> Any:
    """Free sessions that need a brain: each key's oldest first, then each key's second, and so on. Those
    that failed are counted apart: many that may not run at once would hide all that came after them."""
    oldest = (sessions.c.needs_brain_since, sessions.c.session_id)
    alike = (sessions.c.api_key_id, sessions.c.failures)
    ranked = (
        select(
            *oldest,
            (
                func.row_number().over(partition_by=alike, order_by=oldest)
                + SUSPECT_TURNS * sessions.c.failures
            ).label("turn"),
        )
        .where(sessions.c.needs_brain_since.is_not(None), _is_free(now_us))
        .subquery()
    )
    by_turn = (ranked.c.turn, ranked.c.needs_brain_since, ranked.c.session_id)
    return select(ranked.c.session_id).order_by(*by_turn).limit(limit)


class Leases:
    """`session.lease.LeaseStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, *, owner: str, limit: int, session_ids: Sequence[SessionId] | None = None
    ) -> list[Lease]:
        def body(connection: Connection) -> list[Lease]:
            now_us = self._database.now_us(connection)
            chosen = session_ids
            if chosen is None:
                # More than it takes: rivals look at the same ones, and each skips what another has locked.
                chosen = list(connection.scalars(_in_turn(now_us, limit + CLAIM_RIVALS)))
            if not chosen:
                return []
            place = {session_id: number for number, session_id in enumerate(chosen)}
            free = select(sessions.c.session_id, sessions.c.epoch, FAILURES.label("failures")).where(
                sessions.c.session_id.in_(chosen), _is_free(now_us)
            )
            if session_ids is None:  # it may have been served since it was chosen
                free = free.where(sessions.c.needs_brain_since.is_not(None))
            in_order = free.order_by(case(place, value=sessions.c.session_id)).limit(limit)
            rows = connection.execute(in_order.with_for_update(skip_locked=True)).all()
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
                Lease(
                    session_id=SessionId(row.session_id),
                    owner=owner,
                    epoch=row.epoch + 1,
                    failures=row.failures,
                )
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

    async def release(self, leases: Sequence[Lease], *, pause_seconds: float = 0.0) -> None:
        def body(connection: Connection) -> None:
            pause_us = int(pause_seconds * 1_000_000)
            free_from = self._database.now_us(connection) + pause_us if pause_us else 0
            connection.execute(_RELEASE, [row | {"free_from": free_from} for row in _named(leases)])

        if leases:
            await self._database.write(body, locks=_ids(leases))

    async def rest(self, lease: Lease, *, seen_seq: int, seen_arrival: int) -> None:
        def body(connection: Connection) -> None:
            connection.execute(
                _REST, _named([lease])[0] | {"seen_seq": seen_seq, "seen_arrival": seen_arrival}
            )
            connection.execute(_RESTED, _named([lease]))

        await self._database.write(body, locks=_ids([lease]))

    async def fail(self, leases: Sequence[Lease]) -> None:
        def body(connection: Connection) -> None:
            now_us = self._database.now_us(connection)
            connection.execute(_FAIL, [row | {"now_us": now_us} for row in _named(leases)])

        if leases:
            await self._database.write(body, locks=_ids(leases))

    async def end(self, *, owner_prefix: str, except_owner: str) -> list[SessionId]:
        def body(connection: Connection) -> list[SessionId]:
            dead = {"prefix": owner_prefix, "except_owner": except_owner}
            session_ids = list(connection.scalars(_OF_THE_DEAD, dead))
            if not session_ids:
                return []
            now_us = self._database.now_us(connection)
            connection.execute(_END, {"session_ids": session_ids, "now_us": now_us})
            free = select(sessions.c.session_id).where(
                sessions.c.session_id.in_(session_ids), _is_free(now_us)
            )
            return [SessionId(each) for each in connection.scalars(free.order_by(sessions.c.session_id))]

        return await self._database.write(body)

    async def waiting(self, *, limit: int) -> list[SessionId]:
        def body(connection: Connection) -> list[SessionId]:
            statement = _in_turn(self._database.now_us(connection), limit)
            return [SessionId(session_id) for session_id in connection.scalars(statement)]

        return await self._database.read(body)

    async def failures(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, int]:
        def body(connection: Connection) -> dict[SessionId, int]:
            now_us = self._database.now_us(connection)
            count = case((_is_free(now_us), FAILURES), else_=sessions.c.failures).label("failures")
            statement = select(sessions.c.session_id, count).where(
                sessions.c.session_id.in_(session_ids), count > 0
            )
            return {SessionId(row.session_id): row.failures for row in connection.execute(statement)}

        return await self._database.read(body)


def _ids(leases: Sequence[Lease]) -> list[SessionId]:
    return sorted({lease.session_id for lease in leases})


def _named(leases: Sequence[Lease]) -> list[dict[str, Any]]:
    return [
        {"of_session_id": lease.session_id, "of_owner": lease.owner, "of_epoch": lease.epoch}
        for lease in sorted(leases, key=lambda lease: lease.session_id)
    ]
