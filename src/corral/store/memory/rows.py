"""Rows to records: what is read of a memory and of a version, and whether its store is there."""

from typing import Any

from sqlalchemy import Connection, and_, bindparam, null, select

from corral.catalog.memory.ports import Actor, Memory, MemoryVersion, StoreKey
from corral.kernel.errors import NotFound
from corral.kernel.ids import MemoryId, MemoryStoreId, MemoryVersionId
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import memories, memory_stores, memory_versions

__all__ = [
    "IS_STORE",
    "MEMORY",
    "MEMORY_WITH_CONTENT",
    "STORE",
    "VERSION",
    "VERSION_WITH_CONTENT",
    "check_store",
    "key_values",
    "memory_of",
    "no_memory",
    "no_store",
    "version_of",
]

STORE: AnySelect = select(
    memory_stores.c.memory_store_id,
    memory_stores.c.created_at,
    memory_stores.c.archived_at,
    memory_stores.c.body,
)
IS_STORE = and_(
    memory_stores.c.memory_store_id == bindparam("of_store_id"),
    memory_stores.c.workspace_id == bindparam("of_workspace_id"),
)
_EXISTS = select(memory_stores.c.memory_store_id).where(IS_STORE)

_MEMORY = (
    memories.c.memory_id,
    memories.c.memory_store_id,
    memories.c.path,
    memories.c.change,
    memories.c.memory_version_id,
    memories.c.content_sha256,
    memories.c.content_size_bytes,
    memories.c.created_at,
    memories.c.updated_at,
)
_IN_STORE = memories.c.memory_store_id == bindparam("of_store_id")
MEMORY: AnySelect = select(*_MEMORY, null().label("content")).where(_IN_STORE)
MEMORY_WITH_CONTENT: AnySelect = (
    select(*_MEMORY, memory_versions.c.content)
    .join_from(
        memories,
        memory_versions,
        and_(
            memory_versions.c.memory_store_id == memories.c.memory_store_id,
            memory_versions.c.change == memories.c.change,
        ),
    )
    .where(_IN_STORE)
)

_VERSION = tuple(
    column for column in memory_versions.c if column.name not in ("workspace_id", "content", "forget_after")
)
_OF_STORE = memory_versions.c.memory_store_id == bindparam("of_store_id")
VERSION: AnySelect = select(*_VERSION, null().label("content")).where(_OF_STORE)
VERSION_WITH_CONTENT: AnySelect = select(*_VERSION, memory_versions.c.content).where(_OF_STORE)


def key_values(at: StoreKey) -> dict[str, Any]:
    """Parameters of IS_STORE, and of the statements above."""
    return {"of_store_id": at.memory_store_id, "of_workspace_id": at.workspace_id}


def check_store(connection: Connection, at: StoreKey) -> None:
    """Raises NotFound."""
    if connection.execute(_EXISTS, key_values(at)).first() is None:
        raise no_store(at)


def memory_of(row: AnyRow) -> Memory:
    return Memory(
        memory_id=MemoryId(row.memory_id),
        memory_store_id=MemoryStoreId(row.memory_store_id),
        path=row.path,
        content=None if row.content is None else bytes(row.content).decode(),
        content_sha256=row.content_sha256,
        content_size_bytes=row.content_size_bytes,
        memory_version_id=MemoryVersionId(row.memory_version_id),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def version_of(row: AnyRow) -> MemoryVersion:
    return MemoryVersion(
        memory_version_id=MemoryVersionId(row.memory_version_id),
        memory_id=MemoryId(row.memory_id),
        memory_store_id=MemoryStoreId(row.memory_store_id),
        operation=row.operation,
        path=row.path,
        content=None if row.content is None else bytes(row.content).decode(),
        content_sha256=row.content_sha256,
        content_size_bytes=row.content_size_bytes,
        created_at=row.created_at,
        created_by=None if row.actor_type is None else Actor(row.actor_type, row.actor_id),
        redacted_at=row.redacted_at,
        redacted_by=None if row.redactor_type is None else Actor(row.redactor_type, row.redactor_id),
    )


def no_store(at: StoreKey) -> NotFound:
    return NotFound(f"Memory store {at.memory_store_id!r} was not found.")


def no_memory(which: str) -> NotFound:
    return NotFound(f"Memory {which!r} was not found.")
