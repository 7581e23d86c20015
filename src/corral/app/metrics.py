"""`/metrics`: what `kernel.metrics` declares, as Prometheus reads it; the registry is our own."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import corral
from corral.app.ground import Ground
from corral.app.part import Part
from corral.app.readiness import Readiness
from corral.cluster.node import SeenNode
from corral.kernel.errors import StoreUnavailable
from corral.kernel.limits import METRICS_FRESH_SECONDS, METRICS_READ_SECONDS
from corral.kernel.metrics import INSTRUMENTS
from corral.orchestrator.node import NodeDuty
from corral.session.backlog import Backlog, BacklogStore

__all__ = ["Exposition", "OneCount", "PrometheusRecorder", "gauges_of"]

_PREFIX: Final = "corral_"
Labels = tuple[str, ...]
Gauges = dict[str, dict[Labels, float]]
"""By name; each value by its labels, in the order in which they are declared."""


class PrometheusRecorder:
    """`kernel.metrics.Recorder`. Every counter without labels is there from the start, as 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, each in INSTRUMENTS.items():
            if each.kind == "counter":
                self._counters[name] = Counter(_PREFIX + name, each.help, each.labels, registry=registry)
            elif each.kind == "histogram":
                self._histograms[name] = Histogram(
                    _PREFIX + name, each.help, buckets=each.buckets, registry=registry
                )

    def count(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def observe(self, name: str, seconds: float) -> None:
        self._histograms[name].observe(seconds)


class Exposition:
    """The text of `/metrics`. Whoever may ask may ask often: gauges are read once per
    METRICS_FRESH_SECONDS."""

    def __init__(
        self, gauges: Callable[[], Awaitable[Gauges]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = gauges
        self._monotonic = monotonic
        self._registry = CollectorRegistry(auto_describe=False)
        self.recorder = PrometheusRecorder(self._registry)
        self._gauges = _Gauges()
        self._registry.register(self._gauges)
        self._read_at = float("-inf")

    async def text(self) -> bytes:
        if self._monotonic() - self._read_at > METRICS_FRESH_SECONDS:
            self._read_at = self._monotonic()
            self._gauges.values = await self._read()
        return generate_latest(_Shown(self._registry))


class _Shown:
    """A registry without the moments at which its series began, which double the text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric


class _Gauges(Collector):
    def __init__(self) -> None:
        self.values: Gauges = {}

    def collect(self) -> Iterator[Metric]:
        for name, by_labels in self.values.items():
            each = INSTRUMENTS[name]
            family = GaugeMetricFamily(_PREFIX + name, each.help, labels=each.labels)
            for labels, value in by_labels.items():
                family.add_metric(labels, value)
            yield family


class OneCount:
    """Counts what the store has: once at a time, however many ask, and waited for METRICS_READ_SECONDS. So
    a store that is away holds up no scrape, and none piles up behind the one before."""

    def __init__(self, backlogs: BacklogStore) -> None:
        self._backlogs = backlogs
        self._counting: asyncio.Task[Backlog] | None = None

    async def __call__(self) -> Backlog | None:
        """None: the store is away, or has not answered yet."""
        counting = self._counting = self._counting or asyncio.create_task(self._count())
        await asyncio.wait([counting], timeout=METRICS_READ_SECONDS)
        if not counting.done():
            return None
        if self._counting is counting:
            self._counting = None
        with suppress(StoreUnavailable):
            return counting.result()
        return None

    async def _count(self) -> Backlog:
        return await self._backlogs.count()


def gauges_of(
    ground: Ground,
    node: NodeDuty,
    parts: Sequence[Part],
    readiness: Readiness,
    backlogs: BacklogStore,
) -> Callable[[], Awaitable[Gauges]]:
    """Reads every gauge that this node has. Without a store, those of the cluster are left out."""
    count = OneCount(backlogs)

    async def read() -> Gauges:
        config = ground.config
        if not config.is_postgres:
            await node.beat()
        gauges: Gauges = {
            "up": {(corral.__version__, ",".join(config.roles)): 1},
            "is_ready": {(): float(readiness.is_ready)},
            "is_draining": {(): float(node.is_draining)},
            "nodes": _by_state(node.seen()),
            "database_connections": {(k,): v for k, v in ground.database.connections.items()},
        }
        for part in parts:
            gauges |= {name: {(): value} for name, value in part.gauges().items()}
        own = next((each.node for each in node.seen() if each.node.owner == ground.owner), None)
        if own is not None and own.host is not None:
            gauges |= {
                "sandboxes": {(): own.host.sandboxes},
                "sandboxes_max": {(): own.host.capacity},
                "tool_calls_running": {(): own.host.calls},
            }
        if (backlog := await count()) is not None:  # else what this process knows is wanted all the more
            gauges |= _of_backlog(backlog)
        return gauges

    return read


def _by_state(nodes: Iterable[SeenNode]) -> dict[Labels, float]:
    counts: dict[Labels, float] = {("live",): 0, ("draining",): 0, ("lost",): 0}
    for each in nodes:
        state = "lost" if each.is_lost else "draining" if each.node.is_draining else "live"
        counts[(state,)] += 1
    return counts


def _of_backlog(backlog: Backlog) -> Gauges:
    values = {
        "sessions_needing_brain": backlog.needing,
        "sessions_waiting": backlog.waiting,
        "sessions_held_back": backlog.held_back,
        "oldest_wait_seconds": backlog.oldest_wait_seconds,
        "inbox_entries": backlog.inbox,
        "leases_held": sum(backlog.leases.values()),
        "leases_ended": backlog.leases_ended,
        "stalest_lease_seconds": backlog.stalest_lease_seconds,
    }
    return {name: {(): value} for name, value in values.items()}
