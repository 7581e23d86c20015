"""Requests per minute of each credential, on this node: reads and the rest apart, as the hosted limits are.

A bucket of a minute's requests that refills evenly, kept as one number per credential: the time at which
it would be full again (GCRA). Several nodes count apart, so behind a balancer a client gets up to as many
times the limit as there are nodes. Source: API docs, errors-limits "Rate limits"; docs/DIVERGENCES.md.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from corral.api.edge import Edge
from corral.kernel.clock import Clock, rfc3339
from corral.kernel.errors import RateLimited
from corral.kernel.limits import RATES_KEPT_MAX

__all__ = ["Rate", "Rates"]

Headers = list[tuple[bytes, bytes]]
_MINUTE = 60.0
_READS = frozenset({"GET", "HEAD"})


class Taken(NamedTuple):
    """What a request left in its bucket. `full_seconds`: until that is full again; `wait_seconds`: until
    one more is in it, 0 if one was."""

    remaining: int
    full_seconds: float
    wait_seconds: float


class Rate:
    """One limit, of many credentials."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        assert per_minute > 0
        self.per_minute = per_minute
        self._interval = _MINUTE / per_minute
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}

    def take(self, who: str) -> Taken:
        """One request; nothing is taken if there is none left."""
        now = self._monotonic()
        before = max(self._full_at.get(who, now), now) - now
        after = before + self._interval
        if after > _MINUTE + 1e-9:
            return Taken(0, before, after - _MINUTE)
        if len(self._full_at) >= RATES_KEPT_MAX and who not in self._full_at:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
        self._full_at[who] = now + after
        return Taken(int((_MINUTE - after + 1e-9) / self._interval), after, 0.0)


class Rates:
    """Both limits; either may be off."""

    def __init__(self, edge: Edge, clock: Clock) -> None:
        self._clock = clock
        self._reads = Rate(edge.reads_per_minute, clock.monotonic) if edge.reads_per_minute else None
        self._writes = Rate(edge.writes_per_minute, clock.monotonic) if edge.writes_per_minute else None

    @property
    def are_on(self) -> bool:
        return self._reads is not None or self._writes is not None

    def take(self, method: str, who: str, headers: Headers) -> None:
        """One request of a credential; `headers` get what its answer says about it, also of a refusal.

        Raises RateLimited.
        """
        rate = self._reads if method in _READS else self._writes
        if rate is None:
            return
        taken = rate.take(who)
        full_at = rfc3339(
            datetime.fromtimestamp(math.ceil(self._clock.now().timestamp() + taken.full_seconds), UTC)
        )
        headers += (
            (b"anthropic-ratelimit-requests-limit", b"%d" % rate.per_minute),
            (b"anthropic-ratelimit-requests-remaining", b"%d" % taken.remaining),
            (b"anthropic-ratelimit-requests-reset", full_at.encode()),
        )
        if taken.wait_seconds:
            which = "reads" if method in _READS else "requests that are no reads"
            raise RateLimited(
                f"This key may make {rate.per_minute} {which} a minute on this server; wait for it",
                retry_after_seconds=math.ceil(taken.wait_seconds),
            )
