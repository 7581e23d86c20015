"""Connections to SQLite and PostgreSQL, and what their errors mean. Transactions are begun in transact.

SQLite: a writer begins with BEGIN IMMEDIATE, so that it never has to upgrade a read lock. WAL lets readers
go on while it commits; synchronous=FULL makes every commit survive a power cut.

PostgreSQL: the driver's own BEGIN is switched off (autocommit), because ours carries more than BEGIN.
Readers are REPEATABLE READ and READ ONLY: a page is one snapshot. Writers are READ COMMITTED: after a row
lock was waited for, the next statement sees what its last holder committed. What is set on a connection
overrides the server's defaults, but not what the URL says.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import (
    POSTGRES_CONNECT_SECONDS,
    POSTGRES_IDLE_SECONDS,
    POSTGRES_KEEPALIVE_COUNT,
    POSTGRES_KEEPALIVE_SECONDS,
    POSTGRES_LOCK_SECONDS,
    POSTGRES_STATEMENT_SECONDS,
    POSTGRES_UNACKNOWLEDGED_SECONDS,
    STORE_BUSY_SECONDS,
    STORE_READERS,
    STORE_WAL_PAGES,
)

__all__ = ["postgres_engine", "sqlite_engine", "sqlstate", "target", "unavailable"]

_LIBPQ: dict[str, str | int] = {
    "fallback_application_name": "corral",
    "connect_timeout": POSTGRES_CONNECT_SECONDS,
    "keepalives_idle": POSTGRES_KEEPALIVE_SECONDS,
    "keepalives_interval": POSTGRES_KEEPALIVE_SECONDS,
    "keepalives_count": POSTGRES_KEEPALIVE_COUNT,
    "tcp_user_timeout": int(POSTGRES_UNACKNOWLEDGED_SECONDS * 1000),
    # During a fail-over a name may lead to a standby: it takes no writes, and what is read there is old.
    "target_session_attrs": "primary",
}
_SESSION = f"""
SET idle_in_transaction_session_timeout = {int(POSTGRES_IDLE_SECONDS * 1000)};
SET lock_timeout = {int(POSTGRES_LOCK_SECONDS * 1000)};
SET statement_timeout = {int(POSTGRES_STATEMENT_SECONDS * 1000)};
SET default_transaction_isolation = '{{isolation}}';
SET default_transaction_read_only = {{read_only}};
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""


def target(where: str | Path) -> Path | URL:
    """The SQLite file, or the URL of the PostgreSQL, that `where` (a path or a URL) names.

    Raises StoreUnavailable, which never repeats the URL: it holds a password.
    """
    if isinstance(where, Path):
        return where
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        url = None
    if url is not None and url.drivername == "sqlite" and url.database:
        return Path(url.database)
    if url is None or url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise StoreUnavailable(
            "The database URL is neither postgresql://user:password@host/name nor sqlite:////path.",
            retryable=False,
        )
    return url.set(drivername="postgresql+psycopg")


def sqlite_engine(path: Path, *, writes: bool) -> Engine:
    """An engine whose transactions are ours: pysqlite's own BEGIN is switched off."""
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=1 if writes else 8,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": STORE_BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"wal_autocheckpoint={STORE_WAL_PAGES}",
            f"query_only={'OFF' if writes else 'ON'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def postgres_engine(url: URL, *, writes: bool, connections: int = STORE_READERS) -> Engine:
    """An engine of at most so many connections. Raises StoreUnavailable: the driver is not installed."""
    try:
        engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            isolation_level="AUTOCOMMIT",
            connect_args={name: value for name, value in _LIBPQ.items() if name not in url.query},
        )
    except ImportError as error:
        raise StoreUnavailable(
            f"PostgreSQL needs a driver ({error}): install corral[cluster].", retryable=False
        ) from error
    session = _SESSION.format(
        isolation="read committed" if writes else "repeatable read", read_only="off" if writes else "on"
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(session)

    if not writes:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code of the error; None if the server did not send one (or it is SQLite)."""
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def unavailable(error: DBAPIError) -> StoreUnavailable:
    """What the engine's error means for a caller. Never includes the statement or its values. What the
    driver says, which names the host, the user and the database, is the detail."""
    earlier: BaseException | None = error
    while earlier is not None:  # SQLite may have rolled back by itself, so that undoing failed as well
        error = earlier if isinstance(earlier, DBAPIError) else error
        earlier = earlier.__context__
    reason = str(error.orig).partition("\n")[0]  # what follows is detail: values, parts of the statement
    if "malformed" in reason or "not a database" in reason:
        return StoreUnavailable(
            "The database file is damaged. Stop the server, keep a copy, and restore a backup"
            " or run `sqlite3 corral.db .recover`.",
            retryable=False,
            detail=reason,
        )
    if "full" in reason or sqlstate(error) == "53100":
        return StoreUnavailable(
            "The store has no room. Free disk space; nothing was written.", detail=reason
        )
    return StoreUnavailable(
        "The store failed or is out of reach. Nothing was written.",
        retryable=isinstance(error, OperationalError),
        detail=reason,
    )
