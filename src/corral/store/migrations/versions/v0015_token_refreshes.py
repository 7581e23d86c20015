"""Who refreshes the tokens of a credential now."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "credential_refreshes",
        sa.Column("credential_id", _TEXT, nullable=False),
        sa.Column("claim_id", _TEXT, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["credential_id"], ["credentials.credential_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("credential_id"),
    )
