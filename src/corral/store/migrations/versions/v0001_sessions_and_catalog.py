"""Sessions, their log, inbox and leases; the catalog; API keys; idempotency."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("agent_id", _TEXT, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("agent_id"),
    )
    op.create_index("agents_by_creation", "agents", ["created_at", "agent_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("api_key_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("hint", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("api_key_id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "cleanup",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "environments",
        sa.Column("environment_id", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("environment_id"),
    )
    op.create_index(
        "environments_by_creation", "environments", ["created_at", "environment_id"], unique=False
    )
    op.create_table(
        "events",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", _TEXT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=True),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("type", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("private", sa.LargeBinary(), nullable=True),
        sa.Column("processed_at", sa.BigInteger(), nullable=False),
        sa.Column("answers", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("session_id", "seq"),
        sa.UniqueConstraint("event_id", "session_id", name="events_by_id"),
    )
    op.create_index(
        "events_by_answered_call",
        "events",
        ["session_id", "answers"],
        unique=True,
        sqlite_where=sa.text("answers IS NOT NULL"),
        postgresql_where=sa.text("answers IS NOT NULL"),
    )
    op.create_index(
        "events_by_arrival",
        "events",
        ["session_id", "arrival"],
        unique=False,
        sqlite_where=sa.text("arrival IS NOT NULL"),
        postgresql_where=sa.text("arrival IS NOT NULL"),
    )
    op.create_table(
        "idempotency",
        sa.Column("api_key_id", _TEXT, nullable=False),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("key", _TEXT, nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", "path", "key"),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", _TEXT, nullable=False),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("type", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "arrival"),
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_arrival", sa.BigInteger(), nullable=False),
        sa.Column("last_processed_at", sa.BigInteger(), nullable=False),
        sa.Column("needs_brain_since", sa.BigInteger(), nullable=True),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("usage", sa.LargeBinary(), nullable=False),
        sa.Column("active_seconds", sa.Float(), nullable=False),
        sa.Column("running_since", sa.BigInteger(), nullable=True),
        sa.Column("blocked_on", sa.LargeBinary(), nullable=False),
        sa.Column("primary_thread_id", _TEXT, nullable=False),
        sa.Column("agent_id", _TEXT, nullable=True),
        sa.Column("agent_version", sa.BigInteger(), nullable=True),
        sa.Column("environment_id", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.Column("terminated_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_index("sessions_by_creation", "sessions", ["created_at", "session_id"], unique=False)
    op.create_index("sessions_by_environment", "sessions", ["environment_id"], unique=False)
    op.create_index(
        "sessions_by_owner",
        "sessions",
        ["owner"],
        unique=False,
        sqlite_where=sa.text("owner IS NOT NULL"),
        postgresql_where=sa.text("owner IS NOT NULL"),
    )
    op.create_index(
        "sessions_that_need_a_brain",
        "sessions",
        ["needs_brain_since"],
        unique=False,
        sqlite_where=sa.text("needs_brain_since IS NOT NULL"),
        postgresql_where=sa.text("needs_brain_since IS NOT NULL"),
    )
    op.create_table(
        "tombstones",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_index(op.f("ix_tombstones_deleted_at"), "tombstones", ["deleted_at"], unique=False)
    op.create_table(
        "agent_versions",
        sa.Column("agent_id", _TEXT, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.agent_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("agent_id", "version"),
    )
    op.create_table(
        "session_details",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("title", _TEXT, nullable=True),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("agent", sa.LargeBinary(), nullable=False),
        sa.Column("environment", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_table(
        "thread_details",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("parent_thread_id", _TEXT, nullable=True),
        sa.Column("agent", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_id", "thread_id"),
    )
    op.create_table(
        "threads",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("usage", sa.LargeBinary(), nullable=True),
        sa.Column("active_seconds", sa.Float(), nullable=False),
        sa.Column("running_since", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_id", "thread_id"),
    )
