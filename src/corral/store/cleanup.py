"""Work for the hands after a session has ended. Queued in the transaction that ends it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, literal, select

from corral.kernel.ids import SessionId
from corral.session.cleanup import CleanupKind, CleanupWork
from corral.store.database import Database
from corral.store.schema import cleanup

__all__ = ["Cleanup", "queue_cleanup"]

_PENDING = select(cleanup.c.session_id, cleanup.c.kind).order_by(
    cleanup.c.created_at, cleanup.c.session_id, cleanup.c.kind
)
_DONE = delete(cleanup).where(
    cleanup.c.session_id == bindparam("of_session_id"), cleanup.c.kind == bindparam("of_kind")
)
_IS_QUEUED = select(cleanup.c.session_id).where(
    cleanup.c.session_id == bindparam("of_session_id"), cleanup.c.kind == bindparam("of_kind")
)


def queue_cleanup(
    connection: Connection, session_id: SessionId, kind: CleanupKind, *, now: datetime
) -> None:
    """Under the session's row lock. Repeat: safe."""
    row = select(literal(session_id), literal(kind), literal(now, cleanup.c.created_at.type))
    is_queued = _IS_QUEUED.exists()
    connection.execute(
        insert(cleanup).from_select(["session_id", "kind", "created_at"], row.where(~is_queued)),
        {"of_session_id": session_id, "of_kind": kind},
    )


class Cleanup:
    """`session.cleanup.CleanupStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, *, limit: int) -> Sequence[CleanupWork]:
        rows = await self._database.read(lambda connection: connection.execute(_PENDING.limit(limit)).all())
        return [CleanupWork(session_id=SessionId(row.session_id), kind=row.kind) for row in rows]

    async def done(self, works: Sequence[CleanupWork]) -> None:
        rows = [{"of_session_id": work.session_id, "of_kind": work.kind} for work in works]

        def body(connection: Connection) -> None:
            connection.execute(_DONE, rows)

        if works:
            await self._database.write(body)
