"""Vaults, credentials and sealed secrets; the vaults of a session."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_ACTIVE = sa.text("archived_at IS NULL")
_CURRENT = sa.text("state = 'current'")


def upgrade() -> None:
    op.create_table(
        "vaults",
        sa.Column("vault_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("vault_id"),
    )
    op.create_index("vaults_by_creation", "vaults", ["workspace_id", "created_at", "vault_id"])
    op.create_table(
        "credentials",
        sa.Column("credential_id", _TEXT, nullable=False),
        sa.Column("vault_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("use_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["vault_id"], ["vaults.vault_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("credential_id"),
    )
    op.create_index("credentials_by_creation", "credentials", ["vault_id", "created_at", "credential_id"])
    op.create_index(
        "credentials_by_use",
        "credentials",
        ["vault_id", "use_sha256"],
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    )
    op.create_table(
        "vault_keys",
        sa.Column("key_id", _TEXT, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("rotation_asked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index(
        "vault_keys_current",
        "vault_keys",
        ["state"],
        unique=True,
        sqlite_where=_CURRENT,
        postgresql_where=_CURRENT,
    )
    op.create_table(
        "credential_secrets",
        sa.Column("credential_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["credential_id"], ["credentials.credential_id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["key_id"], ["vault_keys.key_id"]),
        sa.PrimaryKeyConstraint("credential_id", "name"),
    )
    op.create_index("credential_secrets_by_key", "credential_secrets", ["key_id", "credential_id", "name"])
    op.add_column("session_details", sa.Column("vault_ids", sa.LargeBinary(), nullable=True))
