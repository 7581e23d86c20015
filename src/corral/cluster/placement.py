"""Which hands host a session's sandbox is on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from corral.kernel.ids import SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A session and the host it is placed on."""

    session_id: SessionId
    host_id: str


class PlacementStore(Protocol):
    """At most one host per session."""

    async def find(self, session_id: SessionId) -> str | None:
        """The host's id, or None if the session has none."""

    async def place(self, session_id: SessionId, *, host_id: str, instead_of: str | None) -> str:
        """Put the session on `host_id` if it is on `instead_of` now (None: on no host); returns where it is
        afterwards, which is elsewhere if another brain was first. Repeat: safe.
        Raises NotFound for a deleted session."""

    async def remove(self, session_id: SessionId, *, host_id: str) -> None:
        """It has no host any more, if it is on this one. Repeat: safe."""

    async def on_host(self, host_id: str, *, after: SessionId | None, limit: int) -> Sequence[Placed]:
        """Sessions placed there, by id, after the given one."""

    async def misplaced(self, host_id: str, session_ids: Sequence[SessionId]) -> Sequence[SessionId]:
        """Which of these have no business on that host: placed elsewhere, ended or deleted."""

    async def counts(self) -> dict[str, int]:
        """Placed sessions by host."""
