"""Time to first token: a sandbox made when a tool needs it, against one made before the model is asked.

The other design is the same Corral with what it adds in front: a real cold start of a sandbox, of the kind
named, and only then the message. Both take turns within one run, each time with a new session whose
stream is open: a sample is from wanting to send the message to the first delta of text at the client.
"""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from benchmarks.figure import Figure, at_least, percentile, value
from benchmarks.packages import COMPILE, INSTALL, archive
from benchmarks.stack import Conversation, Stage, stage
from benchmarks.upstream import prompt
from corral.hands.ports import Sandbox
from corral.hands.providers.bwrap import BwrapProvider
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import Placement, Recipe, ToolCall

SAMPLES_PER_RUN = 2
MODEL_SECONDS = (0.0, 0.6)  # to its first token
RAW, REALISTIC = "bwrap sandbox", "bwrap sandbox and pip install"
BARS = {"p50": 60.0, "p95": 90.0}  # percent less; of the realistic cold start at 0 ms


async def measure(runs: int) -> list[Figure]:
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(stage())
        starts = await stack.enter_async_context(_cold_starts(at.server.data_dir))
        figures = []
        for model_seconds in MODEL_SECONDS:
            seconds: dict[str, list[float]] = {name: [] for name in ("", *starts)}
            text = prompt("first", seconds=model_seconds)
            await _first_token(at, text, None)  # the first turn of a server is of another kind
            for _ in range(runs * SAMPLES_PER_RUN):
                for name in seconds:
                    seconds[name].append(await _first_token(at, text, starts.get(name)))
                at.disk.sample()
            figures.append(_figure(model_seconds, seconds, at.disk.fsync_ms))
        return figures


async def _first_token(at: Stage, text: str, cold_start: "_ColdStart | None") -> float:
    async with (
        AsyncExitStack() as stack,
        Conversation(at, session_id=await at.session_id(), deltas=True) as conversation,
    ):
        began = time.monotonic()
        if cold_start is not None:
            sandbox = await cold_start()
            stack.push_async_callback(sandbox.destroy)
        for arrived, event in await conversation.turn(text):
            if event.type == "event_delta":
                return arrived - began
    raise RuntimeError("no text came while the model was answering")


_ColdStart = Callable[[], Awaitable[Sandbox]]


@asynccontextmanager
async def _cold_starts(data_dir: Path) -> AsyncIterator[dict[str, _ColdStart]]:
    """By name: make a sandbox that could take a first tool call."""
    with tempfile.TemporaryDirectory(prefix="coupled-", dir=data_dir) as name:
        provider = BwrapProvider(state_dir=Path(name), pool_size=0)
        async with aclosing(provider):
            raw, realistic = Path(name, "raw"), Path(name, "realistic")
            for workspace in (raw, realistic):
                await provider.prepare_workspace(workspace)
            await provider.import_archive(realistic, _pieces(archive()))

            async def start(workspace: Path, command: str) -> Sandbox:
                sandbox = await provider.create(
                    session_id=workspace.name, workspace=workspace, recipe=Recipe()
                )
                result = await sandbox.run(_bash(command))
                if result.is_error:
                    raise RuntimeError(f"the cold start failed: {result.content}")
                return sandbox

            await (await start(realistic, COMPILE)).destroy()
            yield {RAW: lambda: start(raw, "true"), REALISTIC: lambda: start(realistic, INSTALL)}
            await provider.remove_workspace(realistic)
            await provider.remove_workspace(raw)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _bash(command: str) -> ToolCall:
    return ToolCall(
        session_id=SessionId("sesn_coupled"),
        thread_id=ThreadId("sthr_coupled"),
        call_id=EventId("sevt_coupled"),
        name="bash",
        input={"command": command},
        recipe=Recipe(),
        placement=Placement(host_id="bench", journal_id="bench"),
    )


def _figure(model_seconds: float, seconds: dict[str, list[float]], fsync_ms: float) -> Figure:
    ours = seconds.pop("")
    values = [value(f"ours, {name}", of(ours) * 1000, "ms") for name, of in _MIDDLES.items()]
    for start, coupled in seconds.items():
        for name, of in _MIDDLES.items():
            bar = BARS[name] if start == REALISTIC and not model_seconds else None
            values += [
                value(f"after a {start}, {name}", of(coupled) * 1000, "ms"),
                value(
                    f"ours is shorter, {name}",
                    _percent_less(of, ours, coupled),
                    "%",
                    at_least(bar) if bar else None,
                ),
            ]
    return Figure(
        title=f"time to first token, model takes {model_seconds * 1000:g} ms, {len(ours)} samples each",
        values=values,
        fsync_ms=fsync_ms,
    )


_MIDDLES: dict[str, Callable[[list[float]], float]] = {
    "p50": statistics.median,
    "p95": lambda seconds: percentile(seconds, 95),
}


def _percent_less(of: Callable[[list[float]], float], ours: list[float], coupled: list[float]) -> float:
    return 100 * (1 - of(ours) / of(coupled))
