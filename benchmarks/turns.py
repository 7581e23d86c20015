"""One session, one turn at a time: how long until the model is asked, and until its answer is read."""

import statistics
import time

from benchmarks.figure import Figure, at_most, latency, percentile
from benchmarks.stack import Conversation, first, stage
from benchmarks.upstream import prompt

TURNS, WARM_UP_TURNS = 40, 5  # of each run; every run is a new session
CREATED = 40  # sessions made one after another, in each run
COMMITS_TO_CREATE = 1
COMMITS_TO_MODEL = 2  # the message is accepted; running and the request's start are logged
COMMITS_TO_MESSAGE = 3  # and the answer is


async def measure(runs: int) -> list[Figure]:
    to_model: list[list[float]] = []
    to_message: list[list[float]] = []
    async with stage() as at:
        for run in range(runs):
            sent: dict[str, float] = {}
            answered: dict[str, float] = {}
            async with Conversation(at, session_id=await at.session_id()) as conversation:
                for number in range(WARM_UP_TURNS + TURNS):
                    mark = f"r{run}n{number}"
                    sent[mark] = time.monotonic()
                    answered[mark] = first(await conversation.turn(prompt(mark)), "agent.message")
                    at.disk.sample()
            arrived = at.upstream.arrivals()
            marks = list(sent)[WARM_UP_TURNS:]
            to_model.append([arrived[mark][0] - sent[mark] for mark in marks])
            to_message.append([answered[mark] - sent[mark] for mark in marks])
        created: list[list[float]] = []
        for _ in range(runs):
            created.append([])
            for _ in range(CREATED):
                started = time.monotonic()
                await at.session_id()
                created[-1].append(time.monotonic() - started)
        fsync_ms = at.disk.fsync_ms
    return [
        _figure("session create", created, COMMITS_TO_CREATE, (None, None), fsync_ms),
        _figure(
            "POST user.message → model request received", to_model, COMMITS_TO_MODEL, (8, 20), fsync_ms
        ),
        _figure(
            "POST user.message → agent.message at the SSE client",
            to_message,
            COMMITS_TO_MESSAGE,
            (15, 30),
            fsync_ms,
        ),
    ]


def _figure(
    title: str,
    runs: list[list[float]],
    commits: int,
    bars: tuple[float | None, float | None],
    fsync_ms: float,
) -> Figure:
    values = [
        latency(
            f"p{percent}, median of {len(runs)} runs of {len(runs[0])}",
            statistics.median(percentile(run, percent) for run in runs),
            None if bar is None else at_most(bar),
            commits=commits,
            fsync_ms=fsync_ms,
        )
        for percent, bar in zip((50, 95), bars, strict=True)
    ]
    return Figure(title=title, values=values, fsync_ms=fsync_ms, commits=commits)
