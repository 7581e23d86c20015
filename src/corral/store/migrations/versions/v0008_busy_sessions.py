"""Lists of sessions that are not idle: few among many, in an index of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_NOT_IDLE = sa.text("archived_at IS NULL AND status != 'idle'")


def upgrade() -> None:
    op.create_index(
        "sessions_not_idle",
        "sessions",
        ["workspace_id", "status", "created_at", "session_id"],
        sqlite_where=_NOT_IDLE,
        postgresql_where=_NOT_IDLE,
    )
