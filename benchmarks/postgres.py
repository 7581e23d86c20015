"""PostgreSQL against SQLite in one run: a hundred sessions at once, and events that cross nodes."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2

from benchmarks import hundred
from benchmarks.figure import Figure, at_least, at_most, latency, percentile, value
from benchmarks.stack import Stage, stage
from corral.testing.postgres import Postgres, missing

ALL = ("api", "brain", "hands", "egress")
MODEL_WITH_SYSTEM_MESSAGES = "claude-opus-5-5"
CROSSINGS, WARM_UP = 300, 20
SECONDS_MAX = 30.0


async def measure(runs: int) -> list[Figure]:
    if reason := missing():
        return [Figure(title="PostgreSQL", values=[], notes=[f"not measured: {reason}"])]
    with Postgres.start() as postgres:
        rates = []
        for database_url, nodes in (
            (None, ((),)),
            (postgres.fresh_database(), (ALL,)),
            (postgres.fresh_database(), (ALL, ("brain",))),
        ):
            async with stage(database_url=database_url, nodes=nodes) as at:
                rates.append(await hundred.rate(at, runs))
        sqlite, one, two = rates
        figures = [
            Figure(
                title="100 sessions at once, one turn each, PostgreSQL on this machine against SQLite",
                values=[
                    value("SQLite", sqlite, "turns/s"),
                    value("PostgreSQL, 1 brain process", one, "turns/s"),
                    value("of SQLite", 100 * one / sqlite, "%", at_least(60)),
                    value("PostgreSQL, 2 brain processes", two, "turns/s"),
                    value("of SQLite", 100 * two / sqlite, "%", at_least(60)),
                ],
                notes=["database, nodes, model and client share the machine's cores"],
            )
        ]
        url = postgres.fresh_database()
        async with stage(database_url=url, nodes=(("api", "brain", "hands", "egress"), ("api",))) as at:
            figures.append(await crossing(at, title=""))
    return figures


async def crossing(at: Stage, *, title: str) -> Figure:
    """From sending an event to node A (before its append) to its echo on a stream of node B."""
    agent = await at.client.beta.agents.create(name="crossing", model=MODEL_WITH_SYSTEM_MESSAGES)
    session = await at.client.beta.sessions.create(agent=agent.id, environment_id=at.environment_id)
    session_id = session.id
    async with (
        _stream(at.others[0].url, at.server.api_key, session_id) as events,
        httpx2.AsyncClient(
            base_url=at.server.url, headers={"x-api-key": at.server.api_key}, timeout=SECONDS_MAX
        ) as client,
    ):
        seconds = [await _cross(client, session_id, events) for _ in range(WARM_UP + CROSSINGS)][WARM_UP:]
    at.disk.sample(20)
    return Figure(
        title=f"an event appended by node A → an SSE client of node B, {CROSSINGS} events{title}",
        values=[
            latency("p50", percentile(seconds, 50), at_most(10), commits=1, fsync_ms=at.disk.fsync_ms),
            latency("p95", percentile(seconds, 95), at_most(40), commits=1, fsync_ms=at.disk.fsync_ms),
            value("mean", statistics.mean(seconds) * 1000, "ms"),
        ],
        fsync_ms=at.disk.fsync_ms,
        commits=1,
        notes=["counted from the client's POST, so the request and its commit are in it"],
    )


async def _cross(
    client: httpx2.AsyncClient, session_id: str, events: "asyncio.Queue[tuple[float, str]]"
) -> float:
    # A system message asks for no brain: it is accepted, stored and echoed, and that is all.
    body = {"events": [{"type": "system.message", "content": [{"type": "text", "text": "x"}]}]}
    sent = time.monotonic()
    response = await client.post(f"/v1/sessions/{session_id}/events", json=body)
    response.raise_for_status()
    event_id = response.json()["data"][0]["id"]
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            at, seen_id = await events.get()
            if seen_id == event_id:
                return at - sent


@contextlib.asynccontextmanager
async def _stream(
    url: str, api_key: str, session_id: str
) -> "AsyncIterator[asyncio.Queue[tuple[float, str]]]":
    """(when, event id) of what a stream shows."""
    address, events = urlsplit(url), asyncio.Queue[tuple[float, str]]()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"host: {address.netloc}\r\nx-api-key: {api_key}\r\n\r\n"
    writer.write(f"GET /v1/sessions/{session_id}/events/stream HTTP/1.1\r\n{head}".encode())
    await reader.readuntil(b": connected")

    async def read() -> None:
        while line := await reader.readline():
            if line.startswith(b"data:"):
                events.put_nowait((time.monotonic(), json.loads(line[5:])["id"]))

    reading = asyncio.create_task(read())
    try:
        yield events
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()
