"""Interrupt and kill: from asking for it to an idle session at the SSE client."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import httpx2

from benchmarks.figure import Figure, at_most, latency, percentile
from benchmarks.stack import Conversation, Stage, stage
from benchmarks.upstream import prompt
from corral.kernel.limits import CANCEL_GRACE_SECONDS

STOPS, WARM_UP = 5, 1  # of each kind in each run
SETTLE_SECONDS = 0.5  # for the session to be at it
COMMITS = 2  # the request is accepted; what it ended is logged

_LONG: Final = 120  # seconds, more than a turn here may take

AT: Final[dict[str, Callable[[str], str]]] = {  # by mark: what the session is told to be at
    "a silent model": partial(prompt, seconds=_LONG),
    "a command": partial(prompt, calls=1, command=f"sleep {_LONG}"),
    "a command that ignores signals": partial(
        prompt, calls=1, command="trap '' INT TERM HUP; while :; do sleep 1; done"
    ),
    "a command in a session of its own": partial(prompt, calls=1, command=f"setsid sleep {_LONG} & wait"),
}

_Stop = Callable[[str], Awaitable[object]]


async def measure(runs: int) -> list[Figure]:
    async with stage() as at:
        headers = {"x-api-key": at.server.api_key}
        async with httpx2.AsyncClient(base_url=at.server.url, headers=headers) as http:

            async def interrupt(session_id: str) -> object:
                return await at.client.beta.sessions.events.send(
                    session_id, events=[{"type": "user.interrupt"}]
                )

            async def kill(session_id: str) -> object:
                body = {"session_id": session_id, "reason": "measured"}
                return (await http.post("/corral/v1/kill", json=body)).raise_for_status()

            stops: dict[str, _Stop] = {"user.interrupt": interrupt, "POST /corral/v1/kill": kill}
            return [await _of(at, title, stop, runs) for title, stop in stops.items()]


async def _of(at: Stage, title: str, stop: _Stop, runs: int) -> Figure:
    seen: dict[str, list[list[float]]] = {name: [] for name in AT}
    for _ in range(runs):
        for name, order in AT.items():
            async with Conversation(at, session_id=await at.session_id()) as conversation:
                seconds = [
                    await _stopped(conversation, stop, order(f"n{number}"))
                    for number in range(WARM_UP + STOPS)
                ]
            seen[name].append(seconds[WARM_UP:])
            at.disk.sample()
    return Figure(
        title=f"{title} → idle at the SSE client, the session at",
        values=[
            latency(
                f"{name}, p{percent}",
                statistics.median(percentile(run, percent) for run in took),
                at_most(CANCEL_GRACE_SECONDS * 1000),
                commits=COMMITS,
                fsync_ms=at.disk.fsync_ms,
            )
            for name, took in seen.items()
            for percent in (50, 95)
        ],
        fsync_ms=at.disk.fsync_ms,
        commits=COMMITS,
    )


async def _stopped(conversation: Conversation, stop: _Stop, order: str) -> float:
    turn = asyncio.create_task(conversation.turn(order))
    await asyncio.sleep(SETTLE_SECONDS)
    if turn.done():
        raise RuntimeError(f"it ended by itself: {[event for _, event in turn.result()][-3:]}")
    asked = asyncio.get_running_loop().time()
    await stop(conversation.session_id)
    return (await turn)[-1][0] - asked
