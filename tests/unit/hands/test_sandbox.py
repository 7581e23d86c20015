"""The host's side against hostile insides: real processes that speak the protocol badly."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from corral.hands.ports import SandboxLost
from corral.hands.sandbox import AgentSandbox, start_message
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall

PRELUDE = """
import json, os, struct, sys, time
def send(body): os.write(1, struct.pack(">I", len(body)) + body)
def say(**m): send(json.dumps(m).encode())
def hear():
    n = struct.unpack(">I", sys.stdin.buffer.read(4))[0]
    return json.loads(sys.stdin.buffer.read(n))
hear(); say(op="ready"); run = hear()
def result(**m): say(**{"op": "result", "id": run["id"], "content": [{"type": "text", "text": "x"}],
                        "is_error": False, **m})
"""
START = start_message(env={"PATH": "/bin"}, workdir="/", roots=[], spill="/")


class PlainProcess:
    """A machine without walls: what it runs is part of the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin and process.stdout
        self.writer, self.reader, self.process = process.stdin, process.stdout, process

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        self.kill()
        self.writer.close()
        for stream in (self.reader, self.process.stderr):
            while await stream.read(1 << 16):
                pass
        await self.process.wait()


def call(call_id: str = "sevt_1", **fields: object) -> ToolCall:
    return ToolCall(
        session_id=SessionId("sesn_1"),
        thread_id=ThreadId("sthr_1"),
        call_id=EventId(call_id),
        name="bash",
        input={"command": "x", **fields},
        recipe=Recipe(),
        placement=Placement(host_id="h", journal_id="j"),
    )


@pytest.fixture
async def boot() -> AsyncIterator[Callable[..., object]]:
    boxes: list[AgentSandbox] = []

    async def boot(program: str, *, prelude: str = PRELUDE) -> AgentSandbox:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            prelude + program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        box = AgentSandbox(PlainProcess(process))
        boxes.append(box)
        await box.start(START)
        return box

    yield boot
    await asyncio.gather(*(box.destroy() for box in boxes))


async def test_a_good_one_answers(boot) -> None:
    box = await boot("result(); hear()")
    assert (await box.run(call())).content == ({"type": "text", "text": "x"},)


@pytest.mark.parametrize(
    "program",
    [
        "os.write(1, b'\\xff\\xff\\xff\\xff' + b'x' * 9)",
        "os.write(1, struct.pack('>I', 1 << 26)); time.sleep(60)",
        "send(b'not json')",
        "send(b'[' * 100000)",
        "send(b'[]')",
        "send(b'')",
        "send(b'\\xff\\xfe')",
        "say(op='result', id='sevt_9', content=[], is_error=False)",
        "say(op='hello', id=run['id'])",
        "say(op='result', id=[1], content=[], is_error=False)",
        "result(content=[])",
        "result(content='x')",
        "result(content=[{'type': 'text', 'text': 3}])",
        "result(content=[{'type': 'thinking', 'thinking': 'x'}])",
        "result(content=[{'type': 'image', 'source': {'media_type': 'text/html', 'data': ''}}])",
        "result(content=[{'type': 'text', 'text': 'x'}] * 3)",
        "result(is_error=1)",
        "result(is_error=None)",
        "sys.exit()",
        "os.close(1); os.close(2); time.sleep(60)",
        "os.write(1, struct.pack('>I', 100) + b'half')",
    ],
)
async def test_a_broken_protocol_is_a_loss(boot, program: str) -> None:
    box = await boot(program)
    async with asyncio.timeout(60):
        with pytest.raises(SandboxLost):
            await box.run(call())
    assert not box.is_alive
    with pytest.raises(SandboxLost):
        await box.run(call("sevt_2"))
    await box.destroy()


async def test_an_oversized_input_is_an_error_result(boot) -> None:
    box = await boot("result(); hear()")
    result = await box.run(call(command="x" * (17 << 20)))
    assert result.is_error and "exceeds" in result.content[0]["text"]
    assert box.is_alive


async def test_a_second_result_is_a_loss(boot) -> None:
    box = await boot("result(); result(); hear()")
    await box.run(call())
    with pytest.raises(SandboxLost):
        await box.run(call("sevt_2"))


async def test_an_endless_stream_uses_no_memory(boot) -> None:
    """Results without a request: refused at the first, the rest is never read into memory."""
    box = await boot("result()\nwhile True: os.write(1, b'x' * 65536)")
    before = psutil.Process().memory_info().rss
    await box.run(call())
    with pytest.raises(SandboxLost):
        await box.run(call("sevt_2"))
    assert psutil.Process().memory_info().rss - before < 20 << 20


@pytest.mark.parametrize("program", ["time.sleep(60)", "os.write(1, b'\\0'); time.sleep(60)"])
async def test_silence_is_a_loss(boot, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.kernel.limits.SANDBOX_ANSWER_SECONDS", 0.2)
    box = await boot(program)
    async with asyncio.timeout(60):
        with pytest.raises(SandboxLost):
            await box.run(call(timeout_ms=100))


async def test_one_that_stops_reading_is_a_loss(boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.kernel.limits.SANDBOX_ANSWER_SECONDS", 0.2)
    box = await boot("result(); time.sleep(60)")
    await box.run(call())
    async with asyncio.timeout(60):
        with pytest.raises(SandboxLost):
            await box.run(call("sevt_2", command="x" * 5_000_000, timeout_ms=100))


async def test_a_deaf_one_is_killed_by_a_cancel(boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.kernel.limits.CANCEL_GRACE_SECONDS", 0.4)
    box = await boot("print('deaf', file=sys.stderr, flush=True); time.sleep(60)")
    task = asyncio.create_task(box.run(call()))
    assert box._machine.process.stderr
    assert await box._machine.process.stderr.readline() == b"deaf\n"
    async with asyncio.timeout(60):
        await box.cancel("sevt_1")
        result = await task
    assert result.is_error and result.content[0]["text"] == INTERRUPTED
    assert not box.is_alive


@pytest.mark.parametrize("prelude", ["", "print('hello' * 100)", "import time; time.sleep(60)"])
async def test_one_that_never_gets_ready_is_a_loss(
    boot, prelude: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.kernel.limits.SANDBOX_BOOT_SECONDS_MAX", 0.5)
    with pytest.raises(SandboxLost):
        await boot("", prelude=prelude)
