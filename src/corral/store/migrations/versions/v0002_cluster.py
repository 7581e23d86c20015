"""Many machines: nodes, placements, checkpoints; what poison sessions and fair shares are judged by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("sessions") as sessions:
        sessions.add_column(sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
        sessions.add_column(sa.Column("not_before", sa.BigInteger(), server_default="0", nullable=False))
        sessions.add_column(sa.Column("api_key_id", _TEXT, nullable=True))
    forgotten = sa.text("needs_brain_since IS NULL AND status IN ('running', 'rescheduling')")
    op.create_index(
        "sessions_forgotten",
        "sessions",
        ["session_id"],
        unique=False,
        sqlite_where=forgotten,
        postgresql_where=forgotten,
    )
    with op.batch_alter_table("inbox") as inbox:
        inbox.add_column(sa.Column("private", sa.LargeBinary(), nullable=True))

    # Its key was a number from a sequence; now a piece of work is named by what it is.
    op.rename_table("cleanup", "cleanup_0001")
    op.create_table(
        "cleanup",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "kind", name="cleanup_by_work"),
    )
    op.execute(
        "INSERT INTO cleanup (session_id, kind, created_at)"
        " SELECT session_id, kind, min(created_at) FROM cleanup_0001 GROUP BY session_id, kind"
    )
    op.drop_table("cleanup_0001")
    op.create_index("cleanup_by_age", "cleanup", ["created_at", "session_id", "kind"], unique=False)

    op.create_table(
        "nodes",
        sa.Column("node_id", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_table(
        "placements",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("host_id", _TEXT, nullable=False),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_index("placements_by_host", "placements", ["host_id", "session_id"], unique=False)
    op.create_table(
        "checkpoints",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("blob_key", _TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("host_id", _TEXT, nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id"),
    )
    op.create_table(
        "writers",
        sa.Column("writer_id", _TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer_id"),
    )
