"""What the hands host's journal knows of the workspaces that lie here: whose, of which placement, copied
how far, and what their next sandboxes must tell the model.

A row is written with the calls that change its workspace, in their transaction (`begin_call`, `end_call`),
so it costs no fsync of its own.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from corral.hands.ports import WorkspaceMissing
from corral.kernel.errors import Conflict, SandboxUnavailable
from corral.kernel.ids import SessionId

__all__ = ["EVICTED", "Held", "JournalHeld", "begin_call", "end_call", "forget_held", "require_held"]

EVICTED: Final = -1  # held.placed_at of a workspace that is gone from here: only a restore brings it back
EVICTED_SECONDS: Final = 24 * 3600  # how long that is remembered

_CHANGED: Final = (
    "INSERT INTO held (session_id, had, changes, changed_at) VALUES (?, ?, 1, ?) ON CONFLICT (session_id)"
    " DO UPDATE SET had = max(had, excluded.had), changes = changes + 1, changed_at = excluded.changed_at"
)
_HELD: Final = (
    "SELECT session_id, placed_at, had, news, changes, kept, changed_at FROM held"
    " WHERE placed_at <> ? AND (? IS NULL OR session_id = ?) ORDER BY session_id"
)
_RECENT: Final = (
    "SELECT session_id, placed_at, had, news, changes, kept, changed_at FROM held WHERE placed_at <> ?"
    " AND (changed_at > ? OR session_id IN (SELECT value FROM json_each(?)))"
)
_LOSE: Final = (
    "INSERT INTO held (session_id, news, changed_at) VALUES (?, ?, ?) ON CONFLICT (session_id)"
    " DO UPDATE SET placed_at = 0, had = 0, news = excluded.news"
)
_ENDED: Final = "UPDATE held SET changes = changes + 1, changed_at = ? WHERE session_id = ?"
_TOLD: Final = "UPDATE held SET news = '', had = ? WHERE session_id = ?"

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


class Transact(Protocol):
    """`Journal`'s way to its disk: run in a transaction, return what it returned, raise what it raised."""

    def __call__(self, apply: Callable[[sqlite3.Connection], T], /) -> Coroutine[Any, Any, T]: ...


class JournalHeld:
    """The workspaces in one journal. Every method may raise HandsUnavailable: nothing was written."""

    def __init__(self, do: Transact) -> None:
        self._do = do

    async def recent(self, *, seconds: float, session_ids: Sequence[SessionId]) -> list[Held]:
        """The workspaces that changed so short ago, and those of these sessions. Cheap, however many lie
        here."""

        def apply(db: sqlite3.Connection) -> list[Held]:
            since, named = time.time() - seconds, json.dumps(list(session_ids))
            return [_held(row) for row in db.execute(_RECENT, (EVICTED, since, named))]

        return await self._do(apply)

    async def rows(self, session_id: SessionId | None = None) -> list[Held]:
        """Every workspace that lies here, or the one of this session: [] if it has none."""

        def apply(db: sqlite3.Connection) -> list[Held]:
            return [_held(row) for row in db.execute(_HELD, (EVICTED, session_id, session_id))]

        return await self._do(apply)

    async def require(self, session_id: SessionId, *, placed_at: int) -> None:
        """Raises WorkspaceMissing unless the workspace of this placement lies here."""
        await self._do(lambda db: require_held(db, session_id, placed_at))

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
                "DELETE FROM held WHERE placed_at = ? AND changed_at < ?", (EVICTED, now - EVICTED_SECONDS)
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


def _held(row: tuple[Any, ...]) -> Held:
    return Held(
        session_id=SessionId(row[0]),
        placed_at=row[1],
        had=bool(row[2]),
        news=row[3],
        changes=row[4],
        kept=row[5],
        changed_at=row[6],
    )


def begin_call(db: sqlite3.Connection, session_id: SessionId) -> None:
    """A call is about to change the workspace. Raises WorkspaceMissing: it was evicted in this moment."""
    row = db.execute("SELECT placed_at FROM held WHERE session_id = ?", (session_id,)).fetchone()
    if row is not None and row[0] == EVICTED:
        raise WorkspaceMissing("the session's workspace has just left this host", retryable=False)
    db.execute(_CHANGED, (session_id, True, time.time()))


def end_call(db: sqlite3.Connection, session_id: SessionId, *, told: bool | None) -> None:
    """A call has its result. told: as `Journal.finish`."""
    db.execute(_ENDED, (time.time(), session_id))
    if told is not None:
        db.execute(_TOLD, (told, session_id))


def forget_held(db: sqlite3.Connection, session_id: SessionId) -> None:
    db.execute("DELETE FROM held WHERE session_id = ?", (session_id,))


def require_held(db: sqlite3.Connection, session_id: SessionId, placed_at: int) -> None:
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
