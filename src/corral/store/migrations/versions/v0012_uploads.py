"""Files of no session are found without looking at those of sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_IS_OF_NONE = sa.text("scope_id IS NULL")


def upgrade() -> None:
    op.create_index(
        "files_uploaded",
        "files",
        ["workspace_id", "created_at", "file_id"],
        sqlite_where=_IS_OF_NONE,
        postgresql_where=_IS_OF_NONE,
    )
