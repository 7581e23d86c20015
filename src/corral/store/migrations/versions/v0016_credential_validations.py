"""Validations of credentials that a node asks another one for."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "credential_validations",
        sa.Column("validation_id", _TEXT, nullable=False),
        sa.Column("credential_id", _TEXT, nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_until", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["credential_id"], ["credentials.credential_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("validation_id"),
    )
