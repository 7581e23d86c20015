"""Group commit: one transaction for everything that waits, one fsync.

Rules of this file:
- The event loop collects what its tasks submit in one iteration and hands it over as one list; while
  a writer commits, lists pile up, and it takes all of them (at most WRITE_BATCH_MAX jobs) at once.
- SQLite has one writer, PostgreSQL a few: threads with a connection each. One of these takes the merged
  jobs, the others take the rest: while it commits, what comes next gathers and is one batch again. Two at
  once would each take half, for the same price. If it is held up (a row lock of a node that was stopped),
  what comes later goes to the others.
- No two transactions on PostgreSQL, of whatever process, wait for each other in a circle, because those
  with several jobs first lock all session rows that these will touch, in the order of their ids, in one
  statement, and wait for nothing afterwards.
  A job that does not say what it locks (`locks`), or that may wait for something else (a unique key that
  others insert too), is alone in its transaction. What circles are left, the database finds; the
  transaction is run again.
- A batch first runs without savepoints, which cost more than most statements. If one of its jobs fails,
  all is rolled back and run again carefully: each job in a SAVEPOINT, so that it is undone by itself.
  So a job may run twice, and must do nothing but use its connection.
- A failure of the database undoes the whole batch: SQLite may already have rolled back, and going on
  would write outside any transaction.
- Futures are resolved after the commit, by one call into the loop for the whole batch.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from corral.kernel.errors import CallerError, StoreUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    WRITE_BATCH_MAX,
    WRITE_HELD_UP_SECONDS,
    WRITE_SHARE_MIN,
    WRITE_STATEMENT_BYTES_MAX,
    WRITES_QUEUED_MAX,
)
from corral.store.engine import unavailable
from corral.store.locks import lock_sessions
from corral.store.transact import Transactions

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

Body = Callable[[Connection], T]


class Merged(Protocol[Item, Result]):
    """A write that takes all its waiting items at once.

    It answers each with a result or an error; an error must have written nothing of its item. Raising
    fails all of them, except when not `careful`: then they are run again, carefully.
    """

    def __call__(
        self, connection: Connection, items: Sequence[Item], /, *, careful: bool
    ) -> Sequence[Result | Exception]: ...


class _Failed(Exception):
    """A job has failed in a batch without savepoints; it is the cause."""


@dataclass(slots=True)
class _Job:
    """`run` is a Body, or a Merged if `item` is given. `locks`: None if it did not say. `size`: its bytes,
    about."""

    run: Callable[..., Any]
    item: Any
    is_merged: bool
    locks: Sequence[SessionId] | None
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None
    size: int = 0


_Outcome = tuple[_Job, Any, BaseException | None]
_Queue = queue.SimpleQueue[list[_Job] | None]


class GroupCommit:
    """The writer threads, one for each of `writers`. Everything but `_work` runs in the event loop.

    locks_rows: whether the engine locks rows, or the whole database.
    """

    def __init__(self, writers: Sequence[Transactions], *, locks_rows: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._locks_rows = locks_rows
        self._submitted: list[_Job] = []
        first, *others = writers
        self._queue: _Queue = queue.SimpleQueue()
        self._merged: _Queue = queue.SimpleQueue() if others else self._queue
        self._merged_since: float | None = None  # when its writer began what it does
        self._free: set[int] = set()  # threads that wait for other work than merged jobs
        self._unresolved = 0
        self._is_closed = False
        self._works = [(first, self._merged), *((writer, self._queue) for writer in others)]
        self._threads = [
            threading.Thread(target=self._work, args=work, name=f"corral-store-writer-{n}", daemon=True)
            for n, work in enumerate(self._works)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Writes that are submitted and not yet durable."""
        return self._unresolved

    async def body(
        self,
        body: Body[T | CallerError],
        *,
        locks: Sequence[SessionId] | None = None,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `body` inside a batch; `committed` is called in the loop once its result is durable, even
        if the caller has been cancelled meanwhile.

        What it raises undoes it, at the price of running the batch again. A CallerError that it returns is
        raised here and costs nothing; it must have written nothing then.
        locks: the sessions whose rows it locks, if these are all that it may have to wait for.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Job(body, None, False, locks, future, committed))
        return await future

    async def merged(
        self,
        merged: Merged[Item, T],
        item: Item,
        *,
        locks: Sequence[SessionId] = (),
        committed: Callable[[T], None] | None = None,
        size: int = 0,
    ) -> T:
        """Run `item` together with all that wait for the same `merged` (compared by ==), but for what is
        too large together.

        locks: the sessions whose rows are locked for it. size: bytes, about.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Job(merged, item, True, locks, future, committed, size))
        return await future

    async def close(self) -> None:
        """Commit what was submitted, then stop."""
        if not self._is_closed:
            self._hand_over()
            self._is_closed = True
            for _, jobs in self._works:
                jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
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
        submitted, self._submitted = self._submitted, []
        if self._locks_rows and any(job.locks is None for job in submitted):
            for job in submitted:
                if job.locks is None:
                    self._queue.put([job])
            submitted = [job for job in submitted if job.locks is not None]
        merged = [job for job in submitted if job.is_merged]
        bodies = [job for job in submitted if not job.is_merged] if len(merged) < len(submitted) else []
        # Bodies talk to the database one by one, each waiting for its answers, so what comes at once is
        # spread over the writers; a few rather share the commit of merged jobs, if there are any.
        others = max(1, len(self._threads) - 1)
        share = max(WRITE_SHARE_MIN, -(-len(bodies) // others))
        if merged and len(bodies) <= WRITE_SHARE_MIN:
            merged, bodies = submitted, []
        if merged:
            self._merged_queue().put(merged)
        for start in range(0, len(bodies), share):
            self._queue.put(bodies[start : start + share])

    def _merged_queue(self) -> _Queue:
        since = self._merged_since
        is_held_up = since is not None and time.monotonic() - since > WRITE_HELD_UP_SECONDS
        return self._queue if is_held_up else self._merged

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

    # -- the writer threads ---------------------------------------------------------------------------

    def _work(self, writer: Transactions, waiting: _Queue) -> None:
        is_for_merged = waiting is self._merged
        is_last = False
        while not is_last:
            batches, is_last = self._next_batches(waiting)
            for jobs in batches:
                if is_for_merged:
                    self._merged_since = time.monotonic()
                outcomes = self._run(writer, jobs)
                if is_for_merged:
                    self._merged_since = None
                with suppress(RuntimeError):  # the loop is gone, and so is everybody who waits
                    self._loop.call_soon_threadsafe(self._resolve, outcomes)

    def _next_batches(self, waiting: _Queue) -> tuple[list[list[_Job]], bool]:
        """What waits as one batch: all of it, up to a job that must be alone, unless another writer is free
        to take the rest. And whether to stop after it."""
        me, shares = threading.get_ident(), waiting is not self._merged
        if shares:
            self._free.add(me)
        first = waiting.get()
        self._free.discard(me)
        if first is None:
            return [], True
        if self._is_alone(first):
            return [first], False
        jobs = first
        with suppress(queue.Empty):
            while len(jobs) < WRITE_BATCH_MAX and not (shares and self._free):
                more = waiting.get_nowait()
                if more is None:
                    return [jobs], True
                if self._is_alone(more):
                    return [jobs, more], False
                jobs = jobs + more
        return [jobs], False

    def _is_alone(self, jobs: Sequence[_Job]) -> bool:
        return self._locks_rows and jobs[0].locks is None

    def _run(self, writer: Transactions, jobs: Sequence[_Job]) -> list[_Outcome]:
        try:
            try:
                return writer(partial(self._run_all, jobs=jobs, careful=False))
            except _Failed as failed:
                if len(jobs) == 1 and not jobs[0].is_merged:
                    return [(jobs[0], None, _own(failed.__cause__))]
                return writer(partial(self._run_all, jobs=jobs, careful=True))
        except DBAPIError as error:
            return [(job, None, unavailable(error)) for job in jobs]
        except Exception as error:  # our bug: nobody may wait for ever, and the next batch may be fine
            return [(job, None, error) for job in jobs]

    def _run_all(self, connection: Connection, *, jobs: Sequence[_Job], careful: bool) -> list[_Outcome]:
        if self._locks_rows and not _is_one_statement(jobs, careful=careful):
            lock_sessions(connection, {session_id for job in jobs for session_id in job.locks or ()})
        return _run_all(connection, jobs, careful=careful)


def _is_one_statement(jobs: Sequence[_Job], *, careful: bool) -> bool:
    """Whether the rows are locked by one job, or by one statement for all: it does so in order by itself.
    Carefully each has its own, and of several jobs for one session the later ones wait for another."""
    if len(jobs) == 1:
        return True
    session_ids = [session_id for job in jobs for session_id in job.locks or ()]
    return (
        not careful
        and sum(job.size for job in jobs) <= WRITE_STATEMENT_BYTES_MAX
        and all(job.is_merged and job.run == jobs[0].run for job in jobs)
        and len(set(session_ids)) == len(session_ids)
    )


def _run_all(connection: Connection, jobs: Sequence[_Job], *, careful: bool) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    merged: dict[Callable[..., Any], list[_Job]] = {}
    for job in jobs:
        if job.is_merged:
            merged.setdefault(job.run, []).append(job)
        else:
            result, error = _isolated(connection, partial(job.run, connection), careful=careful)
            if isinstance(result, CallerError):
                result, error = None, result
            outcomes.append((job, result, error))
    for run, group in ((run, some) for run, jobs in merged.items() for some in _by_size(jobs)):
        items = [job.item for job in group]
        answers, error = _isolated(
            connection, partial(run, connection, items, careful=careful), careful=careful
        )
        for job, answer in zip(group, [error] * len(group) if error else answers, strict=True):
            is_error = isinstance(answer, Exception)
            outcomes.append((job, None, answer) if is_error else (job, answer, None))
    return outcomes


def _by_size(jobs: Sequence[_Job]) -> Iterator[Sequence[_Job]]:
    """What may travel together; one that is too large by itself travels alone."""
    start = size = 0
    for end, job in enumerate(jobs):
        if size + job.size > WRITE_STATEMENT_BYTES_MAX and end > start:
            yield jobs[start:end]
            start, size = end, 0
        size += job.size
    yield jobs[start:]


def _isolated(
    connection: Connection, run: Callable[[], Any], *, careful: bool
) -> tuple[Any, BaseException | None]:
    """Result or error of `run`; if not careful, an error raises _Failed. The database's errors are raised,
    but for a broken constraint and a value that it does not take, which are the job's own."""
    try:
        with connection.begin_nested() if careful else nullcontext():
            return run(), None
    except Exception as error:
        if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError | DataError):
            raise
        if not careful:
            raise _Failed from error
        return None, _own(error)


def _own(error: BaseException | None) -> BaseException | None:
    """A job's own error, as its caller shall have it."""
    return unavailable(error) if isinstance(error, DataError) else error
