"""A call of an MCP server's tool: through the hands host, as a brain makes it, against the SDK alone."""

import asyncio
import contextlib
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

from mcp import Client

from benchmarks.figure import Figure, at_most, latency, percentile, value
from benchmarks.stack import stage
from corral.catalog.mcp.servers import McpCall, McpServer
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import Recipe, ToolCall

CALLS, WARM_UP_CALLS = 200, 10  # of each run, one after another
COMMITS = 2  # the call's start and its result in the journal of the hands


async def measure(runs: int) -> list[Figure]:
    raw: list[list[float]] = []
    ours: list[list[float]] = []
    with _server() as url:
        settings = {"CORRAL_MCP_PRIVATE_HOSTS": url.removeprefix("http://").removesuffix("/mcp")}
        async with (
            stage(settings=settings) as at,
            contextlib.aclosing(at.server.hands()) as hands,
            Client(url) as client,
        ):
            session_id = SessionId(await at.session_id())
            placement = await hands.placement(session_id)
            server = McpServer(name="bench", url=url)

            async def call_sdk() -> None:
                await client.call_tool("echo", {"text": "hello"})

            async def call_host() -> None:
                call = ToolCall(
                    session_id=session_id,
                    thread_id=ThreadId("sthr_bench"),
                    call_id=EventId(f"sevt_{secrets.token_hex(8)}"),
                    name="mcp__bench__echo",
                    input={"text": "hello"},
                    recipe=Recipe(),
                    placement=placement,
                    mcp=McpCall(server=server, tool="echo"),
                )
                result = await hands.execute(call, epoch=1)
                assert result.content[0]["text"] == "hello", result
                await hands.settle(session_id, call_ids=[call.call_id])

            for _ in range(runs):
                raw.append(await _timed(call_sdk))
                ours.append(await _timed(call_host))
                at.disk.sample(CALLS)
            fsync_ms = at.disk.fsync_ms
    median = statistics.median(percentile(run, 50) for run in raw) * 1000
    overhead = statistics.median(
        percentile(mine, 50) - percentile(bare, 50) for mine, bare in zip(ours, raw, strict=True)
    )
    return [
        Figure(
            title="a call of an MCP server's tool, beyond what the SDK alone takes",
            values=[
                latency(
                    f"p50, {runs} runs of {CALLS}",
                    overhead,
                    at_most(10),
                    commits=COMMITS,
                    fsync_ms=fsync_ms,
                ),
                value("p50 of the SDK alone", median, "ms"),
            ],
            fsync_ms=fsync_ms,
            commits=COMMITS,
        )
    ]


async def _timed(call: Callable[[], Awaitable[None]]) -> list[float]:
    seconds = []
    for _ in range(WARM_UP_CALLS + CALLS):
        began = time.monotonic()
        await call()
        seconds.append(time.monotonic() - began)
        await asyncio.sleep(0)
    return seconds[WARM_UP_CALLS:]


@contextlib.contextmanager
def _server() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.mcp_server"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://localhost:{int(process.stdout.readline())}/mcp"
    finally:
        process.terminate()
        process.communicate()
