"""Sessions, their log and inbox, and what is left of them."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    literal_column,
)

from corral.store.schema.types import IN_DEFAULT_WORKSPACE, Exact, JsonBytes, Moment, metadata

__all__ = [
    "IS_FORGOTTEN",
    "IS_NOT_IDLE",
    "NOT_HELD_BACK",
    "cleanup",
    "events",
    "inbox",
    "session_details",
    "session_memory_stores",
    "sessions",
    "thread_details",
    "threads",
    "tombstones",
]

NOT_HELD_BACK = -1
"""As `not_before`: it waits for the end of its lease, but for no backoff. The next claim ends that."""

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
    Column("stop_reason", String),  # null while it is not idle
    Column("requests_cost", Exact),  # micro-cents
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
    Column("workspace_id", String, nullable=False, server_default=IN_DEFAULT_WORKSPACE),
    Index("sessions_by_creation", "workspace_id", "created_at", "session_id"),
    Index("sessions_by_api_key", "workspace_id", "api_key_id", "created_at", "session_id"),
    Index("sessions_by_agent", "workspace_id", "agent_id", "created_at", "session_id"),
    Index("sessions_by_environment", "environment_id"),
)
Index(
    "sessions_in_use",
    sessions.c.workspace_id,
    sessions.c.created_at,
    sessions.c.session_id,
    sqlite_where=sessions.c.archived_at.is_(None),
    postgresql_where=sessions.c.archived_at.is_(None),
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

IS_NOT_IDLE = sessions.c.archived_at.is_(None) & (sessions.c.status != literal_column("'idle'"))
"""Few among many: a list that asks for them finds them in an index of their own. It costs nothing that the
one above does not cost already."""
Index(
    "sessions_not_idle",
    sessions.c.workspace_id,
    sessions.c.status,
    sessions.c.created_at,
    sessions.c.session_id,
    sqlite_where=IS_NOT_IDLE,
    postgresql_where=IS_NOT_IDLE,
)

session_details = Table(
    "session_details",
    metadata,
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("title", String),
    Column("metadata", JsonBytes, nullable=False),
    Column("agent", JsonBytes, nullable=False),
    Column("environment", JsonBytes, nullable=False),
    Column("vault_ids", JsonBytes),  # null: none
    Column("resources", JsonBytes),  # null: none
    Column("budget", JsonBytes),  # null: none
    Column("runtime_rate", Exact),  # micro-cents per hour
    Column("skills", JsonBytes),  # null: none
)

session_memory_stores = Table(
    "session_memory_stores",
    metadata,
    # which sessions have a store among their resources; that never changes
    Column("memory_store_id", String, primary_key=True),
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Index("session_memory_stores_by_session", "session_id"),
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
    Column("workspace_id", String, nullable=False, server_default=IN_DEFAULT_WORKSPACE),
    Column("api_key_id", String),
)

cleanup = Table(
    "cleanup",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("kind", String, primary_key=True),  # sandbox | workspace | blobs
    Column("created_at", Moment, nullable=False),
    Index("cleanup_by_age", "created_at", "session_id", "kind"),
)
