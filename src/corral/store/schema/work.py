"""Self-hosted environments: their queues, who asks them for work, and the keys to do so.

Keys and tokens are kept as SHA-256 only.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from corral.store.schema.types import JsonBytes, Moment, metadata

__all__ = ["environment_keys", "work", "workers"]

work = Table(
    "work",
    metadata,
    Column("work_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("environment_id", String, nullable=False),
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("state", String, nullable=False),  # queued | starting | active | stopping | stopped
    Column("metadata", JsonBytes, nullable=False),
    Column("ttl_seconds", Integer, nullable=False),
    # by the database's clock; what it means depends on the state, see session.work
    Column("free_from", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("queued_at", Moment, nullable=False),
    Column("claimed_at", Moment),
    Column("acknowledged_at", Moment),
    Column("started_at", Moment),
    Column("latest_heartbeat_at", Moment),
    Column("previous_heartbeat_at", Moment),
    Column("stop_requested_at", Moment),
    Column("stopped_at", Moment),
    # the last claim, and the one before it
    Column("token_sha256", LargeBinary),
    Column("old_token_sha256", LargeBinary),
    Column("claimed_seq", BigInteger, nullable=False),  # the end of the session's log then
    # workers that gave it up in a row; whether it is offered anew once it has stopped
    Column("failures", Integer, nullable=False),
    Column("again", Integer, nullable=False),
    Index("work_by_creation", "workspace_id", "environment_id", "created_at", "work_id"),
)
_HAS_NOT_STOPPED = work.c.state != "stopped"
Index(
    "work_of_session",
    work.c.session_id,
    unique=True,
    sqlite_where=_HAS_NOT_STOPPED,
    postgresql_where=_HAS_NOT_STOPPED,
)
Index(
    "work_by_freedom",
    work.c.environment_id,
    work.c.free_from,
    work.c.work_id,
    sqlite_where=_HAS_NOT_STOPPED,
    postgresql_where=_HAS_NOT_STOPPED,
)
Index("work_by_session", work.c.session_id)  # a deleted session takes its items along
Index("work_by_token", work.c.token_sha256)
Index("work_by_old_token", work.c.old_token_sha256)

workers = Table(
    "workers",
    metadata,
    Column("environment_id", String, primary_key=True),
    Column("worker_id", String, primary_key=True),
    Column("seen_at", Moment, nullable=False),
    Index("workers_by_sight", "environment_id", "seen_at"),
)

environment_keys = Table(
    "environment_keys",
    metadata,
    Column("environment_key_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("environment_id", ForeignKey("environments.environment_id", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    Column("hint", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Index("environment_keys_by_creation", "environment_id", "created_at", "environment_key_id"),
)
