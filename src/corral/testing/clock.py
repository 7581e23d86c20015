"""Clocks that move when they are told to."""

import asyncio
from datetime import UTC, datetime, timedelta


class ManualClock:
    """`kernel.clock.Clock`. Starts at a fixed moment, so that a run can be repeated exactly."""

    def __init__(self, start: datetime = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._passed = timedelta()

    def now(self) -> datetime:
        return self._start + self._passed

    def monotonic(self) -> float:
        return self._passed.total_seconds()

    def advance(self, seconds: float) -> None:
        """Let time pass; at least a microsecond, never back."""
        self._passed += max(timedelta(seconds=seconds), timedelta(microseconds=1))


def skip(seconds: float) -> None:
    """Let the time of the running event loop jump, as it does for a process that was stopped: all stood
    still, and what was to happen meanwhile is due now, at once. Holds until the loop is closed."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]
