"""Memory stores in sandboxes: real files, kept the same as their store.

    store --fill--> tree        before the first call
    tree  --push--> store       after each call, before its result is in the log; and what processes write
    store --pull--> tree        before each call, if others have changed the store

The *base* is what both were when last compared: for each file its memory, hash and stamp. It is the note
of the tree (`tree_access`), so it goes with the tree. A file whose stamp is not that of the base was
changed by the agent; a memory whose hash is not, by others. Where both changed one, the agent's is written
last and wins, and each has its version.

What the store does not take stays in the tree, is said once to the agent, and is tried again when it
changes.
"""

import base64
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Protocol

from corral.catalog.memory.paths import check_content, check_path, content_sha256
from corral.catalog.memory.ports import (
    Actor,
    Edit,
    Entry,
    MemoryMounts,
    Remove,
    Rename,
    StoreKey,
    Write,
)
from corral.hands.trees import TreeEntry
from corral.hands.wire import TreeNews, decode_path, encode_path
from corral.kernel.errors import (
    CallerError,
    Conflict,
    HandsUnavailable,
    MemoryRefused,
    NotFound,
)
from corral.kernel.ids import MemoryId, MemoryStoreId, SessionId, WorkspaceId
from corral.kernel.limits import (
    MEMORY_ATTEMPTS_MAX,
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_EDITS_MAX,
    MEMORY_PROBLEMS_MAX,
)
from corral.session.call import Mount
from corral.session.content import Json
from corral.session.mounts import Attached, MountFailed

__all__ = ["MemorySync", "TreeTaker"]

log = logging.getLogger(__name__)

_ROOT: Final = "/mnt/memory/"
_Step = tuple[str, Edit, Sequence[Json]]
"""A file by its encoded path, what is done, and the stamp it then has; before that, of a rename, the old
path."""


class TreeTaker(Protocol):
    """The host of a session, or who knows the way to it: `HandsClient`, `HandsRouter`."""

    async def tree(self, session_id: SessionId, place: str) -> TreeNews: ...

    def tree_file(self, session_id: SessionId, place: str, path: str) -> AsyncGenerator[bytes, None]: ...

    async def note_tree(
        self, session_id: SessionId, place: str, note: dict[str, Json], *, instead_of: int
    ) -> None: ...

    async def apply_tree(
        self, session_id: SessionId, place: str, change: dict[str, Json], *, epoch: int
    ) -> dict[str, Json]: ...


@dataclass(kw_only=True, slots=True)
class _Base:
    """files: by encoded path, [memory id, sha256, *stamp]. problems: the `_mark` of files that the store
    did not take, of those that are there."""

    change: int = 0
    files: dict[str, list[Json]] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, note: Mapping[str, Json]) -> "_Base":
        return cls(
            change=int(note.get("change", 0)),
            files={path: list(known) for path, known in note.get("files", {}).items()},
            problems=set(note.get("problems", ())),
        )

    def note(self) -> dict[str, Json]:
        return {"change": self.change, "files": self.files, "problems": sorted(self.problems)}


