"""Group commit: one writer thread, one transaction for everything that waits, one fsync.

Rules of this file:
- The event loop collects what its tasks submit in one iteration and hands it over as one list; while
  the writer commits, lists pile up, and it takes all of them (at most WRITE_BATCH_MAX jobs) at once.
- A job that raises is undone by itself (SAVEPOINT). A failure of the database undoes the whole batch:
  SQLite may already have rolled back, and going on would write outside any transaction.
- Futures are resolved after the commit, by one call into the loop for the whole batch.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import WRITE_BATCH_MAX, WRITES_QUEUED_MAX
from corral.store.engine import unavailable

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

Body = Callable[[Connection], T]


class Merged(Protocol[Item, Result]):
    """A write that takes all its waiting items at once. Answers each with a result or an error; an error
    must have written nothing of its item. Raising fails all of them."""

    def __call__(
        self, connection: Connection, items: Sequence[Item], /
    ) -> Sequence[Result | Exception]: ...


@dataclass(slots=True)
class _Job:
    """`run` is a Body, or a Merged if `item` is given."""

    run: Callable[..., Any]
    item: Any
    is_merged: bool
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None


_Outcome = tuple[_Job, Any, BaseException | None]


class GroupCommit:
    """The writer thread. Everything but `_work` runs in the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._submitted: list[_Job] = []
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._unresolved = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="corral-store-writer", daemon=True)
        self._thread.start()

    async def body(self, body: Body[T], *, committed: Callable[[T], None] | None = None) -> T:
        """Run `body` inside a batch; `committed` is called in the loop once its result is durable, even
        if the caller has been cancelled meanwhile."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Job(body, None, False, future, committed))
        return await future

    async def merged(
        self, merged: Merged[Item, T], item: Item, *, committed: Callable[[T], None] | None = None
    ) -> T:
        """Run `item` together with all that wait for the same `merged` (compared by ==)."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Job(merged, item, True, future, committed))
        return await future

    async def close(self) -> None:
        """Commit what was submitted, then stop."""
        if not self._is_closed:
            self._hand_over()
            self._is_closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # let the last batch's callback run

    def _submit(self, job: _Job) -> None:
        if self._is_closed:
            raise StoreUnavailable("The store is closed.", retryable=False)
        if self._unresolved >= WRITES_QUEUED_MAX:
            raise StoreUnavailable(f"{WRITES_QUEUED_MAX} writes are waiting for the disk. Try again.")
        self._unresolved += 1
        if not self._submitted:
            self._loop.call_soon(self._hand_over)
        self._submitted.append(job)

    def _hand_over(self) -> None:
        if self._submitted:
            self._queue.put(self._submitted)
            self._submitted = []

    def _resolve(self, outcomes: Sequence[_Outcome]) -> None:
        self._unresolved -= len(outcomes)
        for job, result, error in outcomes:
            if not job.future.done():  # else its caller was cancelled
                if error is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(error)
        for job, result, error in outcomes:
            if error is None and job.committed is not None:
                job.committed(result)

    # -- the writer thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            jobs, is_last = self._next_batch()
            if jobs:
                outcomes = self._run(jobs)
                with contextlib.suppress(RuntimeError):  # the loop is gone, and so is everybody who waits
                    self._loop.call_soon_threadsafe(self._resolve, outcomes)
            if is_last:
                return

    def _next_batch(self) -> tuple[list[_Job], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        jobs = first
        with contextlib.suppress(queue.Empty):
            while len(jobs) < WRITE_BATCH_MAX:
                more = self._queue.get_nowait()
                if more is None:
                    return jobs, True
                jobs = jobs + more
        return jobs, False

    def _run(self, jobs: Sequence[_Job]) -> list[_Outcome]:
        try:
            with self._engine.connect() as connection, connection.begin():
                outcomes = _run_all(connection, jobs)
        except DBAPIError as error:
            return [(job, None, unavailable(error)) for job in jobs]
        return outcomes


def _run_all(connection: Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    merged: dict[Callable[..., Any], list[_Job]] = {}
    for job in jobs:
        if job.is_merged:
            merged.setdefault(job.run, []).append(job)
        else:
            outcomes.append(_run_body(connection, job))
    for run, group in merged.items():
        outcomes += _run_merged(connection, run, group)
    return outcomes


def _run_body(connection: Connection, job: _Job) -> _Outcome:
    try:
        with connection.begin_nested():
            return job, job.run(connection), None
    except DBAPIError as error:
        if not isinstance(error, IntegrityError):
            raise
        return job, None, error
    except Exception as error:
        return job, None, error


def _run_merged(connection: Connection, run: Callable[..., Any], group: Sequence[_Job]) -> list[_Outcome]:
    try:
        with connection.begin_nested():
            answers = run(connection, [job.item for job in group])
    except DBAPIError as error:
        if not isinstance(error, IntegrityError):
            raise
        return [(job, None, error) for job in group]
    except Exception as error:
        return [(job, None, error) for job in group]
    return [
        (job, None, answer) if isinstance(answer, Exception) else (job, answer, None)
        for job, answer in zip(group, answers, strict=True)
    ]
