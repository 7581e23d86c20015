"""What sandboxes asked for from the network. Sessions, agents and keys may be gone: nothing refers to
them."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table

from corral.store.schema.types import Moment, metadata

__all__ = ["audit_entries"]

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("entry_id", String, primary_key=True),
    Column("workspace_id", String),
    Column("session_id", String, nullable=False),
    Column("agent_id", String),
    Column("api_key_id", String),
    Column("created_at", Moment, nullable=False),
    Column("host", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("method", String, nullable=False),
    Column("decision", String, nullable=False),  # allowed | denied
    Column("reason", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("credential_id", String),
    # null until it has ended
    Column("sent_bytes", BigInteger),
    Column("received_bytes", BigInteger),
    Column("seconds", Float),
    Column("failed", String),
    Index("audit_entries_by_creation", "created_at", "entry_id"),
    Index("audit_entries_by_workspace", "workspace_id", "created_at", "entry_id"),
    Index("audit_entries_by_session", "session_id", "created_at", "entry_id"),
)
