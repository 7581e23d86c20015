"""From a message to the model request, for a session with a hundred thousand events that no brain knows."""

import asyncio
import statistics
import time

from benchmarks.figure import Figure, at_most, latency
from benchmarks.stack import Conversation, Stage, stage
from benchmarks.stored import lengthen, open_store
from benchmarks.upstream import prompt

EVENTS = 100_000
CALLS = 2  # tool calls of each turn in its past
ARRIVAL_SECONDS_MAX = 60.0


async def measure(runs: int) -> list[Figure]:
    async with stage() as at:
        return [await among(at, runs, title="")]


async def among(at: Stage, runs: int, *, title: str) -> Figure:
    """The figure on a running server; `title` says among what."""
    at.disk.sample(20)
    engine = open_store(f"sqlite:///{at.server.data_dir / 'corral.db'}")
    waits = []
    for run in range(runs):
        session_id = await at.session_id()
        async with Conversation(at, session_id=session_id) as conversation:
            await conversation.turn(prompt("past", calls=CALLS))
        await asyncio.to_thread(lengthen, engine, session_id, events_min=EVENTS)
        waits.append(await _wake(at, session_id, f"wake{run}"))
    engine.dispose()
    return Figure(
        title=f"a session of {EVENTS:,} events, message → model request{title}",
        values=[
            latency(
                f"median of {runs} sessions",
                statistics.median(waits),
                at_most(1500),
                commits=2,
                fsync_ms=at.disk.fsync_ms,
            ),
            latency("slowest", max(waits), commits=2, fsync_ms=at.disk.fsync_ms),
        ],
        notes=["the brain has folded nothing of it: its cached state was of the short session"],
    )


async def _wake(at: Stage, session_id: str, mark: str) -> float:
    sent = time.monotonic()
    await at.client.beta.sessions.events.send(
        session_id,
        events=[{"type": "user.message", "content": [{"type": "text", "text": prompt(mark)}]}],
    )
    async with asyncio.timeout(ARRIVAL_SECONDS_MAX):
        while not (arrivals := at.upstream.arrivals().get(mark)):  # noqa: ASYNC110  another process knows
            await asyncio.sleep(0.01)
    return arrivals[0] - sent
