"""The database: opening it, and running transactions. Nothing else opens one."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from corral.catalog.idempotency import current
from corral.kernel.clock import Clock, SystemClock
from corral.kernel.crash import crash_point
from corral.kernel.errors import CallerError
from corral.kernel.ids import SessionId
from corral.kernel.limits import POSTGRES_WRITERS, STORE_READERS
from corral.store.answers import record_answer
from corral.store.commit import Body, GroupCommit, Item, Merged
from corral.store.engine import postgres_engine, sqlite_engine, target, unavailable
from corral.store.schema import from_us, to_us
from corral.store.transact import (
    CLOCK_US,
    NOW_US,
    Outage,
    PostgresReader,
    PostgresWriter,
    SqliteTransactions,
    Transactions,
    forget_writers,
)
from corral.store.upgrade import require, upgrade

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """Runs transaction bodies: plain synchronous functions of a `Connection`, in a thread of ours.

    A body must not keep the connection, nor wait for anything but the database; it may run several times.
    """

    def __init__(
        self,
        *,
        writer: Engine,
        reader: Engine,
        writers: Sequence[Transactions],
        reads: Transactions,
        looks: Transactions,
        clock: Clock,
        server_clock: bool,
    ) -> None:
        """`server_clock`: whether leases end by the clock of the server, and not by `clock`."""
        self.writer = writer
        self._reader = reader
        self.clock = clock
        self._server_clock = server_clock
        self._commits = GroupCommit(writers, locks_rows=self.is_postgres)
        self._reads = reads
        self._looks = looks
        self._readers = ThreadPoolExecutor(STORE_READERS, thread_name_prefix="corral-store-reader")

    @classmethod
    async def open(
        cls, where: Path | str, *, clock: Clock | None = None, migrate: bool | None = None
    ) -> "Database":
        """Open the SQLite file or the PostgreSQL that `where`, a path or a URL, names.

        clock:   the database's clock, by which leases end; else PostgreSQL's own, or this process's.
        migrate: whether to create or upgrade the schema; unless given, on SQLite only.
        Raises StoreUnavailable: not there, not a database, damaged, or not the schema of this version; the
        message says what to do, and never repeats the URL.
        """
        found = target(where)
        if isinstance(found, Path):
            _make_private(found)
            writer, reader = sqlite_engine(found, writes=True), sqlite_engine(found, writes=False)
        else:
            writer = postgres_engine(found, writes=True, connections=POSTGRES_WRITERS)
            reader = postgres_engine(found, writes=False)
        try:
            await asyncio.to_thread(upgrade if _may_migrate(migrate, found) else require, writer)
            if not isinstance(found, Path):
                await asyncio.to_thread(forget_writers, writer)
        except DBAPIError as error:
            writer.dispose()
            raise unavailable(error) from error
        except BaseException:
            writer.dispose()
            raise
        outage = Outage()
        writers: list[Transactions]
        reads: Transactions
        looks: Transactions
        if isinstance(found, Path):
            writers = [SqliteTransactions(writer)]
            reads = looks = SqliteTransactions(reader)
        else:
            writers = [PostgresWriter(writer, outage) for _ in range(POSTGRES_WRITERS)]
            reads = PostgresReader(reader, outage)
            looks = PostgresReader(reader, outage, is_one_statement=True)
        return cls(
            writer=writer,
            reader=reader,
            writers=writers,
            reads=reads,
            looks=looks,
            clock=clock or SystemClock(),
            server_clock=clock is None and not isinstance(found, Path),
        )

    @property
    def is_postgres(self) -> bool:
        return self.writer.dialect.name == "postgresql"

    @property
    def connections(self) -> Mapping[str, int]:
        """Connections in use now, by what they do."""
        pools = {"write": self.writer.pool, "read": self._reader.pool}
        return {name: pool.checkedout() for name, pool in pools.items() if isinstance(pool, QueuePool)}

    @property
    def writes_queued(self) -> int:
        """Writes that wait for their commit: how busy the store is."""
        return self._commits.queued

    async def close(self) -> None:
        """Commit what was submitted, then close. Repeat: safe."""
        await self._commits.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._reader.dispose()
        self.writer.dispose()

    def now_us(self, connection: Connection) -> int:
        """The database's clock, by which leases end. SQLite has none of its own: it is this process's.

        Within a write transaction it stands still, at the transaction's beginning.
        """
        if not self._server_clock:
            return to_us(self.clock.now())
        began: int | None = connection.info.get(NOW_US)
        if began is None:  # a reader
            return int(connection.exec_driver_sql(f"SELECT {CLOCK_US}").scalar_one())
        return began

    async def read(self, body: Body[T]) -> T:
        """Run `body` in one read transaction, which sees one snapshot. Raises StoreUnavailable."""
        return await self._read(self._reads, body)

    async def look(self, body: Body[T]) -> T:
        """The same for a body of one statement (a `Query`, to profit by it), and what it has to ask when
        that finds nothing."""
        return await self._read(self._looks, body)

    async def _read(self, transactions: Transactions, body: Body[T]) -> T:
        def run() -> T:
            try:
                return transactions(body)
            except DBAPIError as error:
                raise unavailable(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(
        self,
        body: Body[T],
        *,
        locks: Sequence[SessionId] | None = None,
        checks_first: bool = False,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `body` in a write transaction and return when it is durable. What it raises undoes it.

        Inside `catalog.idempotency.scope` the request's answer is recorded in the same transaction.
        locks: the sessions whose rows the body locks or writes, if it never has to wait for anything else
        (new rows under new ids: `()`). Then it shares its commit; else, on PostgreSQL, it has its own.
        checks_first: the body raises CallerError only before its first write, so there is nothing to undo,
        and a caller's mistake does not cost those who share the commit anything.
        committed: called with the result in the event loop after the commit, even if the caller has
        been cancelled. Raises StoreUnavailable (nothing written).
        """
        request = current.get()

        def run(connection: Connection) -> T | CallerError:
            try:
                result = body(connection)
            except CallerError as refusal:
                if checks_first:
                    return refusal
                raise
            if request is not None:
                record_answer(connection, request, result, now=from_us(self.now_us(connection)))
                crash_point("store.keyed.written")
            return result

        if request is None:
            return await self._commits.body(run, locks=locks, committed=committed)
        crash_point("store.keyed.before")
        # The record's key may be waited for: its twin, on another node, inserts it at the same time.
        result = await self._commits.body(run, locks=None, committed=committed)
        crash_point("store.keyed.after")
        return result

    async def merge(
        self,
        merged: Merged[Item, T],
        item: Item,
        *,
        locks: Sequence[SessionId] = (),
        committed: Callable[[T], None] | None = None,
        size: int = 0,
    ) -> T:
        """Like `write`, for writes that are cheaper together: `merged` gets the items of the batch, all of
        them unless they are too large for that (`size`: bytes, about). It locks the rows of `locks`, its
        items' sessions, in the order of their ids, and waits for nothing else."""
        return await self._commits.merged(merged, item, locks=locks, committed=committed, size=size)


def _may_migrate(asked: bool | None, found: Path | URL) -> bool:
    """On PostgreSQL other nodes, of another version perhaps, are at work: an operator says when."""
    return isinstance(found, Path) if asked is None else asked


def _make_private(path: Path) -> None:
    """Whoever may pass through the data directory may not read it; the WAL gets the same mode."""
    with suppress(OSError):  # SQLite will say what is wrong
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
