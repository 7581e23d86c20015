"""`/readyz`: whether a prompt can be accepted and run, each check tried for real, in the background.

A missing model key is reported and is not a failure: `replay` and `local` work without one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from corral.api.dependencies import Check
from corral.kernel.errors import CorralError
from corral.kernel.limits import (
    READINESS_RETRY_SECONDS,
    READINESS_SECONDS,
    READINESS_TIMEOUT_SECONDS,
)

log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[Check]]


class Readiness:
    """The newest result of each check; a check that has not ended yet is failed."""

    def __init__(self, checks: Mapping[str, Look], elsewhere: Mapping[str, Look] = {}) -> None:
        """elsewhere: checks of what other nodes do; `until_ready` does not wait for them."""
        checks = {**checks, **elsewhere}
        self._elsewhere = frozenset(elsewhere)
        self._checks = checks
        self._results = {name: Check(status="failed", reason="not checked yet") for name in checks}
        self._checked = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        return all(result.status != "failed" for result in self._results.values())

    def results(self) -> Mapping[str, Check]:
        return self._results

    async def run(self) -> None:
        """Check every READINESS_SECONDS, more often while something fails; until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(READINESS_SECONDS if self.is_ready else READINESS_RETRY_SECONDS)

    async def until_ready(self, *, patience_seconds: float) -> None:
        """Return when nothing fails, or after `patience_seconds`: what fails then may need a person."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                while not self._is_ready_here():
                    self._checked.clear()
                    await self._checked.wait()

    def _is_ready_here(self) -> bool:
        return all(
            result.status != "failed" or name in self._elsewhere for name, result in self._results.items()
        )

    async def check(self) -> None:
        """Make every check once, side by side."""
        async with asyncio.TaskGroup() as group:
            for name, look in self._checks.items():
                group.create_task(self._look(name, look))
        self._checked.set()

    async def _look(self, name: str, look: Look) -> None:
        result = Check(status="failed", reason=f"no answer within {READINESS_TIMEOUT_SECONDS:g} s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                try:
                    result = await look()
                except CorralError as error:
                    result = Check(status="failed", reason=getattr(error, "message", f"{name} failed"))
                    self._tell(name, error)
                except OSError as error:  # a disk that is gone is news for whoever asks, not our end
                    result = Check(status="failed", reason=f"{name}: {error.strerror or 'failed'}")
                    self._tell(name, error)
        self._results[name] = result

    def _tell(self, name: str, error: Exception) -> None:
        """The whole text is for the log, once: /readyz is open to all, and it may name hosts and paths."""
        if self._results[name].status != "failed" or not self._checked.is_set():
            log.warning("not ready: %s: %s", name, error)
