"""Self-hosted environments: work items, the workers that poll for them, environment keys."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_HAS_NOT_STOPPED = sa.text("state != 'stopped'")


def upgrade() -> None:
    op.create_table(
        "work",
        sa.Column("work_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("environment_id", _TEXT, nullable=False),
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("ttl_seconds", sa.Integer(), nullable=False),
        sa.Column("free_from", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("latest_heartbeat_at", sa.BigInteger(), nullable=True),
        sa.Column("previous_heartbeat_at", sa.BigInteger(), nullable=True),
        sa.Column("stop_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("old_token_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("claimed_seq", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("again", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("work_id"),
    )
    op.create_index("work_by_creation", "work", ["workspace_id", "environment_id", "created_at", "work_id"])
    op.create_index(
        "work_of_session",
        "work",
        ["session_id"],
        unique=True,
        sqlite_where=_HAS_NOT_STOPPED,
        postgresql_where=_HAS_NOT_STOPPED,
    )
    op.create_index(
        "work_by_freedom",
        "work",
        ["environment_id", "free_from", "work_id"],
        sqlite_where=_HAS_NOT_STOPPED,
        postgresql_where=_HAS_NOT_STOPPED,
    )
    op.create_index("work_by_session", "work", ["session_id"])
    op.create_index("work_by_token", "work", ["token_sha256"])
    op.create_index("work_by_old_token", "work", ["old_token_sha256"])
    op.create_table(
        "workers",
        sa.Column("environment_id", _TEXT, nullable=False),
        sa.Column("worker_id", _TEXT, nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("environment_id", "worker_id"),
    )
    op.create_index("workers_by_sight", "workers", ["environment_id", "seen_at"])
    op.create_table(
        "environment_keys",
        sa.Column("environment_key_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("environment_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("hint", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.environment_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("environment_key_id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index(
        "environment_keys_by_creation",
        "environment_keys",
        ["environment_id", "created_at", "environment_key_id"],
    )
