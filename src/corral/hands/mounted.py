"""What is mounted in the workspaces of a hands host, and durably so: who brought it is not asked again.

Rules of this file:
- `require` awaits nothing: between it and the start of a call nothing changes.
- Files lie in the workspace's uploads, where only the host writes; a removed one goes with the next call.
- A copy is remembered with its workspace, also on its way to another host (`packed`, `unpacked`): what the
  agent did to it since is never overwritten.
- What is not noted is brought again, so a crash costs a repeat. Files are not forced to disk, which would
  be most of their time: what is noted of them, and of memory stores, is void once the machine has booted
  again.
"""

import asyncio
import contextlib
import functools
import json
import os
import secrets
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final
from weakref import WeakValueDictionary

from corral.hands.ports import Provider
from corral.kernel.errors import InvalidRequest, RequestTooLarge
from corral.kernel.ids import SessionId
from corral.kernel.limits import LAYER_BYTES_MAX, MOUNT_BYTES_MAX, MOUNTS_PER_RECIPE_MAX
from corral.session.call import Mount
from corral.session.content import Json
from corral.session.mounts import MountsMissing

__all__ = ["Mounted", "boot_id"]

_UPLOADS: Final = PurePosixPath("/mnt/session/uploads")
_WORKSPACE: Final = PurePosixPath("/workspace")
_MEMORY: Final = PurePosixPath("/mnt/memory")
_NOTE: Final = "mounts.json"
_NOTE_BYTES_MAX: Final = 1024 * MOUNTS_PER_RECIPE_MAX  # twice of what one recipe's copies come to
_STAGING: Final = "staging"
# Extracted by a host that does not know of it, it lands in the private /tmp of a sandbox that ends at once.
_MEMBER: Final = "tmp/.corral-mounts.json"
_BLOCK: Final = tarfile.BLOCKSIZE

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FIELDS: Final = ("kind", "path", "digest", "mode", "boot")

_Notes = dict[str, dict[str, str]]  # of each mount by its id: `_FIELDS`, boot "" where it does not matter


