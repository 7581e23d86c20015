"""SQLite through SQLAlchemy: connections, transactions, and what its errors mean.

A writer begins with BEGIN IMMEDIATE, so that it never has to upgrade a read lock. WAL lets readers go on
while it commits; synchronous=FULL makes every commit survive a power cut.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import STORE_BUSY_SECONDS, STORE_WAL_PAGES


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


def unavailable(error: DBAPIError) -> StoreUnavailable:
    """What the engine's error means for a caller. Never includes the statement or its values."""
    earlier: BaseException | None = error
    while earlier is not None:  # SQLite may have rolled back by itself, so that undoing failed as well
        error = earlier if isinstance(earlier, DBAPIError) else error
        earlier = earlier.__context__
    reason = str(error.orig)
    if "malformed" in reason or "not a database" in reason:
        return StoreUnavailable(
            f"The database file is damaged ({reason}). Stop the server, keep a copy, and restore a backup"
            " or run `sqlite3 corral.db .recover`.",
            retryable=False,
        )
    if "full" in reason:
        return StoreUnavailable(f"The store has no room ({reason}). Free disk space; nothing was written.")
    return StoreUnavailable(
        f"The store failed ({reason}). Nothing was written.", retryable=isinstance(error, OperationalError)
    )
