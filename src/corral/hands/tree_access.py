"""The trees of a host's sessions, for the control plane: read, changed, and what was made of them.

A note is whatever its reader wants to know again; it is kept beside the tree, so it is lost exactly when
the tree is, and replaced only by who has seen the last one.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

import orjson

from corral.hands.ports import Provider
from corral.hands.trees import Tree, entry_of, open_file, walk
from corral.kernel.errors import Conflict, NotFound, RequestTooLarge
from corral.kernel.ids import SessionId
from corral.kernel.limits import BLOB_CHUNK_BYTES, TREE_NOTE_BYTES_MAX
from corral.session.content import Json

__all__ = ["Trees"]

_VERSION: Final = "version"


class Trees:
    """Of one host. `home` is where a session's workspace lies."""

    def __init__(self, home: Callable[[SessionId], Path], provider: Provider) -> None:
        self._home = home
        self._provider = provider

    async def tree(self, session_id: SessionId, place: str) -> Tree:
        """Raises NotFound, InvalidRequest (no such place)."""
        return await asyncio.to_thread(walk, self.root(session_id, place))

    async def read(self, session_id: SessionId, place: str, path: str) -> AsyncGenerator[bytes, None]:
        """A file of it, as it is now, whole. Raises NotFound before the first byte; Conflict after the
        last: it was changed meanwhile."""
        fd, before = await asyncio.to_thread(open_file, self.root(session_id, place), path)
        try:
            left = before.size
            while left > 0:
                chunk = await asyncio.to_thread(os.read, fd, min(left, BLOB_CHUNK_BYTES))
                if not chunk:
                    break
                left -= len(chunk)
                yield chunk
            after = entry_of(path, os.fstat(fd))
            if left or (after.size, after.mtime_ns) != (before.size, before.mtime_ns):
                raise Conflict("the file was changed while it was read", retryable=True)
        finally:
            os.close(fd)

    def note(self, session_id: SessionId, place: str) -> tuple[dict[str, Json], int]:
        """What was made of the tree, and the version of that; ({}, 0) if nothing was."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            body = orjson.loads(self._note_path(session_id, place).read_bytes())
            return body["note"], int(body[_VERSION])
        return {}, 0

    def keep_note(
        self, session_id: SessionId, place: str, note: dict[str, Json], *, instead_of: int
    ) -> None:
        """Raises Conflict if the last one has another version; NotFound if the session has no tree here."""
        path = self._note_path(session_id, place)
        if not self.root(session_id, place).is_dir():
            raise NotFound("there is no such tree on this host")
        if self.note(session_id, place)[1] != instead_of:
            raise Conflict("somebody else looked at the tree meanwhile", retryable=True)
        data = orjson.dumps({"note": note, _VERSION: instead_of + 1})
        if len(data) > TREE_NOTE_BYTES_MAX:
            raise RequestTooLarge(f"a note has at most {TREE_NOTE_BYTES_MAX} bytes")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(path)

    def root(self, session_id: SessionId, place: str) -> Path:
        """Raises InvalidRequest for a place that no agent writes."""
        if place in ("notes", "uploads"):
            raise NotFound(f"{place!r} is no tree of an agent")
        return self._provider.place(self._home(session_id), place)

    def _note_path(self, session_id: SessionId, place: str) -> Path:
        name = place.replace("/", "-")
        return self._provider.place(self._home(session_id), "notes") / f"tree-{name}.json"
