"""One transaction, whatever happens to the connection: how each engine begins, commits and tries again.

Rules of this file (PostgreSQL):
- A transaction that failed before COMMIT was sent is undone; if the reason was not its own (a deadlock, a
  connection that died, a server that restarts) it is run again, within bounds.
- A connection lost during COMMIT leaves a question. Each transaction therefore stores its number in a row
  of its writer, so the answer is in the database: another connection locks that row, which waits until
  the lost transaction is over, and reads the number. `pg_xact_status` would not do: a transaction id whose
  WAL was lost in a crash of the server is given out again, and its next owner's commit would answer.
- BEGIN, the writer's row and the clock are one round trip. The clock is the server's, read before any lock
  was waited for, so a lease that is judged or granted by it errs on the side of its former holder, and a
  holder counts its own trust from still earlier.
- How long an outage lasts is one fact of the process, shared by its connections: when it is longer than
  STORE_OUTAGE_SECONDS, a transaction gets one attempt and then StoreUnavailable.
"""

import random
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import (
    STORE_CONFLICTS_MAX,
    STORE_OUTAGE_SECONDS,
    STORE_RETRY_SECONDS,
    STORE_RETRY_SECONDS_MAX,
    WRITER_ROW_VERSIONS_MAX,
    WRITERS_FORGET_SECONDS,
)
from corral.store.driver import fetch
from corral.store.engine import sqlstate, unavailable

__all__ = [
    "CLOCK_US",
    "NOW_US",
    "Outage",
    "PostgresReader",
    "PostgresWriter",
    "SqliteTransactions",
    "Transactions",
    "forget_writers",
]

T = TypeVar("T")

NOW_US = "now_us"
"""Where `Connection.info` has the server's clock, as of the transaction's beginning."""

CLOCK_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_NUMBER = "SELECT number FROM writers WHERE writer_id = %(writer_id)s"
_LEAVE = """
DELETE FROM writers WHERE writer_id IN (
    SELECT writer_id FROM writers WHERE writer_id = %(writer_id)s FOR UPDATE SKIP LOCKED
)"""
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock: the others went on, try again
_IS_STANDBY = "25006"  # it takes no writes: after a fail-over the name led to the server that was replaced
_GONE = ("08", "57P", "53300", "25P03", "25P04", _IS_STANDBY)
"""The server goes or comes, is full, has cut us off, or is not the one that is meant."""


class Transactions(Protocol):
    """Runs a function of a `Connection` in a transaction, one at a time."""

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        """Return when it is durable. `work` may be run several times; what it raises undoes it.

        Raises DBAPIError or StoreUnavailable: nothing was written, unless the latter says so.
        """


