"""The trees of a host's sessions, for the control plane: read, changed, and what was made of them.

A note is whatever its reader wants to know again; it is kept beside the tree, so it is lost exactly when
the tree is, and replaced only by who has seen the last one. Of a memory store it says what is the same as
in the store: after a boot of the machine, which may have lost what was not on disk yet, it says nothing.
"""

import asyncio
import base64
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from corral.hands.mounted import boot_id
from corral.hands.ports import Provider
from corral.hands.trees import Tree, entry_of, open_file, put_file, remove_file, walk
from corral.kernel.errors import Conflict, InvalidRequest, NotFound, RequestTooLarge
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
            if place.startswith("memory/") and body.get("boot") != boot_id():
                return {}, 0
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
        data = orjson.dumps({"note": note, _VERSION: instead_of + 1, "boot": boot_id()})
        if len(data) > TREE_NOTE_BYTES_MAX:
            raise RequestTooLarge(f"a note has at most {TREE_NOTE_BYTES_MAX} bytes")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(path)

    def has_any(self, session_id: SessionId) -> tuple[bool, bool]:
        """Whether there is anything in the outputs, or was; whether the session has memory stores here.
        Costs two looks."""
        home = self._home(session_id)
        noted: list[str] = []
        with contextlib.suppress(OSError):
            noted = [each.name for each in self._provider.place(home, "notes").iterdir()]
        has_outputs = "tree-outputs.json" in noted
        if not has_outputs:
            with contextlib.suppress(OSError), os.scandir(self.root(session_id, "outputs")) as names:
                has_outputs = next(names, None) is not None
        return has_outputs, any(name.startswith("tree-memory-") for name in noted)

    async def apply(self, session_id: SessionId, place: str, change: Mapping[str, Json]) -> dict[str, Json]:
        """Change the tree of a memory store, file by file, each in one step.

        change: all may be left out. clears: everything goes first. removes: [path, stamp]; puts: [path,
        stamp or None for absent, base64]: only what still has that stamp. note, and the mount that is in
        place from now on: `mounted`. Paths as `wire.encode_path` gives them.
        Returns `{"stamps": those of what was put, by path; "refused": paths that had another stamp}`.
        Raises InvalidRequest, OSError (the disk).
        """
        home = self._home(session_id)
        kind, _, slug = place.partition("/")
        if kind != "memory":
            raise InvalidRequest("only the trees of memory stores are written")
        await self._provider.prepare_workspace(home)
        owner = await self._provider.prepare_memory(home, slug)
        staging = self._provider.place(home, "notes") / "staging"
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        applied = await asyncio.to_thread(
            _apply, self.root(session_id, place), change, staging=staging, owner=owner
        )
        if "note" in change:
            version = self.note(session_id, place)[1]
            self.keep_note(session_id, place, dict(change["note"]), instead_of=version)
        return applied

    def root(self, session_id: SessionId, place: str) -> Path:
        """Raises InvalidRequest for a place that no agent writes."""
        if place in ("notes", "uploads"):
            raise NotFound(f"{place!r} is no tree of an agent")
        return self._provider.place(self._home(session_id), place)

    def _note_path(self, session_id: SessionId, place: str) -> Path:
        name = place.replace("/", "-")
        return self._provider.place(self._home(session_id), "notes") / f"tree-{name}.json"


def _apply(root: Path, change: Mapping[str, Json], *, staging: Path, owner: int | None) -> dict[str, Json]:
    stamps: dict[str, Json] = {}
    refused: list[str] = []
    if change.get("clears"):
        for entry in walk(root).entries:
            remove_file(root, entry.path)
    for name, stamp in change.get("removes", ()):
        path = os.fsdecode(unquote_to_bytes(name))
        if _stamp(root, path) == stamp:
            remove_file(root, path)
        else:
            refused.append(name)
    for name, stamp, content in change.get("puts", ()):
        path = os.fsdecode(unquote_to_bytes(name))
        if _stamp(root, path) != stamp:
            refused.append(name)
            continue
        fresh = staging / secrets.token_hex(8)
        try:
            entry = put_file(root, path, base64.b64decode(content), staging=fresh, owner=owner)
        except (InvalidRequest, NotFound):  # something of the agent's is in the way
            refused.append(name)
            continue
        stamps[name] = list(entry.stamp)
    return {"stamps": stamps, "refused": refused}


def _stamp(root: Path, path: str) -> list[int] | None:
    """Of what is there now."""
    try:
        fd, entry = open_file(root, path)
    except NotFound:
        return None
    os.close(fd)
    return list(entry.stamp)
