"""Budgets of sessions, and what is kept to hold them: what requests cost, and the price of running time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("sessions", sa.Column("stop_reason", _TEXT, nullable=True))
    op.add_column("sessions", sa.Column("requests_cost", _TEXT, nullable=True))
    op.add_column("session_details", sa.Column("budget", sa.LargeBinary(), nullable=True))
    op.add_column("session_details", sa.Column("runtime_rate", _TEXT, nullable=True))
