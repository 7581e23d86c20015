"""Removing what is over, in batches: versions that need not be kept, and what deleted stores left."""

from sqlalchemy import Connection, bindparam, delete, select

from corral.kernel.limits import MEMORY_FORGET_BATCH_MAX
from corral.store.database import Database
from corral.store.schema import from_us, memories, memory_stores_deleted, memory_versions

__all__ = ["MemoryForgetTable"]

_NAME = (memory_versions.c.memory_store_id, memory_versions.c.change)
# Two nodes at it at once take different rows, and nobody waits for them.
_OVER = (
    select(*_NAME)
    .where(memory_versions.c.forget_after <= bindparam("now", type_=memory_versions.c.forget_after.type))
    .order_by(memory_versions.c.forget_after)
    .limit(MEMORY_FORGET_BATCH_MAX)
    .with_for_update(skip_locked=True)
)
_DELETED = (
    select(memory_stores_deleted.c.memory_store_id)
    .order_by(memory_stores_deleted.c.memory_store_id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_LEFT_VERSIONS = (
    select(*_NAME)
    .where(memory_versions.c.memory_store_id == bindparam("of_store_id"))
    .limit(MEMORY_FORGET_BATCH_MAX)
)
_REMOVE = delete(memory_versions).where(
    memory_versions.c.memory_store_id == bindparam("of_store_id"),
    memory_versions.c.change == bindparam("of_change"),
)
_LEFT_MEMORIES = delete(memories).where(memories.c.memory_store_id == bindparam("of_store_id"))


class MemoryForgetTable:
    """`catalog.memory.ports.MemoryForgetting`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self) -> bool:
        # Most of the time there is nothing, and nobody who writes need wait for that.
        if not await self._database.read(self._is_anything_over):
            return False
        return await self._database.write(self._forget)

    def _is_anything_over(self, connection: Connection) -> bool:
        now = from_us(self._database.now_us(connection))
        over = select(memory_versions.c.change).where(memory_versions.c.forget_after <= now).limit(1)
        left = select(memory_stores_deleted.c.memory_store_id).limit(1)
        return any(connection.execute(statement).first() is not None for statement in (over, left))

    def _forget(self, connection: Connection) -> bool:
        now = from_us(self._database.now_us(connection))
        over = connection.execute(_OVER, {"now": now}).all()
        _remove(connection, [tuple(row) for row in over])
        store_id = connection.execute(_DELETED).scalar()
        if store_id is None:
            return len(over) == MEMORY_FORGET_BATCH_MAX
        of_store = {"of_store_id": store_id}
        connection.execute(_LEFT_MEMORIES, of_store)
        left = connection.execute(_LEFT_VERSIONS, of_store).all()
        _remove(connection, [tuple(row) for row in left])
        if len(left) < MEMORY_FORGET_BATCH_MAX:
            connection.execute(
                delete(memory_stores_deleted).where(memory_stores_deleted.c.memory_store_id == store_id)
            )
        return True


def _remove(connection: Connection, names: list[tuple[object, ...]]) -> None:
    if names:
        connection.execute(
            _REMOVE, [{"of_store_id": store_id, "of_change": change} for store_id, change in names]
        )
