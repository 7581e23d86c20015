"""The made-up model as a process of its own: it answers at once and knows when each request arrived.

    python -m benchmarks.upstream

prints its base URL, then answers every line on standard input with one line of JSON: the arrival times
since the last question, by mark. What it does with a conversation stands in the newest user message:

    bench:MARK:CALLS:SECONDS:COMMAND    CALLS bash calls of COMMAND (as hex) one after another, then a text;
                                        SECONDS before each answer
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Answer, HttpError, Reply

MODEL = "claude-sonnet-4-5"
COMMAND = "echo kept >kept; echo hi"  # leaves a file, so that the workspace is not empty afterwards
_ORDER = re.compile(rb"bench:(\w+):(\d+):([\d.]+):([0-9a-f]*)")
_DONE = Reply.text("Done. " * 8)


def prompt(mark: str, *, calls: int = 0, seconds: float = 0.0, command: str = COMMAND) -> str:
    return f"bench:{mark}:{calls}:{seconds:g}:{command.encode().hex()}"


class _Script:
    def __init__(self) -> None:
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self._slow: dict[float, Reply] = {}

    def __call__(self, request: Request) -> Answer:
        at = request.body.rfind(b"bench:")
        order = _ORDER.match(request.body, max(at, 0))
        if order is None:
            return HttpError(status=400, message="no order in this prompt: see benchmarks/upstream.py")
        mark, calls, seconds = order[1].decode(), int(order[2]), float(order[3])
        self.arrivals[mark].append(request.arrived_at)
        answered = request.body.count(b'"tool_result"', at)
        if answered < calls:
            command = bytes.fromhex(order[4].decode()).decode()
            return Reply.tools((f"toolu_{mark}_{answered}", "bash", {"command": command}))
        if not seconds:
            return _DONE
        return self._slow.setdefault(seconds, Reply(content=_DONE.content, first_seconds=seconds))


async def _serve() -> None:
    script = _Script()
    async with MessagesApi(script) as api:
        print(api.url, flush=True)
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():  # end of file: whoever asked is gone
            print(json.dumps(script.arrivals), flush=True)
            script.arrivals.clear()


class Upstream:
    """The process, for the one who started it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process = process
        self.url = url

    def arrivals(self) -> dict[str, list[float]]:
        """CLOCK_MONOTONIC of each request since the last question, by the mark of its prompt."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.upstream"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us; the end of its input ends it
    )
    try:
        assert process.stdout
        yield Upstream(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