class SqliteTransactions:
    """One attempt: there is no connection to lose."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        with self._engine.connect() as connection, connection.begin():
            return work(connection)


class Outage:
    """Whether the server is away, and since when. Shared by all connections of a `Database`."""

    def __init__(self) -> None:
        self._since: float | None = None

    def over(self) -> None:
        self._since = None

    def pause(self, error: DBAPIError, attempt: int) -> None:
        """Wait before the next attempt (`attempt`: how many there were); raises `error`, or what it means,
        if there is to be none."""
        state = sqlstate(error) or ""
        if state in _CONFLICTS:
            if attempt > STORE_CONFLICTS_MAX:
                raise error
        elif error.connection_invalidated or state.startswith(_GONE) or _has_no_answer(error):
            now = time.monotonic()
            self._since = self._since or now
            if now - self._since > STORE_OUTAGE_SECONDS:
                raise unavailable(error) from error
        else:
            raise error
        bound = min(STORE_RETRY_SECONDS * 2 ** (attempt - 1), STORE_RETRY_SECONDS_MAX)
        time.sleep(random.uniform(bound / 4, bound))


def _has_no_answer(error: DBAPIError) -> bool:
    """Whether the server could not be reached: a failed connection attempt carries no code."""
    return isinstance(error, OperationalError) and sqlstate(error) is None


class PostgresReader:
    """Reads of several threads. Each sees one snapshot: as a transaction, or by being one statement, which
    saves two round trips."""

    def __init__(self, engine: Engine, outage: Outage, *, is_one_statement: bool = False) -> None:
        self._engine = engine
        self._outage = outage
        self._is_one_statement = is_one_statement

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        attempt = 0
        while True:
            try:
                with self._engine.connect() as connection, self._transaction(connection):
                    result = work(connection)
            except DBAPIError as error:
                attempt += 1
                self._outage.pause(error, attempt)
            else:
                self._outage.over()
                return result

    def _transaction(self, connection: Connection) -> AbstractContextManager[Any]:
        return nullcontext() if self._is_one_statement else connection.begin()


class PostgresWriter:
    """Write transactions of one thread."""

    def __init__(self, engine: Engine, outage: Outage) -> None:
        self._engine = engine
        self._outage = outage
        self._writer_id = _new_id()
        self._number = 0

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        attempt = 0
        while True:
            try:
                result, lost = self._once(work)
                if lost is not None and not self._has_committed():
                    raise lost
            except DBAPIError as error:
                attempt += 1
                self._outage.pause(error, attempt)
            else:
                self._outage.over()
                return result

    def _once(self, work: Callable[[Connection], T]) -> tuple[T, DBAPIError | None]:
        """The result, and the error if it is not known whether COMMIT took effect."""
        self._number += 1
        with self._engine.connect() as connection:
            transaction = connection.begin()
            try:
                if self._number % WRITER_ROW_VERSIONS_MAX == 0:
                    self._change_row(connection)
                self._begin(connection)
                result = work(connection)
            except BaseException as error:
                if isinstance(error, DBAPIError) and sqlstate(error) == _IS_STANDBY:
                    connection.invalidate()  # the next one may lead to the server that took over
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    return result, error
                raise
            return result, None

    def _begin(self, connection: Connection) -> None:
        # A BEGIN that follows a statement in one message takes it into the transaction ("Multiple
        # Statements in a Simple Query" in PostgreSQL's protocol); so the row comes first, with its answer.
        connection.info[NOW_US] = self._sign(
            connection, self._number, "number = excluded.number, ", "; BEGIN"
        )

    def _change_row(self, connection: Connection) -> None:
        """Go on under another id. What became of the last transaction is known, or nobody will ask again;
        should it still hold the row, that is left to `forget_writers`."""
        left, self._writer_id = self._writer_id, _new_id()
        connection.exec_driver_sql(_LEAVE, {"writer_id": left})

    def _has_committed(self) -> bool:
        """Whether the last transaction took effect; it is over when this returns.

        Raises StoreUnavailable (`written`, which here means "perhaps") if the server stays away.
        """
        attempt = 0
        while True:
            try:
                with self._engine.connect() as connection:
                    # An upsert, because it also waits for a row that is inserted and not yet committed.
                    self._sign(connection, 0, "", "")
                    number = connection.exec_driver_sql(_NUMBER, {"writer_id": self._writer_id})
                    return int(number.scalar_one()) == self._number
            except DBAPIError as error:
                attempt += 1
                try:
                    self._outage.pause(error, attempt)
                except (DBAPIError, StoreUnavailable) as last:
                    raise StoreUnavailable(
                        "The connection to the store broke during a commit, and the store stays away: it is"
                        " not known whether this was written.",
                        written=True,
                    ) from last

    def _sign(self, connection: Connection, number: int, change: str, then: str) -> int:
        """Write our row; returns the server's clock. Without parameters, or it could not be one message."""
        [(now_us,)] = fetch(
            connection,
            "INSERT INTO writers (writer_id, number, used_at)"  # noqa: S608  # hex and numbers of ours
            f" VALUES ('{self._writer_id}', {number}, {CLOCK_US})"
            f" ON CONFLICT (writer_id) DO UPDATE SET {change}used_at = excluded.used_at"
            f" RETURNING used_at{then}",
        )
        return int(now_us)


def _new_id() -> str:
    return secrets.token_hex(12)


def forget_writers(engine: Engine) -> None:
    """Remove the rows of writers whose processes ended long ago."""
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(
            f"DELETE FROM writers WHERE used_at < {CLOCK_US} - %(age)s",  # noqa: S608  # a constant
            {"age": WRITERS_FORGET_SECONDS * 1_000_000},
        )
