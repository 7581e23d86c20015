"""Leases: the time-bound right to run a session, with a fencing token that grows at each grant.

A holder trusts itself for LEASE_TRUST_SECONDS, the store for LEASE_TTL_SECONDS, counted from when the
holder asked. One lease runs all threads of a session. Source: docs/ARCHITECTURE.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from corral.kernel.ids import SessionId
from corral.kernel.limits import SESSION_BACKOFF_SECONDS, SESSION_BACKOFF_SECONDS_MAX


def session_backoff_seconds(failures: int) -> float:
    """How long a session that has failed so often in a row waits: the first time not at all."""
    if failures < 2:
        return 0.0
    return min(SESSION_BACKOFF_SECONDS * 2.0 ** min(failures - 2, 62), SESSION_BACKOFF_SECONDS_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A held lease. `epoch` fences every write; `owner` names the brain process incarnation. `failures`:
    of the session when the lease was granted; no part of its identity."""

    session_id: SessionId
    owner: str
    epoch: int
    failures: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A lease to be taken by the append that carries it: granted if the session is free (or its lease
    is over) and its epoch is still `epoch - 1`. Saves the commit of a separate claim."""

    session_id: SessionId
    owner: str
    epoch: int


class LeaseStore(Protocol):
    """Times are the database's. Every method is safe to repeat.

    A *failure* is a lease that ended otherwise than by its holder's release: its brain died, fell silent
    or failed. Failures are counted in the session's row (`SessionRecord.failures`) and set back to 0 by an
    append that gets on (`Append.gets_on`) or ends the turn, and by `rest`. From the second one on the
    session waits before it may be claimed again (`session_backoff_seconds`), alone; at SESSION_FAILURES_MAX
    the brain that claims it ends the turn instead of going on with it.

    A lease past its time is a failure from that time on, whoever notices it when: it is written down by
    the claim that follows it.
    """

    async def claim(
        self, *, owner: str, limit: int, session_ids: Sequence[SessionId] | None = None
    ) -> list[Lease]:
        """Take the leases of up to `limit` sessions that need a brain and may have one (see `waiting`); of
        the given sessions only, in their order, if given (then whether or not they need one). Skips what
        others hold or claim at this moment, and what is backed off."""

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Extend these; returns the ones still held (others are lost for good)."""

    async def release(self, leases: Sequence[Lease], *, pause_seconds: float = 0.0) -> None:
        """Give them back in good order: no failure, and no sign that the session gets on either. They may
        be claimed again after `pause_seconds`. A lease already lost is ignored."""

    async def rest(self, lease: Lease, *, seen_seq: int, seen_arrival: int) -> None:
        """Its holder has looked and found nothing to write: release it, and note that the session needs no
        brain, unless its log or inbox has moved since. A lease already lost is ignored."""

    async def fail(self, leases: Sequence[Lease]) -> None:
        """Give back the leases of loops that failed: counts as a failure. A lease already lost is
        ignored."""

    async def end(self, *, owner_prefix: str, except_owner: str) -> list[SessionId]:
        """End the leases of dead incarnations (owners beginning with the prefix) at once, each a failure of
        its session; returns the sessions that may be claimed now."""

    async def waiting(self, *, limit: int) -> list[SessionId]:
        """Sessions that need a brain, have no live lease and are not backed off. The keys that created them
        take turns: first the oldest need of each key, then the second oldest of each, and so on. Sessions
        that have failed take turns among those that failed as often, SUSPECT_TURNS later per failure."""

    async def failures(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, int]:
        """Those of these sessions that have failed, with how often; a lease past its time counts."""
