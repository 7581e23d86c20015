"""From nothing to the ready line, and what all processes weigh when nobody asks for anything."""

import asyncio
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.figure import Figure, at_most, value
from benchmarks.stack import Server, cpu_seconds, durable_directory, server

QUIET_SECONDS = 4.0  # by then the self-checks are done and the warm sandbox waits
WEIGHED_MAX = 2  # RSS hardly varies
NOWHERE = "http://127.0.0.1:9"  # no model is asked


async def measure(runs: int) -> list[Figure]:
    fresh: list[float] = []
    again: list[float] = []
    cpu: list[float] = []
    weights: list[Mapping[str, float]] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as name:
            with server(model_url=NOWHERE, data_dir=Path(name)) as running:
                fresh.append(running.ready_seconds)
            with server(model_url=NOWHERE, data_dir=Path(name)) as running:
                again.append(running.ready_seconds)
                cpu.append(cpu_seconds(*running.processes()))
                if len(weights) < WEIGHED_MAX:
                    await asyncio.sleep(QUIET_SECONDS)
                    weights.append(_weigh(running))
    total = statistics.median(sum(weight.values()) for weight in weights)
    return [
        Figure(
            title="start to ready line, all processes",
            values=[
                value("on a new data directory", statistics.median(fresh), "s", at_most(2)),
                value("on one that exists", statistics.median(again), "s", at_most(2)),
                value("CPU of all processes by then", statistics.median(cpu), "s"),
            ],
        ),
        Figure(
            title="RSS, idle, shared pages counted in every process",
            values=[
                value("all processes", total, "MB", at_most(250)),
                *(
                    value(role, statistics.median(weight[role] for weight in weights), "MB")
                    for role in weights[0]
                ),
            ],
        ),
    ]


def _weigh(running: Server) -> Mapping[str, float]:
    """Megabytes by role; everything that is none of ours by name is the warm sandbox."""
    weight = dict.fromkeys(("supervisor", "server", "hands", "egress", "warm sandbox"), 0.0)
    for process in running.processes():
        last = process.cmdline()[-1:]
        role = "supervisor" if process.pid == running.pid else "".join(last)
        try:
            weight[role if role in weight else "warm sandbox"] += process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:  # a step of a self-check that has just ended
            continue
    return weight
