"""Work that waits for a brain, counted: what `corral status` and `/metrics` show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """Ages in seconds, by the database's clock; 0 where there is nothing.

    needing:         sessions that need a brain, whether or not one works on them.
    waiting:         those of them without a live lease; the oldest has waited `oldest_wait_seconds`.
    held_back:       likewise, but not yet to be claimed: their brains failed again and again.
    inbox:           accepted inputs that no brain has taken yet; counting stops at BACKLOG_COUNT_MAX.
    leases:          live leases by owner.
    leases_ended:    leases past their time that nobody has taken over yet.
    stalest_lease_seconds: since the live lease that was renewed least recently was granted or renewed.
    """

    needing: int
    waiting: int
    held_back: int
    oldest_wait_seconds: float
    inbox: int
    leases: Mapping[str, int]
    leases_ended: int
    stalest_lease_seconds: float


class BacklogStore(Protocol):
    async def count(self) -> Backlog:
        """One snapshot; its cost grows with the work that waits, not with what is stored."""
