"""Tokens of the private repositories of sessions, sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "repository_tokens",
        sa.Column("resource_id", _TEXT, nullable=False),
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("url", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["key_id"], ["vault_keys.key_id"]),
        sa.PrimaryKeyConstraint("resource_id"),
    )
    op.create_index("repository_tokens_by_session", "repository_tokens", ["session_id", "resource_id"])
    op.create_index("repository_tokens_by_key", "repository_tokens", ["key_id", "resource_id"])
