"""A hundred sessions at once, each created, streamed and driven by a thread of the official SDK."""

import asyncio
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from benchmarks.figure import Figure, at_least, at_most, latency, percentile, value
from benchmarks.stack import Stage, cpu_seconds, stage
from benchmarks.upstream import prompt

SESSIONS = 100
FSYNC_SAMPLES = 20  # before and after each run: not within it, where they would be load
COMMITS = 3  # message, request, answer; at a hundred sessions each is shared by many


async def measure(runs: int) -> list[Figure]:
    async with stage() as at:
        with _process("benchmarks.hundred_client") as client:
            order = _order(at)
            serving = [at.server.process(role) for role in ("server", "hands")]
            cpu_before = cpu_seconds(*serving)
            results = []
            for _ in range(runs):
                at.disk.sample(FSYNC_SAMPLES)
                results.append(await _ask(client, order))
                at.disk.sample(FSYNC_SAMPLES)
            fsync_ms = at.disk.fsync_ms
            cpu_ms_each = (cpu_seconds(*serving) - cpu_before) * 1000 / (runs * SESSIONS)
            recording = await asyncio.to_thread(_record, at)
            with _process("benchmarks.instant_mock") as mock:
                url = (await _ask(mock, recording, is_json=False)).strip()
                ceiling = [await _ask(client, order | {"url": url}) for _ in range(runs)]
    turns_per_second = statistics.median(_rate(result) for result in results)
    client_alone = statistics.median(_rate(result) for result in ceiling)
    return [
        Figure(
            title=f"{SESSIONS} sessions at once, one turn each, {SESSIONS} threads of the Python SDK",
            values=[
                value(
                    f"turns per second, median of {runs} runs", turns_per_second, "turns/s", at_least(120)
                ),
                _latency("turn", "p95, message sent → agent.message", results, fsync_ms, bar=700),
                _latency("whole", "p95, create → agent.message", results, fsync_ms),
                value("turns per second, slowest run", min(map(_rate, results)), "turns/s"),
                value("CPU of the server for each turn", cpu_ms_each, "ms"),
                value("the client alone, against an instant mock", client_alone, "turns/s"),
            ],
            fsync_ms=fsync_ms,
            commits=COMMITS,
        )
    ]


def _order(at: Stage) -> dict[str, Any]:
    return {
        "url": at.server.url,
        "api_key": at.server.api_key,
        "agent_id": at.agent_id,
        "environment_id": at.environment_id,
        "text": prompt("hundred"),
        "threads": SESSIONS,
    }


async def rate(at: Stage, runs: int) -> float:
    """Turns per second on a running server, median of `runs` after one to warm up."""
    with _process("benchmarks.hundred_client") as client:
        order = _order(at)
        results = [await _ask(client, order) for _ in range(runs + 1)]
    return statistics.median(_rate(result) for result in results[1:])


def _rate(result: dict[str, Any]) -> float:
    return SESSIONS / float(result["seconds"])


def _latency(
    key: str, name: str, results: list[dict[str, Any]], fsync_ms: float, bar: float | None = None
) -> Any:
    seconds = statistics.median(percentile(result[key], 95) for result in results)
    return latency(name, seconds, at_most(bar) if bar else None, commits=COMMITS, fsync_ms=fsync_ms)


@contextlib.contextmanager
def _process(module: str) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _ask(process: "subprocess.Popen[str]", order: dict[str, Any], *, is_json: bool = True) -> Any:
    def ask() -> str:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return process.stdout.readline()

    line = await asyncio.to_thread(ask)
    if not line:
        raise SystemExit("the client process failed; its reason is above")
    return json.loads(line) if is_json else line


def _record(at: Stage) -> dict[str, str]:
    """One turn as bytes: what the mock repeats, so that the client parses the same."""
    headers = {"x-api-key": at.server.api_key, "content-type": "application/json"}

    def connection() -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(at.server.url).netloc, timeout=10)

    def post(path: str, body: dict[str, object]) -> str:
        with contextlib.closing(connection()) as http_connection:
            http_connection.request("POST", path, json.dumps(body), headers)
            return http_connection.getresponse().read().decode()

    session = post("/v1/sessions", {"agent": at.agent_id, "environment_id": at.environment_id})
    events = f"/v1/sessions/{json.loads(session)['id']}/events"
    with contextlib.closing(connection()) as streaming:
        streaming.request("GET", f"{events}/stream", headers=headers)
        stream = streaming.getresponse()
        content = [{"type": "text", "text": prompt("recorded")}]
        sent = post(events, {"events": [{"type": "user.message", "content": content}]})
        lines: list[bytes] = []
        while not lines or b"session.status_idle" not in lines[-1]:
            lines.append(stream.readline())
    frames = b"".join([*lines, b"\n"]).decode()
    return {"session": session, "sent": sent, "frames": frames}
