"""Instruments: what `/metrics` counts and times, declared once. Where something happens, one line says so:

    count("model_requests", outcome="ok")
    observe("append_seconds", seconds)

A process that shows metrics installs a recorder; without one an instrument costs one comparison. They
carry counts and durations, never an id: whoever may look at `/metrics` learns nothing about a session.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

__all__ = ["INSTRUMENTS", "Instrument", "Recorder", "count", "install", "observe"]

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Instrument:
    """counter: only grows, in this process. histogram: seconds, in these buckets. gauge: read when asked.

    labels: their names, each with few values.
    """

    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    # this process
    "events_appended": Instrument("counter", "events that this process has put into logs"),
    "append_seconds": Instrument("histogram", "a brain's append, until it is durable", buckets=_FAST),
    "appends_refused": Instrument(
        "counter", "appends that wrote nothing: stale (decided again), or fenced", ("reason",)
    ),
    "leases_lost": Instrument("counter", "leases that ended while a brain held them"),
    "repairs": Instrument("counter", "rows that the deep sweep has repaired, by kind", ("kind",)),
    "loops_failed": Instrument("counter", "brain loops that ended with a bug of ours"),
    "model_requests": Instrument("counter", "requests to models: ok, or how they failed", ("outcome",)),
    "model_seconds": Instrument("histogram", "a model request, to the end of its reply", buckets=_SLOW),
    "tool_calls": Instrument("counter", "tool calls that were answered: ok or error", ("outcome",)),
    "tool_seconds": Instrument(
        "histogram", "a tool call as the brain sees it, attached ones included", buckets=_SLOW
    ),
    "turn_seconds": Instrument(
        "histogram", "a session at work in this process, from its start to its rest", buckets=_SLOW
    ),
    "bus_messages": Instrument("counter", "notifications sent and received, and hints dropped", ("fate",)),
    "egress_requests": Instrument(
        "counter", "requests of sandboxes and to MCP servers: allowed or denied", ("decision",)
    ),
    "http_requests": Instrument("counter", "answers, by class of status (2xx, 4xx, 529, 5xx)", ("status",)),
    # read when asked: this process
    "up": Instrument("gauge", "1, with what runs: version and roles", ("version", "roles")),
    "is_ready": Instrument("gauge", "1 when no readiness check fails"),
    "is_draining": Instrument("gauge", "1 while this node hands over and takes nothing new"),
    "sessions_running": Instrument("gauge", "sessions that a brain of this process works on"),
    "streams_open": Instrument("gauge", "event streams that clients have open here"),
    "sandboxes": Instrument("gauge", "live sandboxes of this node's hands"),
    "sandboxes_max": Instrument("gauge", "sandboxes that they may have"),
    "tool_calls_running": Instrument("gauge", "tool calls that run on this node's hands"),
    "egress_doors": Instrument("gauge", "sandboxes that this node's egress process lets out"),
    "egress_connections": Instrument("gauge", "connections that they have open through it"),
    "egress_audit_bytes": Instrument("gauge", "written down there, and not in the store yet"),
    "disk_free_bytes": Instrument("gauge", "free space of the data directory"),
    "database_connections": Instrument("gauge", "connections of this process in use", ("pool",)),
    # read when asked: the whole cluster, the same on every node
    "nodes": Instrument("gauge", "nodes that are heard of: live, draining or lost", ("state",)),
    "sessions_needing_brain": Instrument(
        "gauge", "sessions with work for a brain, whether or not one is at it"
    ),
    "sessions_waiting": Instrument("gauge", "those of them that nobody works on"),
    "sessions_held_back": Instrument("gauge", "sessions that wait because their brains failed"),
    "oldest_wait_seconds": Instrument("gauge", "how long the longest waiting session has waited"),
    "inbox_entries": Instrument("gauge", "accepted inputs that no brain has taken yet"),
    "leases_held": Instrument("gauge", "live leases"),
    "leases_ended": Instrument("gauge", "leases past their time that nobody has taken over"),
    "stalest_lease_seconds": Instrument("gauge", "since the least recent grant or renewal of a live lease"),
}
"""Names without prefix and suffix: `/metrics` shows `corral_model_requests_total`."""


class Recorder(Protocol):
    """Where counts and durations go; called from any thread."""

    def count(self, name: str, amount: float, labels: Mapping[str, str]) -> None: ...

    def observe(self, name: str, seconds: float) -> None: ...


_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """From now on this process records there; None: nowhere."""
    global _recorder
    _recorder = recorder


def count(name: str, amount: float = 1, /, **labels: str) -> None:
    """It happened, so often. The labels are those that the instrument declares."""
    if _recorder is not None:
        _recorder.count(name, amount, labels)


def observe(name: str, seconds: float, /) -> None:
    """It took so long."""
    if _recorder is not None:
        _recorder.observe(name, seconds)
