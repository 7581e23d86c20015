"""The database: opening it, and running transactions. Nothing else opens one."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from corral.catalog.idempotency import current
from corral.kernel.clock import Clock, SystemClock
from corral.kernel.errors import CallerError
from corral.kernel.limits import STORE_READERS
from corral.store.answers import record_answer
from corral.store.commit import Body, GroupCommit, Item, Merged
from corral.store.engine import sqlite_engine, unavailable
from corral.store.schema import to_us
from corral.store.upgrade import upgrade

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """Runs transaction bodies: plain synchronous functions of a `Connection`, in a thread of ours.

    A body must not keep the connection, nor wait for anything but the database.
    """

    def __init__(self, *, writer: Engine, reader: Engine, clock: Clock) -> None:
        self.writer = writer
        self._reader = reader
        self.clock = clock
        self._commits = GroupCommit(writer)
        self._readers = ThreadPoolExecutor(STORE_READERS, thread_name_prefix="corral-store-reader")

    @classmethod
    async def open(cls, path: Path, *, clock: Clock | None = None) -> "Database":
        """Open the SQLite file, creating or upgrading it. `clock` is the database's clock.

        Raises StoreUnavailable: not a database, damaged, or written by a newer version.
        """
        _make_private(path)
        writer, reader = sqlite_engine(path, writes=True), sqlite_engine(path, writes=False)
        try:
            await asyncio.to_thread(upgrade, writer)
        except DBAPIError as error:
            writer.dispose()
            raise unavailable(error) from error
        except BaseException:
            writer.dispose()
            raise
        return cls(writer=writer, reader=reader, clock=clock or SystemClock())

    async def close(self) -> None:
        """Commit what was submitted, then close. Repeat: safe."""
        await self._commits.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._reader.dispose()
        self.writer.dispose()

    def now_us(self, connection: Connection) -> int:
        """The database's clock, by which leases end. SQLite has none of its own: it is this process's."""
        return to_us(self.clock.now())

    async def read(self, body: Body[T]) -> T:
        """Run `body` in one read transaction, which sees one snapshot. Raises StoreUnavailable."""

        def run() -> T:
            try:
                with self._reader.connect() as connection, connection.begin():
                    return body(connection)
            except DBAPIError as error:
                raise unavailable(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(
        self,
        body: Body[T],
        *,
        checks_first: bool = False,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `body` in a write transaction and return when it is durable. What it raises undoes it.

        Inside `catalog.idempotency.scope` the request's answer is recorded in the same transaction.
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
                record_answer(connection, request, result, now=self.clock.now())
            return result

        return await self._commits.body(run, committed=committed)

    async def merge(
        self, merged: Merged[Item, T], item: Item, *, committed: Callable[[T], None] | None = None
    ) -> T:
        """Like `write`, for writes that are cheaper together: `merged` gets all items of the batch."""
        return await self._commits.merged(merged, item, committed=committed)


def _make_private(path: Path) -> None:
    """Whoever may pass through the data directory may not read it; the WAL gets the same mode."""
    with suppress(OSError):  # SQLite will say what is wrong
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
