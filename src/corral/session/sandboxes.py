"""Sandboxes and workspaces as an operator sees them. Implemented over the hands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from corral.kernel.ids import SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxView:
    """What lies on a host for a session.

    provider: of its live sandbox; None if only the workspace is there. disk_bytes: of the workspace.
    has_changed: since its last checkpoint. checkpoint_at: when the newest one was taken, wherever.
    """

    host_id: str
    session_id: SessionId
    provider: str | None
    is_busy: bool
    idle_seconds: float
    disk_bytes: int
    has_changed: bool
    checkpoint_at: datetime | None


class SandboxDesk(Protocol):
    async def all(self) -> Sequence[SandboxView]:
        """Every host that answers, by host and session."""

    async def evict(self, session_id: SessionId) -> SandboxView:
        """Take a checkpoint, then let sandbox and workspace go from the session's host; the next call
        brings the files back, there or elsewhere. Returns what was there.

        Raises Conflict while a call runs; NotFound if it is on no host; RequestTooLarge, BlobUnavailable,
        HandsUnavailable: then nothing has changed.
        """
