"""Memory stores, memories, and what these were. No foreign keys: a deleted store's rows go in batches."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table

from corral.store.schema.types import JsonBytes, Moment, metadata

__all__ = ["memories", "memory_stores", "memory_stores_deleted", "memory_versions"]

memory_stores = Table(
    "memory_stores",
    metadata,
    Column("memory_store_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("body", JsonBytes, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    # Whoever changes a memory holds this row, so these are exact: memories that live, the number of the
    # last change, and its time.
    Column("memories", Integer, nullable=False),
    Column("last_change", BigInteger, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Index("memory_stores_by_creation", "workspace_id", "created_at", "memory_store_id"),
)
Index(
    "memory_stores_in_use",
    memory_stores.c.workspace_id,
    memory_stores.c.created_at,
    memory_stores.c.memory_store_id,
    sqlite_where=memory_stores.c.archived_at.is_(None),
    postgresql_where=memory_stores.c.archived_at.is_(None),
)

memory_stores_deleted = Table(
    "memory_stores_deleted",
    metadata,
    Column("memory_store_id", String, primary_key=True),  # whose memories and versions are still there
    Column("workspace_id", String, nullable=False),
    Column("deleted_at", Moment, nullable=False),
)

memories = Table(
    "memories",
    metadata,
    Column("memory_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("memory_store_id", String, nullable=False),
    Column("path", String, nullable=False),
    # of its head, which has its content
    Column("change", BigInteger, nullable=False),
    Column("memory_version_id", String, nullable=False),
    Column("content_sha256", String, nullable=False),
    Column("content_size_bytes", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index("memories_by_path", "memory_store_id", "path", unique=True),
)

memory_versions = Table(
    "memory_versions",
    metadata,
    Column("memory_store_id", String, primary_key=True),
    Column("change", BigInteger, primary_key=True, autoincrement=False),
    Column("workspace_id", String, nullable=False),
    Column("memory_version_id", String, nullable=False),
    Column("memory_id", String, nullable=False),
    Column("operation", String, nullable=False),
    Column("path", String),
    Column("content", LargeBinary),
    Column("content_sha256", String),
    Column("content_size_bytes", Integer),
    Column("created_at", Moment, nullable=False),  # never before that of the change before
    Column("actor_type", String),
    Column("actor_id", String),
    Column("redacted_at", Moment),
    Column("redactor_type", String),
    Column("redactor_id", String),
    Column("forget_after", Moment),  # null while it is among the last of a memory that lives
    Index("memory_versions_by_id", "memory_version_id", unique=True),
    Index("memory_versions_by_memory", "memory_store_id", "memory_id", "change"),
    Index("memory_versions_by_actor", "memory_store_id", "actor_id", "change"),
    Index("memory_versions_by_operation", "memory_store_id", "operation", "change"),
    Index("memory_versions_by_time", "memory_store_id", "created_at", "change"),
)
Index(
    "memory_versions_to_forget",
    memory_versions.c.forget_after,
    sqlite_where=memory_versions.c.forget_after.is_not(None),
    postgresql_where=memory_versions.c.forget_after.is_not(None),
)
