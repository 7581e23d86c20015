"""Which sessions have a memory store among their resources: none had one before."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "session_memory_stores",
        sa.Column("memory_store_id", _TEXT, nullable=False),
        sa.Column("session_id", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("memory_store_id", "session_id"),
    )
    op.create_index("session_memory_stores_by_session", "session_memory_stores", ["session_id"])
