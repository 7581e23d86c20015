"""Time, passed in. Wall time is UTC; durations come from the monotonic clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from corral.kernel.faults import fault


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, timezone-aware UTC, microseconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class SystemClock:
    def now(self) -> datetime:
        step = fault("clock.step")
        return datetime.now(UTC) + timedelta(seconds=step) if step else datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339(moment: datetime) -> str:
    """`2026-11-20T10:00:00.262700Z`: the wire's form, always six digits, always Z."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Inverse of `rfc3339`; accepts any offset and any precision. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years 1 to 9999") from None
