"""Workspaces: one directory per session on the host's side. They outlive sandboxes and hosts."""

import io
import os
import re
import tarfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from corral.hands.mounted import Mounted
from corral.hands.ports import Provider
from corral.hands.tree_access import Trees
from corral.kernel.disk_trees import disk_bytes
from corral.kernel.errors import InvalidRequest, NotFound, RequestTooLarge, SandboxUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    CHECKPOINT_BYTES_MAX,
    DISK_FREE_BYTES_MIN,
    WALK_ENTRIES_MAX,
    WORKSPACE_ARCHIVE_BYTES_MAX,
)

__all__ = ["Workspaces"]

_TOOL_OUTPUTS = "/mnt/session/tool-outputs"
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")  # a single, plain path component


class Workspaces:
    """The directories below `root`. Their content belongs to sandboxes: only the provider looks inside."""

    def __init__(
        self, root: Path, *, provider: Provider, disk_free_bytes_min: int = DISK_FREE_BYTES_MIN
    ) -> None:
        self._root = root
        self._provider = provider
        self._disk_free_bytes_min = disk_free_bytes_min
        self.mounted = Mounted(self.path, provider)
        self.trees = Trees(self.path, provider)

    def path(self, session_id: SessionId) -> Path:
        """Where the workspace is or will be. Raises InvalidRequest for an id that is no plain name."""
        if not _SESSION_ID.fullmatch(session_id):
            raise InvalidRequest(f"session id {session_id!r} is not a plain name")
        return self._root / session_id

    def require_space(self) -> None:
        """Refuse new work before a full disk corrupts old work. Raises SandboxUnavailable (retryable)."""
        free_bytes = self.free_bytes()
        if free_bytes < self._disk_free_bytes_min:
            raise SandboxUnavailable(
                f"the disk of the hands host is almost full: {free_bytes >> 20} MiB free, "
                f"{self._disk_free_bytes_min >> 20} MiB needed to start new work. "
                "Free some space below the data directory; running work goes on."
            )

    def free_bytes(self) -> int:
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def all(self) -> list[SessionId]:
        """Whose workspaces lie here."""
        return [SessionId(path.name) for path in self._root.iterdir() if _SESSION_ID.fullmatch(path.name)]

    def disk_bytes(self, session_ids: Sequence[SessionId]) -> dict[SessionId, int]:
        """How much disk each takes; of one with more than WALK_ENTRIES_MAX entries, about that many."""
        paths = {session_id: self.path(session_id) for session_id in session_ids}
        return {each: disk_bytes(path, entries_max=WALK_ENTRIES_MAX) for each, path in paths.items()}

    async def prepare(self, session_id: SessionId) -> Path:
        """Make the directory if it is new. Repeat: safe."""
        path = self.path(session_id)
        await self._provider.prepare_workspace(path)
        return path

    async def remove(self, session_id: SessionId) -> None:
        """Delete it with all it holds. Repeat: safe."""
        await self._provider.remove_workspace(self.path(session_id))

    async def import_archive(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream of up to WORKSPACE_ARCHIVE_BYTES_MAX bytes into it.

        Raises: InvalidRequest (hostile), RequestTooLarge, SandboxUnavailable (disk full).
        """
        self.require_space()
        await self._provider.import_archive(
            await self.prepare(session_id), _bounded(archive, WORKSPACE_ARCHIVE_BYTES_MAX)
        )

    def export_archive(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of it. Raises NotFound at once, RequestTooLarge when the stream passes the bound."""
        path = self.path(session_id)
        if not path.is_dir():
            raise NotFound(f"session {session_id!r} has no workspace on this host")
        return _bounded(self._provider.export_archive(path), WORKSPACE_ARCHIVE_BYTES_MAX)

    def pack(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of up to CHECKPOINT_BYTES_MAX of all it holds, for `unpack`. Raises as above."""
        path = self.path(session_id)
        if not path.is_dir():
            raise NotFound(f"session {session_id!r} has no workspace on this host")
        packed = self.mounted.packed(session_id, self._provider.pack(path))
        return _bounded(packed, CHECKPOINT_BYTES_MAX)

    async def unpack(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Put what `pack` made into an empty workspace. Raises InvalidRequest, SandboxUnavailable."""
        self.require_space()
        home = await self.prepare(session_id)
        unpacked = self.mounted.unpacked(session_id, _bounded(archive, CHECKPOINT_BYTES_MAX))
        await self._provider.unpack(home, unpacked)

    async def put_output(self, session_id: SessionId, name: str, content: bytes) -> str:
        """Make a file among the session's tool outputs; returns what programs inside call it.

        name: a plain one, which nothing has yet. Raises InvalidRequest, SandboxUnavailable.
        """
        self.require_space()
        home, path = await self.prepare(session_id), f"{_TOOL_OUTPUTS}/{name}"
        await self._provider.unpack(home, _archive(path.lstrip("/"), content))
        return self._provider.seen(home, path)


async def _archive(path: str, content: bytes) -> AsyncIterator[bytes]:
    """Of one file."""
    member = tarfile.TarInfo(path)
    member.size, member.mode, member.mtime = len(content), 0o644, int(time.time())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(member, io.BytesIO(content))
    yield packed.getvalue()


async def _bounded(archive: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    size_bytes = 0
    async for chunk in archive:
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise RequestTooLarge(f"a workspace archive has at most {bytes_max} bytes")
        yield chunk
