"""How the journal reaches its disk: one thread, one transaction at a time, one fsync for many operations.

Rules of this file:
- A future resolves only after the fsync of the transaction that holds its operation.
- One thread owns the connection. Operations that arrive while it is in an fsync share the next one;
  a batch that wrote nothing costs none.
- An operation may refuse alone, before it writes anything; a broken disk fails all of its batch.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from corral.kernel.errors import Conflict, HandsUnavailable, LeaseLost, WorldError
from corral.kernel.limits import JOURNAL_BATCH_MAX

__all__ = ["JournalWriter", "Operation", "Outcomes", "resolve"]

T = TypeVar("T")
Outcomes = list[tuple["asyncio.Future[object]", object]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A piece of a transaction. done: None if nobody waits for it."""

    apply: Callable[[sqlite3.Connection], object]
    done: "asyncio.Future[object] | None"


class JournalWriter:
    """Open, use and close it on one event loop."""

    def __init__(self, db: sqlite3.Connection, *, on_end: Callable[[bool], None]) -> None:
        """on_end: told after each batch, on the thread, whether it was committed."""
        self._db = db
        self._on_end = on_end
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    async def do(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        """Run `apply` in a transaction; returns what it returned, or raises what it refused with.
        Raises HandsUnavailable: nothing was written."""
        if self._is_closed:
            raise HandsUnavailable("the hands host is stopping")
        self._loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = self._loop.create_future()
        self._operations.put(Operation(apply, done))
        return await done  # type: ignore[return-value]  # resolved with what `apply` returned

    def put(self, apply: Callable[[sqlite3.Connection], object]) -> None:
        """Run it with the next batch; nobody waits for it."""
        self._operations.put(Operation(apply, None))

    async def aclose(self, last: Callable[[sqlite3.Connection], object]) -> None:
        """Write what is queued and then `last`, then close the file. Repeat: safe."""
        if not self._is_closed:
            self._is_closed = True
            self._operations.put(Operation(last, None))
            self._operations.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._operations.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < JOURNAL_BATCH_MAX:
                    batch.append(self._operations.get_nowait())
            is_open = None not in batch
            outcomes = self.commit([operation for operation in batch if operation])
            if outcomes and self._loop:
                with contextlib.suppress(RuntimeError):  # the loop ended without aclose: nobody waits
                    self._loop.call_soon_threadsafe(resolve, outcomes)
        self._db.close()

    def commit(self, batch: Sequence[Operation]) -> Outcomes:
        """One transaction, and what each of its operations came to."""
        outcomes: Outcomes = []
        try:
            self._db.execute("BEGIN")
            for operation in batch:
                try:
                    outcome = operation.apply(self._db)
                except (LeaseLost, Conflict, WorldError) as refusal:
                    outcome = refusal
                if operation.done:
                    outcomes.append((operation.done, outcome))
            self._db.execute("COMMIT")
        except Exception as error:  # the thread's outer loop: without it everybody would wait for ever
            self._on_end(False)
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            broken = HandsUnavailable("the journal of the hands host cannot be written", detail=str(error))
            return [(operation.done, broken) for operation in batch if operation.done]
        self._on_end(True)
        return outcomes


def resolve(outcomes: Outcomes) -> None:
    """Tell those who wait."""
    for done, outcome in outcomes:
        if done.done():  # its caller was cancelled
            continue
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)
