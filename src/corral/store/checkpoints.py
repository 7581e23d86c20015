"""Checkpoints on the database: one row per session, of its newest one."""

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from corral.kernel.ids import SessionId
from corral.session.checkpoint import Checkpoint
from corral.store.database import Database
from corral.store.locks import lock_sessions
from corral.store.schema import checkpoints, placements, sessions

__all__ = ["Checkpoints"]

_NEWEST = select(checkpoints).where(checkpoints.c.session_id == bindparam("of_session_id"))
_EXISTS = select(sessions.c.session_id).where(sessions.c.session_id == bindparam("of_session_id"))
_HOST = select(placements.c.host_id).where(placements.c.session_id == bindparam("of_session_id"))
_REPLACE = update(checkpoints).where(checkpoints.c.session_id == bindparam("of_session_id"))
_FORGET = delete(checkpoints).where(checkpoints.c.session_id == bindparam("of_session_id"))


class Checkpoints:
    """`session.checkpoint.CheckpointStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, session_id: SessionId) -> Checkpoint | None:
        return await self._database.read(lambda connection: _newest(connection, session_id))

    async def keep(self, checkpoint: Checkpoint, *, instead_of: str | None) -> Checkpoint | None:
        of_session = {"of_session_id": checkpoint.session_id}

        def body(connection: Connection) -> Checkpoint | None:
            lock_sessions(connection, [checkpoint.session_id])
            if connection.scalar(_EXISTS, of_session) is None:
                return checkpoint
            host_id = connection.scalar(_HOST, of_session)
            if host_id is not None and host_id != checkpoint.host_id:
                return checkpoint  # a host that was given up on: what it has is not the session's any more
            earlier = _newest(connection, checkpoint.session_id)
            if earlier is not None and earlier.blob_key == checkpoint.blob_key:
                return None  # repeated
            if (earlier.blob_key if earlier else None) != instead_of:
                return checkpoint  # somebody copied it meanwhile, and may have seen more
            row = {
                "blob_key": checkpoint.blob_key,
                "size_bytes": checkpoint.size_bytes,
                "sha256": checkpoint.sha256,
                "host_id": checkpoint.host_id,
                "taken_at": checkpoint.taken_at,
            }
            if earlier is None:
                connection.execute(insert(checkpoints), {"session_id": checkpoint.session_id, **row})
            else:
                connection.execute(_REPLACE.values(row), of_session)
            return earlier

        return await self._database.write(body, locks=[checkpoint.session_id])

    async def forget(self, session_id: SessionId) -> Checkpoint | None:
        def body(connection: Connection) -> Checkpoint | None:
            lock_sessions(connection, [session_id])
            known = _newest(connection, session_id)
            connection.execute(_FORGET, {"of_session_id": session_id})
            return known

        return await self._database.write(body, locks=[session_id])


def _newest(connection: Connection, session_id: SessionId) -> Checkpoint | None:
    row = connection.execute(_NEWEST, {"of_session_id": session_id}).first()
    if row is None:
        return None
    return Checkpoint(
        session_id=session_id,
        blob_key=row.blob_key,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        host_id=row.host_id,
        taken_at=row.taken_at,
    )
