"""Work that a session leaves behind for the hands: queued with the event that ends it, done later."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from corral.kernel.ids import SessionId

CleanupKind = Literal["sandbox", "workspace", "blobs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanupWork:
    """sandbox: release it, the session has ended. workspace: delete it too, the session is gone. blobs:
    delete what it left in the blob store (checkpoints). Queued at most once per session and kind."""

    session_id: SessionId
    kind: CleanupKind


class CleanupStore(Protocol):
    """A queue with at-least-once delivery: each piece of work must be safe to repeat."""

    async def pending(self, *, limit: int) -> Sequence[CleanupWork]:
        """Oldest first."""

    async def done(self, works: Sequence[CleanupWork]) -> None:
        """Forget these. Repeat: safe."""
