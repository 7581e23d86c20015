"""What sessions are made of, who may ask, and what was answered."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from corral.store.schema.types import JsonBytes, Moment, metadata

__all__ = ["agent_versions", "agents", "api_keys", "environments", "idempotency"]

agents = Table(
    "agents",
    metadata,
    Column("agent_id", String, primary_key=True),
    Column("version", BigInteger, nullable=False),  # the latest
    Column("created_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Index("agents_by_creation", "created_at", "agent_id"),
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
    Index("environments_by_creation", "created_at", "environment_id"),
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
