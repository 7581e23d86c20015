"""A bash call: from the tool use, as the client sees it, to its result. Warm, from the pool, and cold."""

import asyncio
import contextlib
import statistics

from benchmarks.figure import Figure, at_most, latency, percentile
from benchmarks.stack import Conversation, Stage, calls, stage
from benchmarks.upstream import prompt
from corral.kernel.ids import SessionId

CALLS, WARM_UP_CALLS = 30, 2  # of each run: one turn with that many calls, one after another
COLD_CALLS = 6  # of each run: each a session of its own
POOL_SECONDS = 0.3  # for the pool to be full again, and the machine quiet
COMMITS = 3  # the call's start and its result in the journal of the hands, the result in the log


async def measure(runs: int) -> list[Figure]:
    warm: list[list[tuple[float, float]]] = []
    pooled: list[list[tuple[float, float]]] = []
    cold: list[list[tuple[float, float]]] = []
    async with stage() as at, contextlib.aclosing(at.server.hands()) as hands:
        for run in range(runs):
            warm.append(await _warm(at, f"w{run}"))
            pooled.append([])
            cold.append([])
            for number in range(COLD_CALLS):
                session_id = await at.session_id()
                async with Conversation(at, session_id=session_id) as conversation:
                    await asyncio.sleep(POOL_SECONDS)
                    pooled[-1] += calls(await conversation.turn(prompt(f"p{run}n{number}", calls=1)))
                    # The sandbox goes, the workspace and its file stay: the pool cannot serve that one.
                    await hands.release(SessionId(session_id), delete_workspace=False)
                    await asyncio.sleep(POOL_SECONDS)
                    cold[-1] += calls(await conversation.turn(prompt(f"c{run}n{number}", calls=1)))
                    at.disk.sample(4)
        fsync_ms = at.disk.fsync_ms
    return [
        _figure("bash call, warm sandbox: tool_use → tool_result", warm, fsync_ms, bar=15),
        _figure("bash call, first of a session, sandbox from the warm pool", pooled, fsync_ms, bar=120),
        _figure("bash call, cold sandbox (no warm one can serve it)", cold, fsync_ms, bar=120),
    ]


async def _warm(at: Stage, mark: str) -> list[tuple[float, float]]:
    async with Conversation(at, session_id=await at.session_id()) as conversation:
        turn = await conversation.turn(prompt(mark, calls=WARM_UP_CALLS + CALLS))
    at.disk.sample(CALLS)
    return calls(turn)[WARM_UP_CALLS:]


def _figure(title: str, runs: list[list[tuple[float, float]]], fsync_ms: float, *, bar: float) -> Figure:
    def median(which: int, percent: float) -> float:
        return statistics.median(percentile([call[which] for call in run], percent) for run in runs)

    count = f"{len(runs)} runs of {len(runs[0])}"
    return Figure(
        title=title,
        values=[
            latency(
                f"p50 at the client, {count}",
                median(0, 50),
                at_most(bar),
                commits=COMMITS,
                fsync_ms=fsync_ms,
            ),
            latency("p95 at the client", median(0, 95), commits=COMMITS, fsync_ms=fsync_ms),
            latency("p50 by processed_at", median(1, 50), commits=COMMITS, fsync_ms=fsync_ms),
        ],
        fsync_ms=fsync_ms,
        commits=COMMITS,
    )
