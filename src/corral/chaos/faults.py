"""Breaking things, one fault at a time per lane, and knowing when they have come up again."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from corral.chaos.cluster import Cluster
from corral.chaos.node import Node, StartFailed
from corral.chaos.schedule import DATABASE, Fault, process_of

__all__ = ["Faults", "paused"]

POINT_SECONDS: Final = 8.0  # for a process to pass a point; a heartbeat of leases is every 3.3 s
WORK_EVENTS: Final = 40  # shown by streams between "it serves" and the next blow
WORK_SECONDS_MAX: Final = 6.0  # on a slow machine, or while all sessions wait
STARTS_MAX, AGAIN_SECONDS = 4, 4.0  # what a service manager would do with a start that failed
_FILL_BYTES: Final = 16 * 1024 * 1024
# What makes a process pass a point that work alone does not lead to.
_PROVOKED: Final = {
    "store.claim.before": "kill", "store.claim.after": "kill",
    "brain.before_drain": "end", "brain.after_drain": "end", "hands.drain": "stop",
    "hands.evict": "evict", "restore.before": "evict", "restore.after": "evict",
}  # fmt: skip


class Faults:
    """Performs faults on a cluster and counts them. `failed` holds what should not have happened."""

    def __init__(
        self, cluster: Cluster, *, evict: Callable[[], Awaitable[None]], progress: Callable[[], int]
    ) -> None:
        self._cluster = cluster
        self._progress = progress
        self._evict = evict
        self.done: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.kills = 0
        self.failed: list[str] = []

    async def run(self, faults: Iterable[Fault], *, enough: asyncio.Event) -> None:
        """One lane, until there is `enough` or the list ends; what it breaks is mended first."""
        for fault in faults:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), fault.after)
            if enough.is_set():
                return
            await self.perform(fault)

    async def perform(self, fault: Fault) -> None:
        """Break it, and return when everything of its lane is up again."""
        self.done.append(fault)
        if fault.lane == DATABASE:
            await self._kill_database()
            self.counts[fault.kind] += 1
            return
        node = self._cluster.nodes[fault.lane]
        await self._must_serve(node)
        if await self._break(node, fault):
            self.counts[fault.kind] += 1
        await self._must_serve(node)
        if round(fault.after * 1000) % 4:  # else the next blow falls on what has hardly begun
            await self._some_work()

    async def mend(self) -> None:
        """Every node serves; those that do not are started. For when the faults are over."""
        for node in self._cluster.nodes.values():
            await self._must_serve(node)

    async def _some_work(self) -> None:
        """Until the sessions have got on a little: blows that fall on nothing prove nothing, and a session
        whose brains die one after another is backed off, so that it does less and less."""
        until = time.monotonic() + WORK_SECONDS_MAX
        enough = self._progress() + WORK_EVENTS
        while self._progress() < enough and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    # -- one node ----------------------------------------------------------------------------------------

    async def _break(self, node: Node, fault: Fault) -> bool:
        match fault.kind:
            case "crash-point":
                return await self._crash(node, fault.point)
            case "kill-server" | "kill-egress":
                return await self._kill(node, fault.kind.removeprefix("kill-"))
            case "kill-hands":
                with node.in_trouble():
                    return await self._kill(node, "hands")
            case "kill-all":
                self.kills += 1
                with node.in_trouble(is_silent=True):  # its hands work on
                    await node.kill_all()
                    await self._start(node)
            case "end-server":
                pid = await node.kill("server", signal.SIGTERM)
                await node.up("server", but=pid)
            case "end-all":
                with node.in_trouble():
                    await node.stop()
                    await self._start(node)
            case "pause-server" | "pause-hands":
                stopped = paused(node.processes().get(fault.kind.removeprefix("pause-")))
                with node.in_trouble(is_silent=True):
                    async with stopped:
                        await asyncio.sleep(fault.seconds)
            case "cut-connections":
                return fault.lane in self._cluster.proxies and bool(self._cluster.proxies[fault.lane].cut())
            case "freeze-connections":
                async with self._cluster.proxies[fault.lane].frozen():
                    await asyncio.sleep(fault.seconds)
            case "partition":
                assert self._cluster.network is not None
                with node.in_trouble():  # others may go on without it
                    async with self._cluster.network.pulled(node.name):
                        await asyncio.sleep(fault.seconds)
            case "lose-hints":
                async with _told(node, "bus.drop=0.8"):
                    await asyncio.sleep(fault.seconds)
            case "repeat-hints":
                async with _told(node, "bus.duplicate=0.8"):
                    await asyncio.sleep(fault.seconds)
            case "step-clock":
                async with _told(node, f"clock.step={'-' if int(fault.seconds * 100) % 2 else ''}180"):
                    await asyncio.sleep(fault.seconds)
            case "evict":
                await self._evict()
            case "fill-disk":
                await self._fill(node, fault.seconds)
            case _:
                raise AssertionError(fault.kind)
        return True

    async def _kill(self, node: Node, role: str) -> bool:
        pid = await node.kill(role)
        if pid is None:
            return False
        self.kills += 1
        if await node.up(role, but=pid) is None:
            self.failed.append(f"{node.name}: {role} was killed and did not come up again")
        return True

    async def _crash(self, node: Node, point: str) -> bool:
        """Whether a process died there."""
        role = process_of(point)
        pid = node.processes().get(role)
        provoked = _PROVOKED.get(point)
        armed_at = datetime.now(UTC)  # it may die long before we notice: what provokes it takes seconds
        node.crash_at(point)
        if provoked == "end":
            with contextlib.suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGTERM)
        elif provoked == "kill":
            # A session is claimed when the brain that ran it is gone: another, or this one before.
            others = [each for each in self._cluster.with_role("brain") if each is not node] or [node]
            victim = others[len(self.done) % len(others)]
            if await victim.kill("server") is not None:
                self.kills += 1
        elif provoked == "stop":
            with node.in_trouble():
                await node.stop()
                has_crashed = await node.has_crashed(seconds=0.0)
                await self._start(node)
            self.kills += has_crashed
            self.hits[point] += has_crashed
            return has_crashed
        elif provoked == "evict":
            await self._evict()
        if not await node.has_crashed(seconds=POINT_SECONDS):
            if provoked == "end":
                await node.up("server", but=pid)
            return False
        self.kills += 1
        self.hits[point] += 1
        with node.in_trouble(since=armed_at) if role == "hands" else contextlib.nullcontext():
            if await node.up(role, but=pid) is None:
                self.failed.append(f"{node.name}: {role} died at {point} and did not come up again")
        return True

    async def _fill(self, node: Node, seconds: float) -> None:
        """Until not a byte is free. Calls may not be started meanwhile."""
        filler = node.data_dir / "filler"
        with node.in_trouble():
            try:
                await asyncio.to_thread(_fill, filler)
                await asyncio.sleep(seconds)
            finally:
                filler.unlink(missing_ok=True)

    async def _start(self, node: Node) -> None:
        """As a service manager would: what does not come up, as while the database is away, again."""
        failure: StartFailed | None = None
        for _ in range(STARTS_MAX):
            try:
                await node.start()
                return
            except StartFailed as error:
                failure = error
                await node.kill_all()
                await asyncio.sleep(AGAIN_SECONDS)
        assert failure is not None
        self.failed.append(str(failure))
        raise failure

    async def _must_serve(self, node: Node) -> None:
        if node.supervisor_pid is None:
            self.failed.append(f"{node.name}: its supervisor ended by itself\n{node.log[-2000:]}")
            await self._start(node)
        began = time.monotonic()
        for role in node.expected():
            if await node.up(role) is None:
                seconds = time.monotonic() - began
                self.failed.append(f"{node.name}: {role} is not up after {seconds:.0f} s")

    async def _kill_database(self) -> None:
        postgres = self._cluster.postgres
        assert postgres is not None
        self.kills += 1
        with contextlib.ExitStack() as silent:
            for node in self._cluster.with_role("hands"):
                silent.enter_context(node.in_trouble(is_silent=True))
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.restart)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(_FILL_BYTES))


@asynccontextmanager
async def paused(pid: int | None) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT at the end, whatever becomes of it meanwhile."""
    if pid is None:
        yield
        return
    pidfd = os.pidfd_open(pid)  # so that it is this process that goes on, and no later one of that number
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


@asynccontextmanager
async def _told(node: Node, faults: str) -> AsyncIterator[None]:
    """Switch `kernel.faults` on in all processes of a node."""
    draft = node.faults_path.with_suffix(".new")
    draft.write_text(faults)
    draft.rename(node.faults_path)
    try:
        yield
    finally:
        node.faults_path.unlink(missing_ok=True)
