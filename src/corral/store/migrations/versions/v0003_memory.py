"""Memory stores, memories and their versions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Ids and paths are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "memory_stores",
        sa.Column("memory_store_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.Column("memories", sa.Integer(), nullable=False),
        sa.Column("last_change", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("memory_store_id"),
    )
    by_creation = ["workspace_id", "created_at", "memory_store_id"]
    op.create_index("memory_stores_by_creation", "memory_stores", by_creation, unique=False)
    in_use = sa.text("archived_at IS NULL")
    op.create_index(
        "memory_stores_in_use",
        "memory_stores",
        by_creation,
        unique=False,
        sqlite_where=in_use,
        postgresql_where=in_use,
    )
    op.create_table(
        "memory_stores_deleted",
        sa.Column("memory_store_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("memory_store_id"),
    )
    op.create_table(
        "memories",
        sa.Column("memory_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("memory_store_id", _TEXT, nullable=False),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("memory_version_id", _TEXT, nullable=False),
        sa.Column("content_sha256", _TEXT, nullable=False),
        sa.Column("content_size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("memory_id"),
    )
    op.create_index("memories_by_path", "memories", ["memory_store_id", "path"], unique=True)
    op.create_table(
        "memory_versions",
        sa.Column("memory_store_id", _TEXT, nullable=False),
        sa.Column("change", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("memory_version_id", _TEXT, nullable=False),
        sa.Column("memory_id", _TEXT, nullable=False),
        sa.Column("operation", _TEXT, nullable=False),
        sa.Column("path", _TEXT, nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("content_sha256", _TEXT, nullable=True),
        sa.Column("content_size_bytes", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("actor_type", _TEXT, nullable=True),
        sa.Column("actor_id", _TEXT, nullable=True),
        sa.Column("redacted_at", sa.BigInteger(), nullable=True),
        sa.Column("redactor_type", _TEXT, nullable=True),
        sa.Column("redactor_id", _TEXT, nullable=True),
        sa.Column("forget_after", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("memory_store_id", "change"),
    )
    op.create_index("memory_versions_by_id", "memory_versions", ["memory_version_id"], unique=True)
    for name, column in (
        ("memory_versions_by_memory", "memory_id"),
        ("memory_versions_by_actor", "actor_id"),
        ("memory_versions_by_operation", "operation"),
        ("memory_versions_by_time", "created_at"),
    ):
        op.create_index(name, "memory_versions", ["memory_store_id", column, "change"], unique=False)
    waits = sa.text("forget_after IS NOT NULL")
    op.create_index(
        "memory_versions_to_forget",
        "memory_versions",
        ["forget_after"],
        unique=False,
        sqlite_where=waits,
        postgresql_where=waits,
    )
