"""Vaults, their credentials, and what is sealed. No column holds a secret in plain.

A secret belongs to a credential, or to a repository of a session, and is sealed with one of the keys of
`vault_keys`; a key that is in use cannot be deleted, nor one that was deleted be used.
"""

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, String, Table

from corral.store.schema.types import JsonBytes, Moment, metadata

__all__ = [
    "credential_refreshes",
    "credential_secrets",
    "credential_validations",
    "credentials",
    "repository_tokens",
    "vault_keys",
    "vaults",
]

vaults = Table(
    "vaults",
    metadata,
    Column("vault_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("body", JsonBytes, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Index("vaults_by_creation", "workspace_id", "created_at", "vault_id"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("credential_id", String, primary_key=True),
    Column("vault_id", ForeignKey("vaults.vault_id", ondelete="CASCADE"), nullable=False),
    Column("workspace_id", String, nullable=False),
    Column("use_sha256", LargeBinary, nullable=False),  # what it is for; see catalog.credentials.use_of
    Column("body", JsonBytes, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Index("credentials_by_creation", "vault_id", "created_at", "credential_id"),
)
Index(
    "credentials_by_use",
    credentials.c.vault_id,
    credentials.c.use_sha256,
    unique=True,
    sqlite_where=credentials.c.archived_at.is_(None),
    postgresql_where=credentials.c.archived_at.is_(None),
)

vault_keys = Table(
    "vault_keys",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("state", String, nullable=False),  # current | old
    Column("created_at", Moment, nullable=False),
    Column("rotation_asked_at", Moment),
)
Index(
    "vault_keys_current",
    vault_keys.c.state,
    unique=True,
    sqlite_where=vault_keys.c.state == "current",
    postgresql_where=vault_keys.c.state == "current",
)

credential_secrets = Table(
    "credential_secrets",
    metadata,
    Column("credential_id", ForeignKey("credentials.credential_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("key_id", ForeignKey("vault_keys.key_id"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("credential_secrets_by_key", "key_id", "credential_id", "name"),
)

repository_tokens = Table(
    "repository_tokens",
    metadata,
    Column("resource_id", String, primary_key=True),
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("url", String, nullable=False),  # as the resource has it, which never changes
    Column("key_id", ForeignKey("vault_keys.key_id"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("repository_tokens_by_session", "session_id", "resource_id"),
    Index("repository_tokens_by_key", "key_id", "resource_id"),
)

# Who refreshes the tokens of a credential now; see catalog.tokens.
credential_refreshes = Table(
    "credential_refreshes",
    metadata,
    Column("credential_id", ForeignKey("credentials.credential_id", ondelete="CASCADE"), primary_key=True),
    Column("claim_id", String, nullable=False),
    Column("until", Moment, nullable=False),
)

# Asked for by a node that cannot open secrets; see catalog.tokens.
credential_validations = Table(
    "credential_validations",
    metadata,
    Column("validation_id", String, primary_key=True),
    Column("credential_id", ForeignKey("credentials.credential_id", ondelete="CASCADE"), nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("taken_until", Moment, nullable=False),  # when it was asked for: nobody has taken it
    Column("answer", JsonBytes),
)
