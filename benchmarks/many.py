"""Two thousand sessions with open streams on one machine, two hundred of them at work."""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.figure import Figure, at_most, percentile, value
from benchmarks.stack import Stage, stage
from benchmarks.upstream import prompt

SESSIONS, WORKING, PERIOD_SECONDS, PERIODS = 2000, 200, 5.0, 8
AT_ONCE = 16  # sessions being created, streams being opened
TURN_SECONDS_MAX = 30.0


async def measure(runs: int) -> list[Figure]:
    """Once, whatever `runs` says: it takes a minute, and its turns are many."""
    async with stage() as at:
        return [await among(at, title="")]


async def among(at: Stage, *, title: str) -> Figure:
    """The figure on a running server; `title` says among what."""
    watched = await _watch(at)
    working = watched[:WORKING]
    async with httpx2.AsyncClient(
        base_url=at.server.url, headers={"x-api-key": at.server.api_key}, timeout=TURN_SECONDS_MAX
    ) as client:
        gaps = [number * PERIOD_SECONDS / WORKING for number in range(WORKING)]
        seconds = list(
            itertools.chain.from_iterable(
                await asyncio.gather(
                    *(_work(client, each, gap) for each, gap in zip(working, gaps, strict=True))
                )
            )
        )
        rss = sum(process.memory_info().rss for process in at.server.processes())
        lost = sum([await _lost(client, each) for each in working])
    stray = sum(len(each.seen) for each in watched[WORKING:])
    for each in watched:
        each.reading.cancel()
    await asyncio.gather(*(each.reading for each in watched), return_exceptions=True)
    return Figure(
        title=f"{SESSIONS} sessions with open streams, {WORKING} of them taking a turn every"
        f" {PERIOD_SECONDS:g} s{title}",
        values=[
            value("message sent → agent.message, p50", percentile(seconds, 50) * 1000, "ms"),
            value("p95", percentile(seconds, 95) * 1000, "ms", at_most(1500)),
            value("RSS of all processes", rss / 1e6, "MB", at_most(1000)),
            value("events lost or doubled, of all streams", lost + stray, "", at_most(0)),
            value("turns", len(seconds), ""),
        ],
    )


@dataclass(kw_only=True)
class _Watched:
    """A session and what its stream has shown: (id, processed_at) of each event, in order."""

    session_id: str
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    message: asyncio.Event = field(default_factory=asyncio.Event)
    reading: "asyncio.Task[None]" = field(init=False)


async def _watch(at: Stage) -> list[_Watched]:
    places = asyncio.Semaphore(AT_ONCE)
    address = urlsplit(at.server.url)

    async def one() -> _Watched:
        async with places:
            watched = _Watched(session_id=await at.session_id())
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            head = f"host: {address.netloc}\r\nx-api-key: {at.server.api_key}\r\n\r\n"
            path = f"/v1/sessions/{watched.session_id}/events/stream"
            writer.write(f"GET {path} HTTP/1.1\r\n{head}".encode())
            await reader.readuntil(b": connected")
            watched.reading = asyncio.create_task(_read(watched, reader, writer))
            return watched

    return list(await asyncio.gather(*(one() for _ in range(SESSIONS))))


async def _read(watched: _Watched, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            if line.startswith(b"data:"):
                data: dict[str, Any] = json.loads(line[5:])
                watched.seen.append((data["id"], data["processed_at"]))
                if data["type"] == "agent.message":
                    watched.message.set()
    finally:
        writer.close()


async def _work(client: httpx2.AsyncClient, watched: _Watched, gap_seconds: float) -> list[float]:
    """A turn every PERIOD_SECONDS: seconds from sending to the answer on the stream."""
    await asyncio.sleep(gap_seconds)
    content = [{"type": "text", "text": prompt("many")}]
    took = []
    for _ in range(PERIODS):
        sent = time.monotonic()
        watched.message.clear()
        async with asyncio.timeout(TURN_SECONDS_MAX):
            response = await client.post(
                f"/v1/sessions/{watched.session_id}/events",
                json={"events": [{"type": "user.message", "content": content}]},
            )
            response.raise_for_status()
            await watched.message.wait()
        took.append(time.monotonic() - sent)
        await asyncio.sleep(max(0.0, PERIOD_SECONDS - took[-1]))
    return took


async def _lost(client: httpx2.AsyncClient, watched: _Watched) -> int:
    """How many events of the log the stream has not shown exactly once, as processed."""
    logged: list[str] = []
    page: str | None = None
    while True:
        query = {"limit": "1000"} | ({"page": page} if page else {})
        answer = (await client.get(f"/v1/sessions/{watched.session_id}/events", params=query)).json()
        logged += [each["id"] for each in answer["data"]]
        page = answer["next_page"]
        if page is None:
            break
    shown: Sequence[str] = [event_id for event_id, processed_at in watched.seen if processed_at is not None]
    return len(set(logged) ^ set(shown)) + (len(shown) - len(set(shown))) + (shown != logged)