@functools.cache
def boot_id() -> str:
    """Of this run of the machine; "" where nobody knows."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


class Mounted:
    """Of one host. `home` is where a session's workspace lies."""

    def __init__(self, home: Callable[[SessionId], Path], provider: Provider) -> None:
        self._home = home
        self._provider = provider
        # A lock lives while somebody is at it.
        self._bringing: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()

    def require(self, session_id: SessionId, mounts: Sequence[Mount]) -> None:
        """Everything that a call of the session needs is there, and no file that it does not.

        Raises MountsMissing, InvalidRequest.
        """
        home = self._home(session_id)
        notes = self._notes(home)
        if not mounts and not notes:
            return
        if len(mounts) > MOUNTS_PER_RECIPE_MAX:
            raise InvalidRequest(f"a sandbox has at most {MOUNTS_PER_RECIPE_MAX} mounts")
        wanted = {mount.mount_id: mount for mount in mounts}
        if missing := [mount.mount_id for mount in mounts if not self._is_there(notes, mount)]:
            raise MountsMissing(missing)
        stale = [
            mount_id
            for mount_id, note in notes.items()
            if note["kind"] == "file" and (mount_id not in wanted or wanted[mount_id].path != note["path"])
        ]
        if stale:
            kept = {_below(_UPLOADS, mount.path) for mount in mounts if mount.kind == "file"}
            for mount_id in stale:
                if (name := _below(_UPLOADS, notes.pop(mount_id)["path"])) not in kept:
                    self._remove(home, name)
            self._write(home, notes, is_forced=False)
        elif notes and self._note_path(home).stat().st_size > _NOTE_BYTES_MAX // 2:
            # Copies of what is attached no more would pile up, and what is detached never comes back.
            self._write(home, {each: notes[each] for each in notes if each in wanted}, is_forced=True)

    def missing(self, session_id: SessionId, mounts: Sequence[Mount]) -> list[str]:
        """Which of these are not there."""
        notes = self._notes(self._home(session_id))
        return [mount.mount_id for mount in mounts if not self._is_there(notes, mount)]

    def _is_there(self, notes: _Notes, mount: Mount) -> bool:
        if mount.kind == "packages":  # of the host, whichever session it was brought for
            return self._provider.has_layer(mount.digest)
        return _is_noted(notes, mount)

    async def put(self, session_id: SessionId, mount: Mount, archive: AsyncIterator[bytes]) -> bool:
        """Put a mount in place; its workspace is prepared. Returns whether the workspace's own files have
        changed.

        Repeat: does nothing, and reads nothing of the archive. Raises InvalidRequest, RequestTooLarge,
        SandboxUnavailable.
        """
        if mount.kind == "packages":
            await self._provider.put_layer(mount.digest, _bounded(archive, LAYER_BYTES_MAX))
            return False
        async with self._bringing.setdefault(session_id, asyncio.Lock()):
            home = self._home(session_id)
            if _is_noted(self._notes(home), mount):
                return False
            bounded = _bounded(archive, MOUNT_BYTES_MAX)
            if mount.mode == "copy":
                below = _below(_WORKSPACE, mount.path)
                await self._provider.import_archive(home, bounded, below=str(below))
            elif mount.kind == "file":
                await self._upload(home, _below(_UPLOADS, mount.path), bounded)
            else:
                raise InvalidRequest(f"a mount of kind {mount.kind!r} is not brought as an archive")
            self.note(session_id, mount)
            return mount.mode == "copy"

    def note(self, session_id: SessionId, mount: Mount) -> None:
        """It is there."""
        home = self._home(session_id)
        notes = self._notes(home)
        notes[mount.mount_id] = {
            "kind": mount.kind,
            "path": mount.path,
            "digest": mount.digest,
            "mode": mount.mode,
            "boot": "" if mount.mode == "copy" else boot_id(),
        }
        self._write(home, notes, is_forced=mount.mode == "copy")

    # -- on its way to another host ---------------------------------------------------------------------

    async def packed(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The archive of a workspace, with what it says of its copies as the first member."""
        notes = self._notes(self._home(session_id))
        if copies := _newest({each: note for each, note in notes.items() if note["mode"] == "copy"}):
            data = json.dumps(copies).encode()
            info = tarfile.TarInfo(_MEMBER)
            info.size = len(data)
            yield info.tobuf() + data + bytes(-len(data) % _BLOCK)
        async for chunk in archive:
            yield chunk

    async def unpacked(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What `packed` was given; the member before it is written down here."""
        unread = b""
        async for chunk in archive:
            unread += chunk
            if len(unread) >= _BLOCK:
                break
        if (size := _own_member(unread[:_BLOCK])) is not None:
            whole = _BLOCK + size + -size % _BLOCK
            if size > _NOTE_BYTES_MAX:
                raise InvalidRequest("the archive says too much of its mounts")
            while len(unread) < whole:
                try:
                    unread += await anext(archive)
                except StopAsyncIteration:
                    raise InvalidRequest("the archive is cut off") from None
            self._write(self._home(session_id), _parsed(unread[_BLOCK : _BLOCK + size]), is_forced=True)
            unread = unread[whole:]
        if unread:
            yield unread
        async for chunk in archive:
            yield chunk

    # -- files ------------------------------------------------------------------------------------------

    async def _upload(self, home: Path, name: PurePosixPath, archive: AsyncIterator[bytes]) -> None:
        """The one file of the archive becomes `name` in the uploads, whole or not at all."""
        staging = self._place(home, "notes") / _STAGING
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = staging / secrets.token_hex(8)
        try:
            await _write_file(fresh, archive)
            uploads = self._place(home, "uploads")
            target = uploads / name
            for folder in [uploads, *reversed([uploads / parent for parent in name.parents][:-1])]:
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)  # whatever our umask
            if target.is_dir():
                raise InvalidRequest(f"{name} is a directory with other mounts")
            fresh.rename(target)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidRequest(f"another mount is in the way of {name}") from error
        finally:
            fresh.unlink(missing_ok=True)

    def _remove(self, home: Path, name: PurePosixPath) -> None:
        uploads = self._place(home, "uploads")
        with contextlib.suppress(OSError):
            (uploads / name).unlink()
        for parent in list(name.parents)[:-1]:
            with contextlib.suppress(OSError):  # others are in it
                (uploads / parent).rmdir()

    # -- notes ------------------------------------------------------------------------------------------

    def _notes(self, home: Path) -> _Notes:
        try:
            return _parsed(self._note_path(home).read_bytes())
        except FileNotFoundError:
            return {}

    def _write(self, home: Path, notes: _Notes, *, is_forced: bool) -> None:
        folder = self._place(home, "notes")
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = folder / f"{_NOTE}.new"
        with fresh.open("wb") as out:
            out.write(json.dumps(notes).encode())
            if is_forced:
                out.flush()
                os.fsync(out.fileno())
        fresh.rename(folder / _NOTE)
        if is_forced:
            _sync(folder)

    def _note_path(self, home: Path) -> Path:
        return self._place(home, "notes") / _NOTE

    def _place(self, home: Path, place: str) -> Path:
        return self._provider.place(home, place)


