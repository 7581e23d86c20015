"""Checkpoints: the newest copy of a session's workspace in the blob store, taken while the session is idle
and before its sandbox is evicted; what a new host restores when the old one is gone."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from corral.kernel.ids import SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A workspace as tar, packed with zstd, under `blob_key`; sha256 and size_bytes are the blob's."""

    session_id: SessionId
    blob_key: str
    size_bytes: int
    sha256: str
    host_id: str
    taken_at: datetime


class CheckpointStore(Protocol):
    async def newest(self, session_id: SessionId) -> Checkpoint | None: ...

    async def keep(self, checkpoint: Checkpoint, *, instead_of: str | None) -> Checkpoint | None:
        """Make it the newest one, if the newest is still the one of the blob `instead_of` (None: there is
        none), as it was before the copying began, and the session is not on another host by now. No clock
        decides. Returns the one whose blob nobody needs any more: the earlier one, or this one if it lost
        or its session is gone; or None. Repeat: safe."""

    async def forget(self, session_id: SessionId) -> Checkpoint | None:
        """The session is gone: remove the record and return it, so that its blob can be deleted."""
