"""The tables. Changing one here needs a migration; a test compares this file with the migrated database.

What changes with every append (`sessions`, `threads`) is narrow; what is large and rarely changes
(`session_details`, `thread_details`) is apart, because an update rewrites its whole row.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)

REVISION = "0002"
"""The Alembic revision that this file describes."""

NOT_HELD_BACK = -1
"""As `not_before`: it waits for the end of its lease, but for no backoff. The next claim ends that."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


class Moment(TypeDecorator[datetime]):
    """A UTC time, kept as integer microseconds: exact, ordered, and the same on every engine."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_us(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_us(value)


class JsonBytes(TypeDecorator[Any]):
    """JSON as bytes: read back exactly as written, never searched by the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else orjson.dumps(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)


metadata = MetaData()

# -- sessions -----------------------------------------------------------------------------------------

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    # the lease; lease_until in microseconds by the database's clock, 0 when nobody holds it
    Column("owner", String),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    # brains that died at it since it last got on, and until when (database's clock, us) it waits; a lease
    # that its holder let pass makes it wait as well, unless it is NOT_HELD_BACK
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("not_before", BigInteger, nullable=False, server_default="0"),
    # ends of log and inbox
    Column("last_seq", BigInteger, nullable=False),
    Column("last_arrival", BigInteger, nullable=False),
    Column("last_processed_at", Moment, nullable=False),
    # derived: repeats the fold. needs_brain_since is null when no brain is needed
    Column("needs_brain_since", BigInteger),
    Column("status", String, nullable=False),
    Column("usage", JsonBytes, nullable=False),
    Column("active_seconds", Float, nullable=False),
    Column("running_since", Moment),
    Column("blocked_on", JsonBytes, nullable=False),
    # the record
    Column("primary_thread_id", String, nullable=False),
    Column("agent_id", String),
    Column("agent_version", BigInteger),
    Column("environment_id", String, nullable=False),
    Column("api_key_id", String),  # who created it: brains share fairly between keys
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("archived_at", Moment),
    Column("terminated_at", Moment),
    Index("sessions_by_creation", "created_at", "session_id"),
    Index("sessions_by_environment", "environment_id"),
)
Index(
    "sessions_that_need_a_brain",
    sessions.c.needs_brain_since,
    sqlite_where=sessions.c.needs_brain_since.is_not(None),
    postgresql_where=sessions.c.needs_brain_since.is_not(None),
)
Index(
    "sessions_by_owner",
    sessions.c.owner,
    sqlite_where=sessions.c.owner.is_not(None),
    postgresql_where=sessions.c.owner.is_not(None),
)

IS_FORGOTTEN = sessions.c.needs_brain_since.is_(None) & sessions.c.status.in_(
    [literal_column("'running'"), literal_column("'rescheduling'")]
)
"""At work, and nobody would look for a brain. Never true; its index is empty, and so costs nothing to keep
or to search. Words, not parameters: else SQLite does not see that a query may use the index."""
Index(
    "sessions_forgotten",
    sessions.c.session_id,
    sqlite_where=IS_FORGOTTEN,
    postgresql_where=IS_FORGOTTEN,
)

session_details = Table(
    "session_details",
    metadata,
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("title", String),
    Column("metadata", JsonBytes, nullable=False),
    Column("agent", JsonBytes, nullable=False),
    Column("environment", JsonBytes, nullable=False),
)

threads = Table(
    "threads",
    metadata,
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("status", String, nullable=False),
    Column("usage", JsonBytes),
    Column("active_seconds", Float, nullable=False),
    Column("running_since", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("archived_at", Moment),
)

thread_details = Table(
    "thread_details",
    metadata,
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("parent_thread_id", String),
    Column("agent", JsonBytes, nullable=False),
)

events = Table(
    "events",
    metadata,
    # No foreign key: every insert happens under the lock of its session's row, which proves the parent.
    Column("session_id", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", String, nullable=False),
    Column("arrival", BigInteger),
    Column("thread_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("private", JsonBytes),
    Column("processed_at", Moment, nullable=False),
    Column("answers", String),
    # Ids are minted in the order of time, so inserts of all sessions meet in the same few index pages.
    UniqueConstraint("event_id", "session_id", name="events_by_id"),
)
Index(
    "events_by_answered_call",
    events.c.session_id,
    events.c.answers,
    unique=True,
    sqlite_where=events.c.answers.is_not(None),
    postgresql_where=events.c.answers.is_not(None),
)
Index(
    "events_by_arrival",
    events.c.session_id,
    events.c.arrival,
    sqlite_where=events.c.arrival.is_not(None),
    postgresql_where=events.c.arrival.is_not(None),
)

inbox = Table(
    "inbox",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("arrival", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", String, nullable=False),
    Column("thread_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("private", JsonBytes),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("deleted_at", Moment, nullable=False, index=True),
)

cleanup = Table(
    "cleanup",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("kind", String, primary_key=True),  # sandbox | workspace | blobs
    Column("created_at", Moment, nullable=False),
    Index("cleanup_by_age", "created_at", "session_id", "kind"),
)

# -- cluster ------------------------------------------------------------------------------------------

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String, primary_key=True),
    Column("owner", String, nullable=False),  # of the leases of its brain, and of this row
    Column("beat_at", BigInteger, nullable=False),  # by the database's clock, us
    Column("body", JsonBytes, nullable=False),  # cluster.node.Node
)

placements = Table(
    "placements",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("host_id", String, nullable=False),
    Column("placed_at", Moment, nullable=False),
    Index("placements_by_host", "host_id", "session_id"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("session_id", String, primary_key=True),  # the newest one only
    Column("blob_key", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("host_id", String, nullable=False),  # where it was taken
    Column("taken_at", Moment, nullable=False),
)

# PostgreSQL only: the last transaction of each writing connection (store.transact).
writers = Table(
    "writers",
    metadata,
    Column("writer_id", String, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),  # by the database's clock, us
)

# -- catalog ------------------------------------------------------------------------------------------

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