def _is_noted(notes: Mapping[str, Mapping[str, str]], mount: Mount) -> bool:
    note = notes.get(mount.mount_id)
    if note is None or note["boot"] not in ("", boot_id()):
        return False
    return (note["digest"], note["path"]) == (mount.digest, mount.path)


def _below(root: PurePosixPath, place: str) -> PurePosixPath:
    """The path relative to `root`. Raises InvalidRequest unless it is a plain one below it."""
    found = PurePosixPath(place)
    plain = str(found) == place and ".." not in found.parts and "\0" not in place
    if not plain or not found.is_relative_to(root) or found == root:
        raise InvalidRequest(f"{place!r} is no path below {root}")
    return found.relative_to(root)


def _parsed(data: bytes) -> _Notes:
    """Raises InvalidRequest for what is no note of ours: it may come with an archive."""
    try:
        notes: Json = json.loads(data)
        return {
            str(mount_id): {name: str(note.get(name, "")) for name in _FIELDS}
            for mount_id, note in notes.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("what is noted of mounts cannot be read") from error


def _newest(notes: _Notes) -> _Notes:
    """As many of them as `unpacked` takes."""
    left, kept = _NOTE_BYTES_MAX, []
    for mount_id in reversed(notes):
        left -= len(json.dumps({mount_id: notes[mount_id]}))  # its braces are the comma and a space
        if left < 0:
            break
        kept.append(mount_id)
    return {mount_id: notes[mount_id] for mount_id in reversed(kept)}


def _own_member(header: bytes) -> int | None:
    """The size of our member, if this is its header."""
    with contextlib.suppress(tarfile.HeaderError):
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if info.name == _MEMBER and info.isreg():
            return info.size
    return None


async def _bounded(archive: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    size_bytes = 0
    async for chunk in archive:
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise RequestTooLarge(f"it has more than {bytes_max} bytes")
        yield chunk


async def _write_file(fresh: Path, archive: AsyncIterator[bytes]) -> None:
    """The content of the archive's only member, durable. Raises InvalidRequest."""
    unread = b""
    async for chunk in archive:
        unread += chunk
        if len(unread) >= _BLOCK:
            break
    try:
        info = tarfile.TarInfo.frombuf(unread[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InvalidRequest("the archive of a file cannot be read") from error
    if not info.isreg() or info.size < 0:
        raise InvalidRequest("the archive of a file begins with something else")
    left, unread = info.size, unread[_BLOCK:]
    with fresh.open("xb") as out:
        while True:
            piece, unread = unread[:left], b""
            await asyncio.to_thread(out.write, piece)
            left -= len(piece)
            if left == 0:
                break
            try:
                unread = await anext(archive)
            except StopAsyncIteration:
                raise InvalidRequest("the archive of a file is cut off") from None
        os.fchmod(out.fileno(), 0o444)
    async for chunk in archive:  # to its end, so that whoever sends it is not cut off
        if chunk.strip(b"\0"):
            raise InvalidRequest("the archive of a file has more in it")


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
