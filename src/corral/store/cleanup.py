"""Work for the hands after a session has ended. Queued in the transaction that ends it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select

from corral.kernel.ids import SessionId
from corral.session.cleanup import CleanupKind, CleanupWork
from corral.store.database import Database
from corral.store.schema import cleanup

__all__ = ["Cleanup", "queue_cleanup"]

_PENDING = select(cleanup.c.id, cleanup.c.session_id, cleanup.c.kind).order_by(cleanup.c.id)
_DONE = delete(cleanup).where(cleanup.c.id.in_(bindparam("ids", expanding=True)))


def queue_cleanup(
    connection: Connection, session_id: SessionId, kind: CleanupKind, *, now: datetime
) -> None:
    connection.execute(insert(cleanup), {"session_id": session_id, "kind": kind, "created_at": now})


class Cleanup:
    """`session.cleanup.CleanupStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, *, limit: int) -> Sequence[CleanupWork]:
        rows = await self._database.read(lambda connection: connection.execute(_PENDING.limit(limit)).all())
        return [
            CleanupWork(cleanup_id=row.id, session_id=SessionId(row.session_id), kind=row.kind)
            for row in rows
        ]

    async def done(self, cleanup_ids: Sequence[int]) -> None:
        def body(connection: Connection) -> None:
            connection.execute(_DONE, {"ids": list(cleanup_ids)})

        if cleanup_ids:
            await self._database.write(body)
