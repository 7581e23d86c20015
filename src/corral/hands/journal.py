"""The hands host's journal: what was started, what came out, and who may ask.

Rules of this file:
- What a method promises is on disk when it returns (`journal_writer.py`).
- Row of a call: absent -> started -> result -> settled -> absent; or absent -> result (never to start); or
  absent -> settled (answered without us). A settled call has no result any more, but stays known for
  JOURNAL_SETTLED_SECONDS: a request that a broken connection delivers late must not start it again.
- A settle may be lost: results of a session that has been idle since, or has ended, go by their age. By
  then no request is on its way, or its epoch has ended, so nothing of them needs to stay.

Its file: `journal_file.py`. The workspaces in it: `journal_held.py`.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from corral.hands.journal_file import open_journal
from corral.hands.journal_held import JournalHeld, begin_call, end_call, forget_held, require_held
from corral.hands.journal_writer import JournalWriter
from corral.kernel.errors import LeaseLost, SandboxUnavailable
from corral.kernel.ids import EventId, Ids, SessionId
from corral.kernel.limits import (
    JOURNAL_BATCH_MAX,
    JOURNAL_CALLS_MAX,
    JOURNAL_RESULT_SECONDS,
    JOURNAL_SETTLED_SECONDS,
)

__all__ = ["Journal", "Row"]

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

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A call that is known here. `result`: its recorded bytes, or None if there are none yet, or none any
    more because they are in the log (`is_settled`)."""

    result: bytes | None
    is_settled: bool = False


class Journal:
    """Open, use and close it on one event loop."""

    def __init__(self, path: Path, *, ids: Ids | None = None) -> None:
        """Open or create it. Raises HandsUnavailable if the disk refuses or the format is newer."""
        db = open_journal(path, ids or Ids())
        self._take(db, JournalWriter(db, on_end=self._on_end))

    def _take(self, db: sqlite3.Connection, writer: JournalWriter) -> None:
        (self.journal_id,) = db.execute("SELECT journal_id FROM meta").fetchone()
        (self._calls,) = db.execute("SELECT count(*) FROM calls").fetchone()
        self._calls_committed = self._calls
        self._writer = writer
        self._settled: list[EventId] = []
        self.held = JournalHeld(self._do)

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
                require_held(db, session_id, placed_at)
            return None

        return await self._do(apply)

    async def is_released(self, session_id: SessionId) -> bool:
        """Whether the session was deleted here."""

        def apply(db: sqlite3.Connection) -> bool:
            row = db.execute(_EPOCH, (session_id,)).fetchone()
            return row is not None and row[0] == RELEASED

        return await self._do(apply)

    async def start(
        self, session_id: SessionId, call_id: EventId, *, in_workspace: bool = True
    ) -> bytes | None:
        """None: the effect may happen from now on. Else it must not: the result was there before it.
        in_workspace: False for a call that has nothing to do with the session's files, nor its sandbox.

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
            if in_workspace:
                begin_call(db, session_id)
            db.execute("INSERT INTO calls VALUES (?, ?, NULL, NULL)", (call_id, session_id))
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
        self,
        session_id: SessionId,
        call_id: EventId,
        result: bytes,
        *,
        told: bool | None = None,
        in_workspace: bool = True,
    ) -> bytes:
        """Record the result of a call, also of one that ended before it started, and return what is kept.

        told: the result holds the news of its sandbox, so they need not be told again; True if that sandbox
        lives on, False if the result also says that it is gone. in_workspace: as for `start`.
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
            if in_workspace:
                end_call(db, session_id, told=told)
            return result

        return await self._do(apply)

    def settle(self, call_ids: Sequence[EventId]) -> None:
        """The answers of these calls are in the log, also of calls that never came here. Their rows go with
        the next batch; a crash may keep them until `settle_old`."""
        self._settled.extend(call_ids)
        if len(self._settled) >= JOURNAL_BATCH_MAX:
            self._writer.put(self._take_settled())

    def settle_old(self, session_id: SessionId, *, seconds: float = JOURNAL_RESULT_SECONDS) -> None:
        """Drop the session's results that are at least this old, soon; never a call without a result."""

        def apply(db: sqlite3.Connection) -> None:
            self._calls -= db.execute(_SETTLE_OLD, (session_id, time.time() - seconds)).rowcount

        self._writer.put(apply)

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
                forget_held(db, session_id)

        await self._do(apply)

    async def aclose(self) -> None:
        """Write what is queued, then close the file. Repeat: safe."""
        await self._writer.aclose(last=self._take_settled())

    async def _do(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        if self._settled:  # they pay for no fsync of their own
            self._writer.put(self._take_settled())
        return await self._writer.do(apply)

    def _on_end(self, is_committed: bool) -> None:
        """A batch ended, on the writer's thread."""
        if is_committed:
            self._calls_committed = self._calls
        else:
            self._calls = self._calls_committed

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
