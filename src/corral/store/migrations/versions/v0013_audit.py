"""The audit of what sandboxes asked for from the network."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("entry_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=True),
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("agent_id", _TEXT, nullable=True),
        sa.Column("api_key_id", _TEXT, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("method", _TEXT, nullable=False),
        sa.Column("decision", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.Column("credential_id", _TEXT, nullable=True),
        sa.Column("sent_bytes", sa.BigInteger(), nullable=True),
        sa.Column("received_bytes", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("failed", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("entry_id"),
    )
    op.create_index("audit_entries_by_creation", "audit_entries", ["created_at", "entry_id"])
    op.create_index(
        "audit_entries_by_workspace", "audit_entries", ["workspace_id", "created_at", "entry_id"]
    )
    op.create_index("audit_entries_by_session", "audit_entries", ["session_id", "created_at", "entry_id"])
