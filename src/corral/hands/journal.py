"""The hands host's journal: what was started, what came out, and who may ask.

Rules of this file:
- A future resolves only after the fsync of the transaction that holds its operation.
- One thread owns the connection. Operations that arrive while it is in an fsync share the next one;
  a batch that wrote nothing costs none.
- Row of a workspace (`held`): written with the calls that change it, so it costs no fsync of its own.
- Row of a call: absent -> started -> result -> settled -> absent; or absent -> result (never to start); or
  absent -> settled (answered without us). A settled call has no result any more, but stays known for
  JOURNAL_SETTLED_SECONDS: a request that a broken connection delivers late must not start it again.
- A settle may be lost: results of a session that has been idle since, or has ended, go by their age. By
  then no request is on its way, or its epoch has ended, so nothing of them needs to stay.

Its file: `journal_file.py`.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from corral.hands.journal_file import open_journal
from corral.hands.ports import WorkspaceMissing
from corral.kernel.errors import Conflict, HandsUnavailable, LeaseLost, SandboxUnavailable, WorldError
from corral.kernel.ids import EventId, Ids, SessionId
from corral.kernel.limits import (
    JOURNAL_BATCH_MAX,
    JOURNAL_CALLS_MAX,
    JOURNAL_RESULT_SECONDS,
    JOURNAL_SETTLED_SECONDS,
)

__all__ = ["EVICTED", "Held", "Journal", "Row"]

RELEASED: Final = 2**62  # the epoch of a deleted session: higher than every lease, so all are fenced
RELEASED_SECONDS: Final = 24 * 3600  # how long an ended session stays fenced; as its tombstone in the log

_EPOCH: Final = "SELECT epoch, released_at FROM epochs WHERE session_id = ?"
_END: Final = (
    "INSERT INTO epochs VALUES (?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET"
    " epoch = max(epoch, excluded.epoch), released_at = excluded.released_at"
)
_FORBID: Final = (
    "INSERT OR IGNORE INTO calls SELECT ?1, ?2, ?3, ?4"
    " WHERE NOT EXISTS (SELECT 1 FROM settled WHERE call_id = ?1)"
)
_IS_SETTLED: Final = "SELECT 1 FROM settled WHERE call_id = ?"
_SETTLE: Final = "INSERT OR IGNORE INTO settled VALUES (?, ?)"
_PRUNE_SETTLED: Final = (
    "DELETE FROM settled WHERE call_id IN"
    " (SELECT call_id FROM settled WHERE settled_at < ? ORDER BY settled_at LIMIT ?)"
)
_SETTLE_OLD: Final = "DELETE FROM calls WHERE session_id = ? AND finished_at <= ?"

_CHANGED: Final = (
    "INSERT INTO held (session_id, had, changes, changed_at) VALUES (?, ?, 1, ?) ON CONFLICT (session_id)"
    " DO UPDATE SET had = max(had, excluded.had), changes = changes + 1, changed_at = excluded.changed_at"
)
_HELD: Final = (
    "SELECT session_id, placed_at, had, news, changes, kept, changed_at FROM held"
    " WHERE placed_at <> ? AND (? IS NULL OR session_id = ?) ORDER BY session_id"
)
_LOSE: Final = (
    "INSERT INTO held (session_id, news, changed_at) VALUES (?, ?, ?) ON CONFLICT (session_id)"
    " DO UPDATE SET placed_at = 0, had = 0, news = excluded.news"
)
_TOLD: Final = "UPDATE held SET news = '', had = ? WHERE session_id = ?"
EVICTED: Final = -1  # held.placed_at of a workspace that is gone from here: only a restore brings it back

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A session's workspace on this host, as the journal knows it.

    placed_at: the placement it belongs to, 0 where nobody places. had: a sandbox of it was used before.
    news: what its next sandbox must tell the model, or "". changes, kept: so many calls and imports, and
    how many of them the newest checkpoint covers. changed_at: seconds since 1970.
    """

    session_id: SessionId
    placed_at: int
    had: bool
    news: str
    changes: int
    kept: int
    changed_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A call that is known here. `result`: its recorded bytes, or None if there are none yet, or none any
    more because they are in the log (`is_settled`)."""

    result: bytes | None
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class _Operation:
    """A piece of a transaction. `settle`: pays for no fsync of its own, joins the next batch that does."""

    apply: Callable[[sqlite3.Connection], object]
    done: "asyncio.Future[object] | None"


class Journal:
    """Open, use and close it on one event loop."""

    def __init__(self, path: Path, *, ids: Ids | None = None) -> None:
        """Open or create it. Raises HandsUnavailable if the disk refuses or the format is newer."""
        self._db = open_journal(path, ids or Ids())
        (self.journal_id,) = self._db.execute("SELECT journal_id FROM meta").fetchone()
        (self._calls,) = self._db.execute("SELECT count(*) FROM calls").fetchone()
        self._operations: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._settled: list[EventId] = []
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    async def fence(
        self,
        session_id: SessionId,
        *,
        epoch: int,
        call_id: EventId | None = None,
        placed_at: int | None = None,
    ) -> Row | None:
        """Keep `epoch` if it is the highest of the session, and read one call under the same lock.

        placed_at: the workspace must be of this placement, unless the call is known.
        Repeat: safe, and free of an fsync once the epoch is kept.
        Raises: LeaseLost if a higher epoch was seen, or this one ended with its session; WorkspaceMissing;
        HandsUnavailable.
        """

        def apply(db: sqlite3.Connection) -> Row | None:
            kept, released_at = db.execute(_EPOCH, (session_id,)).fetchone() or (-1, None)
            if kept > epoch or (kept == epoch and released_at is not None):
                raise LeaseLost(f"epoch {epoch} of {session_id!r} is not the newest, or is over")
            if kept < epoch:
                db.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?, NULL)", (session_id, epoch))
            if call_id is not None:
                row = db.execute("SELECT result FROM calls WHERE call_id = ?", (call_id,)).fetchone()
                if row is not None:
                    return Row(result=row[0])
                if db.execute(_IS_SETTLED, (call_id,)).fetchone():
                    return Row(result=None, is_settled=True)
            if placed_at is not None:
                _require_held(db, session_id, placed_at)
            return None

        return await self._do(apply)

    async def is_released(self, session_id: SessionId) -> bool:
        """Whether the session was deleted here."""

        def apply(db: sqlite3.Connection) -> bool:
            row = db.execute(_EPOCH, (session_id,)).fetchone()
            return row is not None and row[0] == RELEASED

        return await self._do(apply)

    async def start(self, session_id: SessionId, call_id: EventId) -> bytes | None:
        """None: the effect may happen from now on. Else it must not: the result was there before it.

        Raises LeaseLost (the call was settled in this moment), SandboxUnavailable (too many calls),
        WorkspaceMissing (it was evicted in this moment), HandsUnavailable: nothing written, do not act.
        """

        def apply(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT result FROM calls WHERE call_id = ?", (call_id,)).fetchone()
            if row is not None and row[0] is not None:
                kept: bytes = row[0]
                return kept
            if db.execute(_IS_SETTLED, (call_id,)).fetchone():
                raise LeaseLost(f"the answer of {call_id!r} is in the log")
            if self._calls >= JOURNAL_CALLS_MAX:
                raise SandboxUnavailable(
                    f"the hands host already holds {JOURNAL_CALLS_MAX} unsettled tool calls"
                )
            held = db.execute("SELECT placed_at FROM held WHERE session_id = ?", (session_id,)).fetchone()
            if held is not None and held[0] == EVICTED:
                raise WorkspaceMissing("the session's workspace has just left this host", retryable=False)
            db.execute("INSERT INTO calls VALUES (?, ?, NULL, NULL)", (call_id, session_id))
            db.execute(_CHANGED, (session_id, True, time.time()))
            self._calls += 1
            return None

        return await self._do(apply)

    async def forbid(self, session_id: SessionId, call_ids: Sequence[EventId], result: bytes) -> int:
        """Give calls that are absent a result, so that they never start. Known ones stay as they are.
        Returns how many were absent."""

        def apply(db: sqlite3.Connection) -> int:
            rows = [(call_id, session_id, result, time.time()) for call_id in call_ids]
            absent = max(0, db.executemany(_FORBID, rows).rowcount)
            self._calls += absent
            return absent

        return await self._do(apply)

    async def finish(
        self, session_id: SessionId, call_id: EventId, result: bytes, *, told: bool | None = None
    ) -> bytes:
        """Record the result of a call, also of one that ended before it started, and return what is kept.

        told: the result holds the news of its sandbox, so they need not be told again; True if that sandbox
        lives on, False if the result also says that it is gone.
        Repeat: the first result wins, whatever comes later.
        """

        def apply(db: sqlite3.Connection) -> bytes:
            row = db.execute("SELECT result FROM calls WHERE call_id = ?", (call_id,)).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO calls VALUES (?, ?, ?, ?)", (call_id, session_id, result, time.time())
                )
                self._calls += 1
            elif row[0] is None:
                db.execute(
                    "UPDATE calls SET result = ?, finished_at = ? WHERE call_id = ?",
                    (result, time.time(), call_id),
                )
            else:
                kept: bytes = row[0]
                return kept
            db.execute(
                "UPDATE held SET changes = changes + 1, changed_at = ? WHERE session_id = ?",
                (time.time(), session_id),
            )
            if told is not None:
                db.execute(_TOLD, (told, session_id))
            return result

        return await self._do(apply)

    def settle(self, call_ids: Sequence[EventId]) -> None:
        """The answers of these calls are in the log, also of calls that never came here. Their rows go with
        the next batch; a crash may keep them until `settle_old`."""
        self._settled.extend(call_ids)
        if len(self._settled) >= JOURNAL_BATCH_MAX:
            self._operations.put(_Operation(self._take_settled(), None))

    def settle_old(self, session_id: SessionId, *, seconds: float = JOURNAL_RESULT_SECONDS) -> None:
        """Drop the session's results that are at least this old, soon; never a call without a result."""

        def apply(db: sqlite3.Connection) -> None:
            self._calls -= db.execute(_SETTLE_OLD, (session_id, time.time() - seconds)).rowcount

        self._operations.put(_Operation(apply, None))

    async def release(self, session_id: SessionId, *, is_deleted: bool) -> None:
        """Fence the brains of an ended session: all so far, or for good if it was deleted. Repeat: safe."""

        def apply(db: sqlite3.Connection) -> None:
            now = time.time()
            db.execute("DELETE FROM epochs WHERE released_at < ?", (now - RELEASED_SECONDS,))
            db.execute(_END, (session_id, RELEASED if is_deleted else 0, now))

        await self._do(apply)

    async def forget(self, session_id: SessionId, *, is_deleted: bool) -> None:
        """Drop all calls of a session, and its workspace if it was deleted. Repeat: safe."""

        def apply(db: sqlite3.Connection) -> None:
            self._calls -= db.execute("DELETE FROM calls WHERE session_id = ?", (session_id,)).rowcount
            if is_deleted:
                db.execute("DELETE FROM held WHERE session_id = ?", (session_id,))

        await self._do(apply)

    # -- workspaces ---------------------------------------------------------------------------------

    async def held(self, session_id: SessionId | None = None) -> list[Held]:
        """Every workspace that lies here, or the one of this session: [] if it has none."""

        def apply(db: sqlite3.Connection) -> list[Held]:
            rows = db.execute(_HELD, (EVICTED, session_id, session_id))
            return [
                Held(
                    session_id=SessionId(row[0]),
                    placed_at=row[1],
                    had=bool(row[2]),
                    news=row[3],
                    changes=row[4],
                    kept=row[5],
                    changed_at=row[6],
                )
                for row in rows
            ]

        return await self._do(apply)

    async def require_held(self, session_id: SessionId, *, placed_at: int) -> None:
        """Raises WorkspaceMissing unless the workspace of this placement lies here."""
        await self._do(lambda db: _require_held(db, session_id, placed_at))

    async def hold(
        self, session_id: SessionId, *, placed_at: int, news: str, changes: int = 0, kept: int = 0
    ) -> None:
        """The workspace of this placement is in place. changes, kept: as `Held`, to begin with."""

        def apply(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO held (session_id, placed_at, had, news, changes, kept, changed_at)"
                " VALUES (?, ?, 0, ?, ?, ?, ?)",
                (session_id, placed_at, news, changes, kept, time.time()),
            )

        await self._do(apply)

    async def lose(self, session_ids: Sequence[SessionId], *, news: str) -> None:
        """Workspaces that should be here and are not: the next sandbox of each begins with this news."""

        def apply(db: sqlite3.Connection) -> None:
            now = time.time()
            db.executemany(_LOSE, [(session_id, news, now) for session_id in session_ids])

        await self._do(apply)

    async def adopt(self, session_id: SessionId, *, placed_at: int) -> None:
        """The workspace as it lies here is the one of this placement."""

        def apply(db: sqlite3.Connection) -> None:
            db.execute("UPDATE held SET placed_at = ? WHERE session_id = ?", (placed_at, session_id))

        await self._do(apply)

    async def changed(self, session_id: SessionId) -> None:
        """Something other than a call changed the workspace. Raises SandboxUnavailable: it was evicted."""

        def apply(db: sqlite3.Connection) -> None:
            _require_not_evicted(db, session_id)
            db.execute(_CHANGED, (session_id, False, time.time()))

        await self._do(apply)

    async def keep(self, session_id: SessionId, *, changes: int, only_check: bool = False) -> None:
        """A checkpoint covers so many changes. Raises Conflict if there were more since."""

        def apply(db: sqlite3.Connection) -> None:
            _require_unchanged(db, session_id, changes)
            if not only_check:
                db.execute("UPDATE held SET kept = changes WHERE session_id = ?", (session_id,))

        await self._do(apply)

    async def evict(
        self, session_id: SessionId, *, changes: int | None = None, placed_at: int | None = None
    ) -> None:
        """The workspace goes: from now on no call starts before it is restored. Repeat: safe.

        changes: raises Conflict if there were more. placed_at: if it is of another placement by now.
        """

        def apply(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT placed_at FROM held WHERE session_id = ?", (session_id,)).fetchone()
            if placed_at is not None and row is not None and row[0] not in (placed_at, EVICTED):
                raise Conflict(f"session {session_id!r} was placed here again", retryable=True)
            if changes is not None:
                _require_unchanged(db, session_id, changes)
            db.execute("DELETE FROM held WHERE session_id = ?", (session_id,))
            now = time.time()
            # The mark is for a call that is on its way at this moment; later ones ask before they come.
            db.execute(
                "DELETE FROM held WHERE placed_at = ? AND changed_at < ?", (EVICTED, now - RELEASED_SECONDS)
            )
            db.execute(
                "INSERT INTO held (session_id, placed_at, changed_at) VALUES (?, ?, ?)",
                (session_id, EVICTED, now),
            )

        await self._do(apply)

    async def require_not_evicted(self, session_id: SessionId) -> None:
        """Raises SandboxUnavailable (retryable) if only a restore brings the workspace back."""
        await self._do(lambda db: _require_not_evicted(db, session_id))

    async def evicted(self) -> list[SessionId]:
        """Whose workspaces were evicted from here, or being put in place, and are not back."""
        return await self._do(
            lambda db: [
                SessionId(row[0])
                for row in db.execute("SELECT session_id FROM held WHERE placed_at = ?", (EVICTED,))
            ]
        )

    async def aclose(self) -> None:
        """Write what is queued, then close the file. Repeat: safe."""
        if not self._is_closed:
            self._is_closed = True
            self._operations.put(_Operation(self._take_settled(), None))
            self._operations.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _do(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        if self._is_closed:
            raise HandsUnavailable("the hands host is stopping")
        self._loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = self._loop.create_future()
        if self._settled:
            self._operations.put(_Operation(self._take_settled(), None))
        self._operations.put(_Operation(apply, done))
        return await done  # type: ignore[return-value]  # resolved with what `apply` returned

    def _take_settled(self) -> Callable[[sqlite3.Connection], None]:
        call_ids, self._settled = self._settled, []

        def apply(db: sqlite3.Connection) -> None:
            if not call_ids:
                return
            now = time.time()
            deleted = db.executemany("DELETE FROM calls WHERE call_id = ?", [(c,) for c in call_ids])
            self._calls -= max(deleted.rowcount, 0)
            db.executemany(_SETTLE, [(call_id, now) for call_id in call_ids])
            # More go than come, so they get fewer; and few at a time, so no batch waits for long.
            db.execute(_PRUNE_SETTLED, (now - JOURNAL_SETTLED_SECONDS, 2 * len(call_ids)))

        return apply

    # -- the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch = [self._operations.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < JOURNAL_BATCH_MAX:
                    batch.append(self._operations.get_nowait())
            is_open = None not in batch
            outcomes = self._commit([operation for operation in batch if operation])
            if outcomes and self._loop:
                with contextlib.suppress(RuntimeError):  # the loop ended without aclose: nobody waits
                    self._loop.call_soon_threadsafe(_resolve, outcomes)
        self._db.close()

    def _commit(self, batch: list[_Operation]) -> "list[tuple[asyncio.Future[object], object]]":
        """One transaction. An operation may refuse alone, before it writes; a broken disk fails all."""
        calls_before, outcomes = self._calls, []
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
            self._calls = calls_before
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            broken = HandsUnavailable(f"the journal of the hands host cannot be written: {error}")
            return [(operation.done, broken) for operation in batch if operation.done]
        return outcomes


def _require_held(db: sqlite3.Connection, session_id: SessionId, placed_at: int) -> None:
    row = db.execute("SELECT placed_at FROM held WHERE session_id = ?", (session_id,)).fetchone()
    if row is None or row[0] != placed_at:
        raise WorkspaceMissing(f"the workspace of {session_id!r} is not on this host", retryable=False)


def _require_not_evicted(db: sqlite3.Connection, session_id: SessionId) -> None:
    row = db.execute("SELECT placed_at FROM held WHERE session_id = ?", (session_id,)).fetchone()
    if row is not None and row[0] == EVICTED:
        raise SandboxUnavailable("the session's workspace has just left this host; try again")


def _require_unchanged(db: sqlite3.Connection, session_id: SessionId, changes: int) -> None:
    row = db.execute("SELECT changes FROM held WHERE session_id = ?", (session_id,)).fetchone()
    if row is not None and row[0] != changes:
        raise Conflict(f"session {session_id!r} is at work again", retryable=True)


def _resolve(outcomes: "list[tuple[asyncio.Future[object], object]]") -> None:
    for done, outcome in outcomes:
        if done.done():  # its caller was cancelled
            continue
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)