class MemorySync:
    """`corral.session.mounts.MountSource` of kind "memory", but for `open`: it is filled instead."""

    def __init__(self, hands: TreeTaker, mounts: MemoryMounts) -> None:
        self._hands = hands
        self._mounts = mounts
        self._changes: dict[tuple[SessionId, str], int] = {}  # known to be in the tree

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return [
            Mount(
                mount_id=each["memory_store_id"],
                kind="memory",
                path=each["mount_path"],
                digest=each["workspace_id"],
                mode="read_only" if each["access"] == "read_only" else "read_write",
            )
            for each in attached.resources
            if each["type"] == "memory_store"
        ]

    def open(self, session_id: SessionId, mount: Mount) -> AsyncGenerator[bytes, None]:
        raise AssertionError("a memory store is filled, not unpacked")

    async def fill(self, session_id: SessionId, mount: Mount, *, epoch: int) -> None:
        """Put the whole store into the tree, for the first time. Raises MountFailed, HandsUnavailable."""
        key, place = _key(mount), _place(mount)
        try:
            listing = await self._mounts.listing(key)
        except NotFound as error:
            raise MountFailed.unknown(
                f"The memory store {mount.mount_id} at {mount.path} is gone.", mount_id=mount.mount_id
            ) from error
        base = _Base(change=listing.change)
        entries = list(listing.entries)
        await self._hands.apply_tree(session_id, place, {"clears": True}, epoch=epoch)
        for start in range(0, len(entries), MEMORY_EDITS_MAX):
            await self._put(session_id, place, key, base, entries[start:][:MEMORY_EDITS_MAX], {}, epoch)
        await self._hands.apply_tree(
            session_id, place, {"note": base.note(), "mounted": _said(mount)}, epoch=epoch
        )
        self._changes[session_id, place] = base.change

    async def pull(self, session_id: SessionId, mounts: Sequence[Mount], *, epoch: int) -> None:
        """Bring into the trees what others have changed. Raises HandsUnavailable, StoreUnavailable,
        LeaseLost."""
        if not mounts:
            return
        positions = await self._mounts.positions([_key(mount) for mount in mounts])
        for mount in mounts:
            known = self._changes.get((session_id, _place(mount)))
            if positions.get(MemoryStoreId(mount.mount_id), known) != known:
                with suppress(NotFound, Conflict):  # not filled yet, or somebody else has just done it
                    await self._pull(session_id, mount, epoch=epoch)

    async def push(
        self, session_id: SessionId, mounts: Sequence[Mount], *, tells: bool = True
    ) -> list[str]:
        """Save what the agent has changed. Returns what it must be told: files that were not saved, each
        once. tells: False if nobody will be told now, so that somebody is later.

        Raises HandsUnavailable, StoreUnavailable.
        """
        problems: list[str] = []
        for mount in mounts:
            if mount.mode == "read_write":
                for _ in range(MEMORY_ATTEMPTS_MAX):
                    with suppress(NotFound):
                        try:
                            problems += await self._push(session_id, mount, tells=tells)
                        except Conflict:  # somebody else saves it at this moment: what is left, we do
                            continue
                    break
        return problems

    # -- from the store -----------------------------------------------------------------------------------

    async def _pull(self, session_id: SessionId, mount: Mount, *, epoch: int) -> None:
        key, place = _key(mount), _place(mount)
        news = await self._hands.tree(session_id, place)
        if news.version == 0:
            return
        base = _Base.of(news.note)
        stamps = {encode_path(entry.path): list(entry.stamp) for entry in news.tree.entries}
        target, change = await self._target(key, base)
        wanted = [
            entry
            for path, entry in target.items()
            if path not in base.files or base.files[path][1] != entry.content_sha256
        ]
        gone = [path for path in base.files if path not in target]
        refused = 0
        if gone:
            removes = [[path, base.files[path][2:]] for path in gone if path in stamps]
            # What the agent has changed meanwhile stays: it is a new memory then.
            await self._hands.apply_tree(session_id, place, {"removes": removes}, epoch=epoch)
            for path in gone:
                del base.files[path]
        for start in range(0, len(wanted), MEMORY_EDITS_MAX):
            batch = wanted[start:][:MEMORY_EDITS_MAX]
            refused += await self._put(session_id, place, key, base, batch, stamps, epoch)
        if not refused:  # else it is looked at again, after the next change
            base.change = change
        await self._hands.note_tree(session_id, place, base.note(), instead_of=news.version)
        self._changes[session_id, place] = change

    async def _target(self, key: StoreKey, base: _Base) -> tuple[dict[str, Entry], int]:
        """What the store is now, by encoded path."""
        changes = await self._mounts.changes(key, after=base.change)
        if changes.changes is None:
            listing = await self._mounts.listing(key)
            return {_tree_path(entry.path): entry for entry in listing.entries}, listing.change
        target = {
            path: Entry(MemoryId(known[0]), "/" + decode_path(path), known[1], known[2])
            for path, known in base.files.items()
        }
        for change in changes.changes:
            for path in [path for path, entry in target.items() if entry.memory_id == change.memory_id]:
                del target[path]
            if change.entry is not None:
                target[_tree_path(change.entry.path)] = change.entry
        return target, changes.change

    async def _put(
        self,
        session_id: SessionId,
        place: str,
        key: StoreKey,
        base: _Base,
        entries: Sequence[Entry],
        stamps: Mapping[str, Sequence[Json]],
        epoch: int,
    ) -> int:
        """Write memories into the tree, but over nothing that the agent has changed. Returns how many could
        not be written."""
        contents = await self._mounts.contents(key, [entry.memory_id for entry in entries])
        puts, new = [], {}
        for entry in entries:
            content = contents.get(entry.memory_id)
            if content is None:  # deleted since: the next look knows
                continue
            path = _tree_path(entry.path)
            known = base.files.get(path)
            expected = known[2:] if known is not None and path in stamps else stamps.get(path)
            if known is None and path in stamps:
                continue  # the agent has made one, too: that is pushed
            puts.append([path, expected, base64.b64encode(content).decode()])
            new[path] = [entry.memory_id, content_sha256(content)]
        written = 0
        if puts:
            said = await self._hands.apply_tree(session_id, place, {"puts": puts}, epoch=epoch)
            for path, stamp in said["stamps"].items():
                base.files[path] = [*new[path], *stamp]
            written = len(said["stamps"])
        return len(entries) - written

    # -- from the tree ------------------------------------------------------------------------------------

    async def _push(self, session_id: SessionId, mount: Mount, *, tells: bool) -> list[str]:
        key, place = _key(mount), _place(mount)
        news = await self._hands.tree(session_id, place)
        if news.version == 0:
            return []
        base = _Base.of(news.note)
        there = {encode_path(entry.path): entry for entry in news.tree.entries}
        if base.problems:
            base.problems &= {_mark(path, entry) for path, entry in there.items()}
        said = set(base.problems)
        dirty = {
            path: entry
            for path, entry in there.items()
            if base.files.get(path, [None, None])[2:] != list(entry.stamp)
            and not (base.problems and _mark(path, entry) in base.problems)
        }
        gone = [path for path in base.files if path not in there] if news.tree.is_whole else []
        if not dirty and not gone:
            return []
        told: list[str] = []
        paths, version = list(dirty), news.version
        for start in range(0, max(1, len(paths)), MEMORY_EDITS_MAX):  # each is saved, then noted
            batch = {path: dirty[path] for path in paths[start:][:MEMORY_EDITS_MAX]}
            edits = await self._edits(session_id, mount, base, batch, gone, told)
            removes: list[_Step] = [
                (path, Remove(_memory_path(path), base.files[path][1]), []) for path in gone
            ]
            gone = []
            await self._apply(session_id, mount, key, base, [*removes, *edits], there, told)
            if not tells:
                base.problems = set(said)
            if base.note() != news.note:
                await self._hands.note_tree(session_id, place, base.note(), instead_of=version)
                version += 1
        return told[:MEMORY_PROBLEMS_MAX]

    async def _edits(
        self,
        session_id: SessionId,
        mount: Mount,
        base: _Base,
        dirty: Mapping[str, TreeEntry],
        gone: list[str],
        told: list[str],
    ) -> list[_Step]:
        """What makes memories of these files. A new one with the content of one that is gone is a rename,
        and that one is taken out of `gone`."""
        edits: list[_Step] = []
        for path, entry in dirty.items():
            try:
                content = await self._content(session_id, _place(mount), entry)
            except (NotFound, HandsUnavailable):
                continue  # it is being written: the next look
            except MemoryRefused as error:
                told.append(_problem(mount, entry.path, error))
                base.problems.add(_mark(path, entry))
                continue
            sha256, known = content_sha256(content), base.files.get(path)
            if known is not None and known[1] == sha256:
                base.files[path] = [known[0], sha256, *entry.stamp]
                continue
            if known is None and (old := next((g for g in gone if base.files[g][1] == sha256), None)):
                gone.remove(old)
                rename = Rename(_memory_path(old), _memory_path(path))
                edits.append((path, rename, [old, *entry.stamp]))
            edits.append((path, Write(_memory_path(path), content), list(entry.stamp)))
        return edits

    async def _apply(
        self,
        session_id: SessionId,
        mount: Mount,
        key: StoreKey,
        base: _Base,
        edits: Sequence[_Step],
        there: Mapping[str, TreeEntry],
        told: list[str],
    ) -> None:
        actor = Actor("session_actor", session_id)
        for start in range(0, len(edits), MEMORY_EDITS_MAX):
            batch = edits[start:][:MEMORY_EDITS_MAX]
            try:
                applied = await self._mounts.apply(key, [edit for _, edit, _ in batch], actor=actor)
            except NotFound:
                told.append(f"[Nothing in {mount.path} is saved any more: its memory store is gone.]")
                return
            for (path, edit, stamp), result in zip(batch, applied.results, strict=True):
                match edit:
                    case Remove():  # if others have changed it since, it comes back
                        base.files.pop(path, None)
                    case Rename():
                        if not isinstance(result, CallerError):
                            base.files.pop(str(stamp[0]), None)
                    case Write():
                        if isinstance(result, CallerError):
                            told.append(_problem(mount, decode_path(path), result))
                            base.problems.add(_mark(path, there[path]))
                        else:
                            assert result is not None
                            base.files[path] = [result.memory_id, result.content_sha256, *stamp]

    async def _content(self, session_id: SessionId, place: str, entry: TreeEntry) -> bytes:
        """Raises MemoryRefused for what no memory can be, without reading much of it."""
        path = "/" + entry.path
        try:
            path.encode()
        except UnicodeEncodeError:
            raise MemoryRefused("path: its name is not UTF-8", errno="EINVAL") from None
        check_path(path)
        if entry.size > MEMORY_CONTENT_BYTES_MAX:
            raise MemoryRefused(
                f"content: {entry.size} bytes; a memory has at most {MEMORY_CONTENT_BYTES_MAX}. Split it.",
                errno="EFBIG",
            )
        content = b""
        async with aclosing(self._hands.tree_file(session_id, place, entry.path)) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > MEMORY_CONTENT_BYTES_MAX:
                    break
        check_content(content)
        return content


def _key(mount: Mount) -> StoreKey:
    return StoreKey(WorkspaceId(mount.digest), MemoryStoreId(mount.mount_id))


def _place(mount: Mount) -> str:
    return f"memory/{mount.path.removeprefix(_ROOT)}"


def _tree_path(memory_path: str) -> str:
    return encode_path(memory_path.removeprefix("/"))


def _memory_path(tree_path: str) -> str:
    return "/" + decode_path(tree_path)


def _mark(path: str, entry: TreeEntry) -> str:
    """Of a file as it is: short, however long its name, so that a note of all of a tree has room."""
    return blake2b(f"{path}\0{entry.stamp}".encode(), digest_size=12).hexdigest()


def _said(mount: Mount) -> dict[str, Json]:
    return {name: getattr(mount, name) for name in ("mount_id", "kind", "path", "digest", "mode")}


def _problem(mount: Mount, path: str, error: CallerError) -> str:
    shown = path.encode(errors="backslashreplace").decode()
    return f"[{mount.path}/{shown} was not saved to the memory store. {error.message}]"
