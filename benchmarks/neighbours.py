"""What others notice of a sandbox that does its worst: a neighbour's calls, and turns without a sandbox."""

import asyncio
from typing import Final

from benchmarks.figure import Figure, Value, at_most, latency, percentile
from benchmarks.providers import at_work
from benchmarks.stack import Conversation, Stage, calls, first, stage
from benchmarks.upstream import prompt
from corral.hands.providers.choice import PROVIDERS, ProviderName

CALLS, TURNS, WARM_UP = 40, 20, 3  # beside each
SETTLE_SECONDS = 2.0  # for it to reach its bounds
COMMITS = 3  # of a call and of a turn alike
CALL_MS_MAX, MESSAGE_MS_MAX = 15, 15  # the bars of both on a quiet machine: `tools`, `turns`

_LONG: Final = "sleep 60"
HOSTILE: Final = {
    "nothing": "",
    "processes without end": f"bomb() {{ bomb | bomb & }}; bomb; {_LONG}",
    "32 busy loops": f"for _ in $(seq 32); do (while :; do :; done) & done; {_LONG}",
    "memory without end": "while :; do python3 -c 'x = []\nwhile True: x.append(bytes(1 << 20))'; done",
    "a disk that fills": "while :; do head -c 1G /dev/zero >full; rm -f full; done",
    "output without end": "yes $(head -c 1000 /dev/zero | tr '\\0' x)",
    "descriptors without end": "while :; do python3 -c 'import os\nwhile True: os.dup(0)' 2>&-; done",
    "all of /proc and /sys": "while :; do find /proc /sys -type f -exec head -c9 {} + >&-; done 2>&-",
}


async def measure(runs: int) -> list[Figure]:
    figures: list[Figure] = []
    for kind in PROVIDERS:
        async with at_work(kind) as (_, probe):
            pass
        if probe.is_available:
            figures += await _of(kind, runs)
    return figures


async def _of(kind: ProviderName, runs: int) -> list[Figure]:
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in HOSTILE}
    async with stage(settings={"CORRAL_SANDBOX": kind}) as at:
        for run in range(runs):
            for number, (name, command) in enumerate(HOSTILE.items()):
                called, answered = await _beside(at, command, f"r{run}n{number}")
                seen[name][0].extend(called)
                seen[name][1].extend(answered)
        fsync_ms = at.disk.fsync_ms
    return [
        _figure(f"{kind}: a neighbour's bash call beside a sandbox with", seen, 0, CALL_MS_MAX, fsync_ms),
        _figure(f"{kind}: POST user.message → agent.message beside it", seen, 1, MESSAGE_MS_MAX, fsync_ms),
    ]


async def _beside(at: Stage, command: str, mark: str) -> tuple[list[float], list[float]]:
    """Seconds of each call and of each turn."""
    hostile = await at.session_id()
    async with (
        Conversation(at, session_id=hostile) as worst,
        Conversation(at, session_id=await at.session_id()) as working,
        Conversation(at, session_id=await at.session_id()) as talking,
    ):
        await working.turn(prompt(f"{mark}w", calls=WARM_UP))
        running = asyncio.create_task(
            worst.turn(prompt(f"{mark}h", calls=1 if command else 0, command=command))
        )
        await asyncio.sleep(SETTLE_SECONDS)
        called = [seconds for seconds, _ in calls(await working.turn(prompt(f"{mark}c", calls=CALLS)))]
        answered = []
        for turn in range(TURNS):
            sent = asyncio.get_running_loop().time()
            answered.append(first(await talking.turn(prompt(f"{mark}t{turn}")), "agent.message") - sent)
            at.disk.sample()
        if command:
            if running.done():
                raise RuntimeError(f"it ended by itself: {[event for _, event in running.result()][-3:]}")
            await at.client.beta.sessions.events.send(hostile, events=[{"type": "user.interrupt"}])
        await running
    return called, answered


def _figure(
    title: str, seen: dict[str, tuple[list[float], list[float]]], which: int, bar: float, fsync_ms: float
) -> Figure:
    def shown(name: str, percent: int) -> Value:
        seconds = percentile(seen[name][which], percent)
        judged = at_most(bar) if percent == 50 else None
        return latency(f"{name}, p{percent}", seconds, judged, commits=COMMITS, fsync_ms=fsync_ms)

    return Figure(
        title=title,
        values=[shown(name, percent) for name in seen for percent in (50, 95)],
        fsync_ms=fsync_ms,
        commits=COMMITS,
    )
