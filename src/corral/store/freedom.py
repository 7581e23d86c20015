"""When a session may be claimed, in SQL over its row. Times are the database's, in microseconds.

A session is free from `FREE_FROM` on: at once, or when its backoff is over, which for a lease that its
holder let pass is counted from the end of that lease. The claim that follows writes the failure down.
"""

from sqlalchemy import case

from corral.kernel.limits import LEASE_TTL_SECONDS, SESSION_BACKOFF_SECONDS_MAX
from corral.session.lease import session_backoff_seconds
from corral.store.schema import NOT_HELD_BACK, sessions

__all__ = ["BACKOFF", "FAILURES", "FREE_FROM", "LEASE_TTL_US"]

LEASE_TTL_US = int(LEASE_TTL_SECONDS * 1_000_000)


def _backoffs() -> tuple[dict[int, int], int]:
    """Microseconds by the number of failures, and of all greater numbers."""
    longest = int(SESSION_BACKOFF_SECONDS_MAX * 1_000_000)
    waits: dict[int, int] = {}
    while not waits or waits[len(waits)] < longest:
        waits[len(waits) + 1] = int(session_backoff_seconds(len(waits) + 1) * 1_000_000)
    return waits, longest


_WAITS, _LONGEST = _backoffs()
BACKOFF = case(_WAITS, value=sessions.c.failures + 1, else_=_LONGEST)
"""How long the session waits after one failure more."""
_IS_OVER = sessions.c.owner.is_not(None)
FREE_FROM = case(
    (_IS_OVER & (sessions.c.not_before == NOT_HELD_BACK), sessions.c.lease_until),
    (_IS_OVER, sessions.c.lease_until + BACKOFF),
    else_=sessions.c.not_before,
)
FAILURES = case((_IS_OVER, sessions.c.failures + 1), else_=sessions.c.failures)
"""Of a session that is free: a lease that nobody gave back is a failure."""
