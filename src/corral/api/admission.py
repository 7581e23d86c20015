"""Whether this process takes more, decided before memory or disk is exhausted. The answer else is 529.

Two bounds on requests (how many at once, how many bytes of bodies), and a look at the machine every
ADMISSION_SECONDS: while it is short of something, no new work begins, and everything that reads, stops or
removes work goes on. It recovers by itself. Source: docs/DIVERGENCES.md.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from starlette.types import Scope

from corral.kernel.errors import Overloaded
from corral.kernel.limits import (
    ADMISSION_SECONDS,
    BODIES_BYTES_MAX,
    DISK_FREE_BYTES_MIN,
    MEMORY_FREE_BYTES_MIN,
    REQUESTS_IN_FLIGHT_MAX,
    WRITES_QUEUED_ADMITTED_MAX,
)

__all__ = ["Admission", "Inflow", "Machine", "memory_free_bytes", "starts_work"]

_log = logging.getLogger(__name__)
_CGROUPS = (  # version 2, then 1: the limit, what is used, and which part of it is only cache
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


class Inflow:
    """The body of one request, as far as it has come."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.bytes = 0

    def take(self, count: int) -> None:
        """More of it has come. Raises Overloaded."""
        self.bytes += count
        self._admission.bodies_bytes += count
        if self._admission.bodies_bytes > BODIES_BYTES_MAX:
            raise Overloaded("This server is reading as many request bodies as it can hold. Try again.")


class Machine:
    """What a process needs of its machine. `data_dir`: None if nothing that grows is kept there."""

    def __init__(self, *, data_dir: Path | None, writes_queued: Callable[[], int] = lambda: 0) -> None:
        self._data_dir = data_dir
        self._writes_queued = writes_queued

    def shortage(self) -> str | None:
        """What there is too little of, in words for a client; None if there is enough."""
        if self._data_dir is not None:
            free = shutil.disk_usage(self._data_dir).free
            if free < DISK_FREE_BYTES_MIN:
                return f"only {free >> 20} MiB of disk are free where it keeps its data"
        free = memory_free_bytes()
        if free < MEMORY_FREE_BYTES_MIN:
            return f"only {free >> 20} MiB of memory are free"
        queued = self._writes_queued()
        if queued > WRITES_QUEUED_ADMITTED_MAX:
            return f"{queued} writes are waiting for its store"
        return None


class Admission:
    """`watch` runs beside the API; without it only the bounds on requests hold."""

    def __init__(self, machine: Machine | None = None) -> None:
        self._machine = machine
        self.requests = 0
        self.bodies_bytes = 0
        self.shortage: str | None = None
        self.refused = 0
        """Requests that got 529 from here."""

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Inflow]:
        """One request, while it lasts. Event streams have bounds of their own. Raises Overloaded."""
        is_counted = scope["method"] != "GET" or not scope["path"].endswith("/stream")
        if is_counted and self.requests >= REQUESTS_IN_FLIGHT_MAX:
            self.refused += 1
            raise Overloaded(f"This server is answering {REQUESTS_IN_FLIGHT_MAX} requests. Try again.")
        inflow = Inflow(self)
        self.requests += is_counted
        try:
            yield inflow
        finally:
            self.requests -= is_counted
            self.bodies_bytes -= inflow.bytes

    def check_new_work(self) -> None:
        """Raises Overloaded while the machine is short of something."""
        if self.shortage is not None:
            self.refused += 1
            raise Overloaded(
                f"This server takes no new work now: {self.shortage}. Reading, interrupting, archiving and"
                " deleting still work. Try again later."
            )

    async def watch(self) -> None:
        """Look at the machine, until cancelled."""
        assert self._machine is not None
        while True:
            shortage = self._machine.shortage()
            if (shortage is None) != (self.shortage is None):
                _log.warning("new work is %s", f"refused: {shortage}" if shortage else "taken again")
            self.shortage = shortage
            await asyncio.sleep(ADMISSION_SECONDS)


def starts_work(scope: Scope) -> bool:
    """Whether the request may fill memory or disk. Sends of events say so themselves: interrupts do not."""
    path: str = scope["path"]
    if scope["method"] in ("GET", "HEAD", "DELETE", "OPTIONS"):
        return False
    if path.startswith("/corral/"):
        return path.endswith("/workspace") or path == "/corral/v1/skills"
    if path.startswith("/v1/environments/") and path.endswith(("/ack", "/heartbeat", "/stop")):
        return False  # it keeps or ends work that there is
    return not path.endswith(("/archive", "/events", "/redact"))


def memory_free_bytes() -> int:
    """What may still be used: of the machine, or of our control group if that is less."""
    free = int(psutil.virtual_memory().available)
    for limit_file, used_file, stat_file in _CGROUPS:
        with suppress(OSError, ValueError):  # no such group, or `max`: no limit
            limit = int(Path(limit_file).read_text())
            used = int(Path(used_file).read_text())
            stat = dict(line.split() for line in Path(stat_file).read_text().splitlines())
            free = min(free, limit - used + int(stat.get("inactive_file", 0)))
            break
    return free
