"""The deep sweep on the database. Each search reads a partial index, or a bounded part of the inbox."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Connection, bindparam, or_, select, update

from corral.kernel.ids import SessionId
from corral.kernel.limits import SESSION_BACKOFF_SECONDS_MAX, SWEEP_BATCH_MAX
from corral.session.events import UserInterrupt, UserMessage, UserToolConfirmation
from corral.session.sweep import Repair, Swept
from corral.store.database import Database
from corral.store.freedom import LEASE_TTL_US
from corral.store.locks import lock_sessions
from corral.store.schema import IS_FORGOTTEN, JsonBytes, inbox, sessions

__all__ = ["Sweeps"]

_LONGEST_US = int(SESSION_BACKOFF_SECONDS_MAX * 1_000_000)
_SLACK_US = 1_000_000  # a lease granted while the clock was being read
_NOTHING = bindparam("nothing", value=[], type_=JsonBytes())
_now: BindParameter[int] = bindparam("now_us", type_=BigInteger)

_NEEDS_NONE = sessions.c.needs_brain_since.is_(None)
_UNSERVED = IS_FORGOTTEN
_INBOX_PAGE = (
    select(inbox.c.session_id)
    .where(inbox.c.session_id > bindparam("after"))
    .order_by(inbox.c.session_id, inbox.c.arrival)
    .limit(SWEEP_BATCH_MAX)
)
_UNTAKEN = (
    _NEEDS_NONE
    & sessions.c.terminated_at.is_(None)
    & select(inbox.c.arrival)
    .where(
        inbox.c.session_id == sessions.c.session_id,
        or_(
            inbox.c.type.in_([UserInterrupt.TYPE, UserToolConfirmation.TYPE]),
            # A message waits behind what the client has not answered; a system message for the next one.
            (inbox.c.type == UserMessage.TYPE) & (sessions.c.blocked_on == _NOTHING),
        ),
    )
    .exists()
)
_DEAD_LEASE = _NEEDS_NONE & sessions.c.owner.is_not(None) & (sessions.c.lease_until <= _now)
_FAR_LEASE = sessions.c.owner.is_not(None) & (sessions.c.lease_until > _now + (LEASE_TTL_US + _SLACK_US))
_FAR_BACKOFF = sessions.c.needs_brain_since.is_not(None) & (
    sessions.c.not_before > _now + (_LONGEST_US + _SLACK_US)
)

_REPAIRS: dict[Repair, tuple[Any, dict[str, Any]]] = {
    "unserved_session": (_UNSERVED, {"needs_brain_since": _now}),
    "untaken_input": (_UNTAKEN, {"needs_brain_since": _now}),
    "dead_lease": (_DEAD_LEASE, {"owner": None, "lease_until": 0}),
    "far_lease": (_FAR_LEASE, {"lease_until": _now + LEASE_TTL_US}),
    "far_backoff": (_FAR_BACKOFF, {"not_before": _now + _LONGEST_US}),
}


class Sweeps:
    """`session.sweep.SweepStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sweep(self, *, after: SessionId | None) -> Swept:
        page, found = await self._database.read(lambda connection: self.look(connection, after))
        wrong = sorted({session_id for session_ids in found.values() for session_id in session_ids})

        def repair(connection: Connection) -> dict[Repair, list[SessionId]]:
            lock_sessions(connection, wrong)
            now_us = self._database.now_us(connection)
            repaired: dict[Repair, list[SessionId]] = {}
            for kind, session_ids in found.items():
                still = self._find(connection, kind, session_ids, now_us, among=session_ids)
                if still:
                    repaired[kind] = still
                    connection.execute(
                        update(sessions).where(sessions.c.session_id.in_(still)).values(_REPAIRS[kind][1]),
                        {"now_us": now_us},
                    )
            return repaired

        repaired = await self._database.write(repair, locks=wrong) if wrong else {}
        is_whole = len(page) < SWEEP_BATCH_MAX
        return Swept(repaired=repaired, after=None if is_whole else page[-1])

    def look(
        self, connection: Connection, after: SessionId | None
    ) -> tuple[list[SessionId], dict[Repair, list[SessionId]]]:
        """A part of the inbox, and what is wrong; nothing is written."""
        page = [SessionId(each) for each in connection.scalars(_INBOX_PAGE, {"after": after or ""})]
        now_us = self._database.now_us(connection)
        return page, {kind: self._find(connection, kind, page, now_us) for kind in _REPAIRS}

    def _find(
        self,
        connection: Connection,
        kind: Repair,
        page: Sequence[SessionId],
        now_us: int,
        *,
        among: Sequence[SessionId] | None = None,
    ) -> list[SessionId]:
        condition, _ = _REPAIRS[kind]
        statement = select(sessions.c.session_id).where(condition).limit(SWEEP_BATCH_MAX)
        if kind == "untaken_input" and among is None:
            among = sorted(set(page))
        if among is not None:
            statement = statement.where(sessions.c.session_id.in_(among))
        found = connection.scalars(statement, {"now_us": now_us} if _names_now(kind) else {})
        return [SessionId(session_id) for session_id in found]


def _names_now(kind: Repair) -> bool:
    return kind in ("dead_lease", "far_lease", "far_backoff")
