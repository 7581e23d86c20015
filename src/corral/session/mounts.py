"""Mounts: what of the control plane a session sees in its sandbox, and who brings it there.

    resources, agent --MountSource.mounts--> recipe --> a call --> its host lacks some: MountsMissing
                                                           ^              |
                                                           +-- brought <--+-- MountSource.open, a tar stream

A hands host has neither database nor blobs. It says what it lacks before it starts anything, is given that,
and is asked again: so a lost host, a moved session and a restored checkpoint heal by themselves.

One source per kind. To add a kind: implement `MountSource` and register it where the brain is put together.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from corral.kernel.errors import WorldError
from corral.kernel.ids import SessionId
from corral.session.call import Mount
from corral.session.content import Json

__all__ = ["Attached", "MountFailed", "MountSource", "MountsMissing", "file_archive"]

_TAR_BLOCK: Final = 512


class MountsMissing(WorldError):
    """The host lacks these mounts of a call's recipe. Nothing was started: bring them and ask again."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"{len(missing)} mounts of the session are not on this host yet")
        self.missing = missing


class MountFailed(WorldError):
    """A mount cannot be had. The session goes on without it, and says so once: `error` is what its
    `session.error` says, without `retry_status`. It is tried again when the session next goes running.

    `error["message"]` is for the session's user: no secret, no path of ours.
    is_needed: the session does not go on without it; it is tried again at once, and after
    MOUNT_FAILURES_MAX the turn ends.
    """

    is_needed = False

    def __init__(self, error: Mapping[str, Json], *, mount_id: str = "", detail: str | None = None) -> None:
        super().__init__(str(error["message"]), detail=detail)
        self.error = error
        self.mount_id = mount_id

    @classmethod
    def unknown(cls, message: str, *, mount_id: str = "", detail: str | None = None) -> "MountFailed":
        """Of a kind for which the wire has no error of its own."""
        return cls({"type": "unknown_error", "message": message}, mount_id=mount_id, detail=detail)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """What a session has now. agent: the snapshot of its primary thread, its skills as the session's record
    has them. resources: as the store keeps them, which is what the wire shows and perhaps more.
    environment: its config."""

    session_id: SessionId
    agent: Mapping[str, Json] = field(default_factory=dict)
    resources: Sequence[Mapping[str, Json]] = ()
    environment: Mapping[str, Json] = field(default_factory=dict)


class MountSource(Protocol):
    """The mounts of one kind."""

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        """Those that the session has now. Cheap: asked before each tool call."""

    def open(self, session_id: SessionId, mount: Mount) -> AsyncIterator[bytes]:
        """Its content as a tar stream of at most MOUNT_BYTES_MAX.

        Members: of a file, one regular file, whatever its name (`file_archive`); of a copy, names below
        `mount.path`. Closing the iterator ends all work for it. Repeat: safe; not for one mount twice at
        once from one process. Raises MountFailed; BlobUnavailable, StoreUnavailable (tried again).
        """


async def file_archive(content: AsyncIterator[bytes], *, size_bytes: int) -> AsyncIterator[bytes]:
    """A tar stream of one file, for `MountSource.open`. Raises ValueError if it has another size."""
    from tarfile import TarInfo

    info = TarInfo("file")
    info.size, info.mode = size_bytes, 0o444
    yield info.tobuf()
    left = size_bytes
    async for chunk in content:
        left -= len(chunk)
        yield chunk
    if left != 0:
        raise ValueError(f"a file of {size_bytes} bytes has {size_bytes - left}")
    yield bytes(-size_bytes % _TAR_BLOCK + 2 * _TAR_BLOCK)
