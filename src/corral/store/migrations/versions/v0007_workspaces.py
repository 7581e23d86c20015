"""Workspaces: agents, environments, sessions and API keys belong to one. What was there is in the default
one; keys of then may do everything, as they could."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_IN_USE = sa.text("archived_at IS NULL")
_OWNED = ("agents", "environments", "sessions", "tombstones", "api_keys")
_LISTED = {"agents": "agent_id", "environments": "environment_id", "sessions": "session_id"}


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("workspace_id"),
    )
    for table in _OWNED:
        op.add_column(
            table, sa.Column("workspace_id", _TEXT, nullable=False, server_default="wrkspc_default")
        )
    op.add_column("api_keys", sa.Column("role", _TEXT, nullable=False, server_default="admin"))
    op.add_column("api_keys", sa.Column("last_used_at", sa.BigInteger(), nullable=True))
    op.create_index("api_keys_by_workspace", "api_keys", ["workspace_id", "created_at", "api_key_id"])
    for table, id_column in _LISTED.items():
        columns = ["workspace_id", "created_at", id_column]
        op.drop_index(f"{table}_by_creation", table_name=table)
        op.create_index(f"{table}_by_creation", table, columns)
        op.create_index(f"{table}_in_use", table, columns, sqlite_where=_IN_USE, postgresql_where=_IN_USE)
    for name, column in (("sessions_by_agent", "agent_id"), ("sessions_by_api_key", "api_key_id")):
        op.create_index(name, "sessions", ["workspace_id", column, "created_at", "session_id"])
    op.add_column("tombstones", sa.Column("api_key_id", _TEXT, nullable=True))
