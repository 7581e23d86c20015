"""Offering a session's work, and ending it: parts of the transactions that change the session.

All of these hold the session's row lock, and so does whoever stops an item: "has not stopped" cannot change
meanwhile. Polls and heartbeats hold only the item's row, and wait for nothing while they do.
"""

from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update

from corral.kernel.ids import WORK, Ids, SessionId
from corral.kernel.limits import WORK_LEASE_SECONDS
from corral.store.schema import from_us, sessions, work

__all__ = ["end_work", "has_live_work", "offer_work"]

_ids = Ids()

_LIVE = select(work.c.work_id, work.c.state, work.c.claimed_at, work.c.free_from).where(
    work.c.session_id == bindparam("of_session_id"), work.c.state != "stopped"
)
_OF_WORK = update(work).where(work.c.work_id == bindparam("of_work_id"))
_LAPSED = _OF_WORK.where(work.c.state == "stopping").values(state="stopped", stopped_at=work.c.free_from)
_AGAIN = _OF_WORK.where(work.c.state == "stopping").values(again=1)
_AT_ONCE = _OF_WORK.where(work.c.state == "queued", work.c.claimed_at.is_(None)).values(
    free_from=bindparam("now")
)
_END = (
    update(work)
    .where(work.c.session_id == bindparam("of_session_id"), work.c.state != "stopped")
    .values(state="stopped", stopped_at=bindparam("now"), again=0)
)
_SESSION = select(sessions.c.workspace_id, sessions.c.environment_id).where(
    sessions.c.session_id == bindparam("of_session_id")
)


def offer_work(
    connection: Connection,
    session_id: SessionId,
    *,
    now_us: int,
    pause_seconds: float = 0.0,
    failures: int = 0,
) -> None:
    """See to it that there is an item that has not stopped, or is offered anew once it has; if it waits to
    be offered, its wait is over.

    pause_seconds, failures: of the item, if a new one is made; see `session.work.retry_seconds`.
    """
    now, of_session = from_us(now_us), {"of_session_id": session_id}
    live = connection.execute(_LIVE, of_session).first()
    if live is not None:
        of_work = {"of_work_id": live.work_id}
        if live.state == "queued" and live.claimed_at is None and live.free_from > now:
            connection.execute(_AT_ONCE, {**of_work, "now": now})
        if live.state != "stopping":
            return
        if live.free_from > now:
            connection.execute(_AGAIN, of_work)
            return
        if connection.execute(_LAPSED, of_work).rowcount == 0:
            return  # a poll has just taken it up again
    session = connection.execute(_SESSION, of_session).one()
    connection.execute(
        insert(work),
        {
            "work_id": _ids.mint(WORK),
            "workspace_id": session.workspace_id,
            "environment_id": session.environment_id,
            "session_id": session_id,
            "state": "queued",
            "metadata": {},
            "ttl_seconds": WORK_LEASE_SECONDS,
            "free_from": from_us(now_us + int(pause_seconds * 1_000_000)),
            "created_at": now,
            "queued_at": now,
            "claimed_seq": 0,
            "failures": failures,
            "again": 0,
        },
    )


def has_live_work(connection: Connection, session_id: SessionId, *, now_us: int) -> bool:
    """Whether the session's work is somebody's, or to be had now."""
    now, live = from_us(now_us), connection.execute(_LIVE, {"of_session_id": session_id}).first()
    if live is None:
        return False
    if live.state == "queued":
        return live.claimed_at is not None or bool(live.free_from <= now)
    return live.state != "stopping" or bool(live.free_from > now)


def end_work(connection: Connection, session_id: SessionId, *, now: datetime) -> None:
    """The session has ended. Repeat: safe."""
    connection.execute(_END, {"of_session_id": session_id, "now": now})
