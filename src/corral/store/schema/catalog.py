"""What sessions are made of, who may ask, and what was answered."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from corral.store.schema.types import IN_DEFAULT_WORKSPACE, JsonBytes, Moment, metadata

__all__ = ["agent_versions", "agents", "api_keys", "environments", "idempotency", "workspaces"]

# The default workspace has no row: it is always there.
workspaces = Table(
    "workspaces",
    metadata,
    Column("workspace_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
)

agents = Table(
    "agents",
    metadata,
    Column("agent_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),  # the latest
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Column("workspace_id", String, nullable=False, server_default=IN_DEFAULT_WORKSPACE),
    Index("agents_by_creation", "workspace_id", "created_at", "agent_id"),
)
Index(
    "agents_in_use",
    agents.c.workspace_id,
    agents.c.created_at,
    agents.c.agent_id,
    sqlite_where=agents.c.archived_at.is_(None),
    postgresql_where=agents.c.archived_at.is_(None),
)

agent_versions = Table(
    "agent_versions",
    metadata,
    Column("agent_id", ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("body", JsonBytes, nullable=False),
)

environments = Table(
    "environments",
    metadata,
    Column("environment_id", String, primary_key=True),
    Column("body", JsonBytes, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Column("workspace_id", String, nullable=False, server_default=IN_DEFAULT_WORKSPACE),
    Index("environments_by_creation", "workspace_id", "created_at", "environment_id"),
)
Index(
    "environments_in_use",
    environments.c.workspace_id,
    environments.c.created_at,
    environments.c.environment_id,
    sqlite_where=environments.c.archived_at.is_(None),
    postgresql_where=environments.c.archived_at.is_(None),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("api_key_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    Column("hint", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Column("workspace_id", String, nullable=False, server_default=IN_DEFAULT_WORKSPACE),
    Column("role", String, nullable=False, server_default="admin"),
    Column("last_used_at", Moment),  # lags: see API_KEY_USE_SECONDS
    Index("api_keys_by_workspace", "workspace_id", "created_at", "api_key_id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("api_key_id", String, primary_key=True),
    Column("path", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False, index=True),
)
