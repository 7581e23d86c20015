"""The file of the hands host's journal: its tables, its format, and what a broken one becomes.

SQLite (WAL, synchronous=FULL) in a file of its own: its checksummed log is what makes a torn tail
vanish on the next open. The journal is the one place outside `store` with SQL, because it is another
format with another owner (docs/ARCHITECTURE.md).

`journal_id` is minted with the file. A lost or broken file is a new journal, so every call placed
under the old id has an unknown outcome instead of a second run.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import Ids

__all__ = ["FORMAT", "SCHEMA", "open_journal"]

FORMAT: Final = 4

# placed_at: which placement of the session (0: nobody places here), or EVICTED
# had: whether a sandbox was used that the model knows of. news: what to tell it at its next call
# changes, kept: calls and imports so far, and how many of them the newest checkpoint covers
_HELD_TABLE: Final = (
    "CREATE TABLE held (session_id TEXT PRIMARY KEY, placed_at INTEGER NOT NULL DEFAULT 0,"
    " had INTEGER NOT NULL DEFAULT 0, news TEXT NOT NULL DEFAULT '',"
    " changes INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0, changed_at REAL NOT NULL)"
)
_SETTLED_TABLE: Final = (
    "CREATE TABLE settled (call_id TEXT PRIMARY KEY, settled_at REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX settled_age ON settled (settled_at)",
)
SCHEMA: Final = (
    "CREATE TABLE meta (journal_id TEXT NOT NULL)",
    "CREATE TABLE epochs (session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, released_at REAL)",
    "CREATE TABLE calls ("
    "call_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, result BLOB, finished_at REAL)",
    "CREATE INDEX calls_session ON calls (session_id)",
    _HELD_TABLE,
    *_SETTLED_TABLE,
    f"PRAGMA user_version = {FORMAT}",
)
_UPGRADES: Final = {  # the format of a file -> what makes it the next one
    1: (
        "ALTER TABLE calls ADD COLUMN finished_at REAL",
        "UPDATE calls SET finished_at = strftime('%s') + 0 WHERE result IS NOT NULL",
        "PRAGMA user_version = 2",
    ),
    2: (_HELD_TABLE, "PRAGMA user_version = 3"),
    3: (*_SETTLED_TABLE, "PRAGMA user_version = 4"),
}


def open_journal(path: Path, ids: Ids) -> sqlite3.Connection:
    """Raises HandsUnavailable if the disk refuses, or the format is newer than FORMAT."""
    try:
        return _connect(path, ids)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # the disk, a lock, permissions: not the content
            raise HandsUnavailable(
                "the journal of the hands host cannot be opened",
                retryable=False,
                detail=f"{str(path)!r}: {error}",
            ) from error
        for suffix in ("", "-wal", "-shm"):  # kept for a human; its calls now have unknown outcomes
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{path}.broken{suffix}")
        return _connect(path, ids)


def _connect(path: Path, ids: Ids) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:  # new, or killed before this transaction
            db.execute("BEGIN")
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES (?)", (ids.mint("hjrn"),))
            db.execute("COMMIT")
        elif version <= FORMAT:
            for older in range(version, FORMAT):
                db.execute("BEGIN")
                for statement in _UPGRADES[older]:
                    db.execute(statement)
                db.execute("COMMIT")
        else:
            raise HandsUnavailable(
                f"the journal of the hands host has format {version}, this Corral writes {FORMAT}; "
                "start the newer Corral again",
                retryable=False,
                detail=str(path),
            )
        db.execute(
            "SELECT count(*), total(length(result)) FROM calls"
        ).fetchone()  # a broken page shows here
    except BaseException:
        db.close()
        raise
    return db
