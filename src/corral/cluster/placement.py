"""Which hands host a session's sandbox is on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from corral.kernel.ids import SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A session and the host it is placed on.

    placed_at: when, in microseconds by the database's clock; it grows with each placement of a session, and
    so names this one: a host knows by it whether the workspace that lies there is still the session's.
    epoch: of the session's last lease when this was read; None in lists, and once the session is deleted.
    """

    session_id: SessionId
    host_id: str
    placed_at: int
    epoch: int | None = field(default=None, compare=False)


Why = Literal["elsewhere", "ended", "deleted", "unknown"]
"""Why a host should not have a session. unknown: this database never had it, or deleted it long ago."""


class PlacementStore(Protocol):
    """At most one host per session."""

    async def find(self, session_id: SessionId) -> Placed | None:
        """Where the session is; None if it is on no host."""

    async def place(
        self, session_id: SessionId, *, host_id: str, instead_of: Placed | None, until: float | None = None
    ) -> Placed:
        """Put the session on `host_id` if its placement is `instead_of`, as it was found, or none; returns
        where it is afterwards. Raises NotFound for a deleted session.

        It stays where it is if somebody else was first: placed it, holds its lease, or claimed it since
        `instead_of` was read, and so may have worked where it is; or if it is later than `until`
        (monotonic). A repeat finds it placed."""

    async def remove(self, session_id: SessionId, *, host_id: str) -> None:
        """It has no host any more, if it is on this one. Repeat: safe."""

    async def on_host(self, host_id: str, *, after: SessionId | None, limit: int) -> Sequence[Placed]:
        """Sessions placed there, by id, after the given one."""

    async def misplaced(self, host_id: str, session_ids: Sequence[SessionId]) -> Mapping[SessionId, Why]:
        """Which of these have no business on that host, and why."""

    async def counts(self) -> Mapping[str, int]:
        """Placed sessions by host."""

    async def has_acted(self, session_id: SessionId) -> bool:
        """Whether a tool of the session ever answered: whether it had a sandbox with something in it."""
