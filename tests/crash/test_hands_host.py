"""kill -9 of the hands host, of its client, and at every named crash point: a tool call runs at most once
and its outcome is never invented.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient
from corral.hands.news import NEWS_KEPT, OUTCOME_UNKNOWN
from corral.kernel.errors import HandsUnavailable
from corral.session.call import NeverStarted, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from tests.served import WAIT_SECONDS

SESSION = "sesn_1"
UNADOPTED_SECONDS = 5.0
LOCAL_HOST = Path(__file__).parents[1] / "unit" / "hands_host" / "local_host.py"
WORK = "echo ran >> log; touch begun; while [ ! -e go ]; do sleep 0.01; done; echo true result"


def bash(placement: Placement, call_id: str, command: str) -> ToolCall:
    return ToolCall(
        session_id=SESSION,
        thread_id="sthr_1",
        call_id=call_id,
        name="bash",
        input={"command": command},
        recipe=Recipe(),
        placement=placement,
    )


@contextlib.asynccontextmanager
async def hosting(
    data_dir: Path, *, crash_at: str = "", unadopted_seconds: float = 60
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A hands host process that accepts; killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(LOCAL_HOST),
        str(data_dir),
        str(unadopted_seconds),
        env={**os.environ, "CORRAL_CRASH_AT": crash_at},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def client_of(data_dir: Path) -> AsyncIterator[HandsClient]:
    client = HandsClient(socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text())
    try:
        yield client
    finally:
        await client.aclose()


async def exists(path: Path) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not path.exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0.005)


def workspace(data_dir: Path) -> Path:
    return data_dir / "hands" / "workspaces" / SESSION


def unknown(result: ToolResult) -> bool:
    return result.is_error and result.content[0]["text"] == OUTCOME_UNKNOWN


async def test_a_host_killed_during_a_call_answers_unknown_once_and_for_ever(tmp_path):
    async with hosting(tmp_path) as host, client_of(tmp_path) as client:
        call = bash(await client.placement(SESSION), "c1", WORK)
        running = asyncio.create_task(client.execute(call, epoch=1))
        await exists(workspace(tmp_path) / "begun")
        host.send_signal(signal.SIGKILL)
        with pytest.raises(HandsUnavailable) as caught:
            await running
        assert caught.value.retryable
    for epoch in (2, 3):  # the second time after one more crash
        async with hosting(tmp_path) as host, client_of(tmp_path) as client:
            assert (await client.placement(SESSION)) == call.placement  # the same host, the same journal
            results = [await client.attach(call, epoch=epoch) for _ in range(3)]
            results.append(await client.execute(call, epoch=epoch))
            assert all(unknown(result) for result in results)
            host.send_signal(signal.SIGKILL)
    assert (workspace(tmp_path) / "log").read_text() == "ran\n"
    async with hosting(tmp_path), client_of(tmp_path) as client:
        fresh = await client.execute(bash(call.placement, "c2", "cat log"), epoch=4)
        assert [block["text"] for block in fresh.content] == [NEWS_KEPT, "ran\n"]


@pytest.mark.parametrize(
    ("point", "runs", "attached"),
    [
        ("hands.before_started", 0, "never started"),
        ("hands.after_started", 0, "unknown"),
        ("hands.before_result", 1, "unknown"),
        ("hands.after_result", 1, "true result"),
    ],
)
async def test_killed_at_each_point_of_a_call(tmp_path, point, runs, attached):
    async with hosting(tmp_path, crash_at=point), client_of(tmp_path) as client:
        call = bash(await client.placement(SESSION), "c1", "echo ran >> log; echo true result")
        with pytest.raises(HandsUnavailable):
            await client.execute(call, epoch=1)
    log = workspace(tmp_path) / "log"
    assert (log.read_text() if log.exists() else "") == "ran\n" * runs
    async with hosting(tmp_path), client_of(tmp_path) as client:
        await client.announce(SESSION, epoch=2)
        if attached == "never started":
            with pytest.raises(NeverStarted):
                await client.attach(call, epoch=2)
            assert (await client.execute(call, epoch=2)).content[0]["text"] == "true result\n"
            assert log.read_text() == "ran\n"
            return
        result = await client.attach(call, epoch=2)
        assert unknown(result) if attached == "unknown" else result.content[0]["text"] == "true result\n"
        assert await client.execute(call, epoch=2) == result
    assert (log.read_text() if log.exists() else "") == "ran\n" * runs


async def test_the_journal_is_lost_and_no_call_runs_again(tmp_path):
    async with hosting(tmp_path) as host, client_of(tmp_path) as client:
        call = bash(await client.placement(SESSION), "c1", "echo ran >> log")
        await client.execute(call, epoch=1)
        host.send_signal(signal.SIGKILL)
        await host.wait()
    for journal in (tmp_path / "hands" / "private").glob("journal*"):
        journal.unlink()
    async with hosting(tmp_path), client_of(tmp_path) as client:
        placement = await client.placement(SESSION)
        assert placement.host_id == call.placement.host_id
        assert placement.journal_id != call.placement.journal_id
        assert unknown(await client.attach(call, epoch=2))
        assert unknown(await client.execute(call, epoch=2))
    assert (workspace(tmp_path) / "log").read_text() == "ran\n"


_ASKER = """
import asyncio, sys
from pathlib import Path
from corral.hands.client import HandsClient
from corral.daemon import socket_path, token_path
from corral.session.call import Placement, Recipe, ToolCall

async def main():
    data_dir, host_id, journal_id, command = Path(sys.argv[1]), *sys.argv[2:]
    client = HandsClient(socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text())
    await client.execute(
        ToolCall(
            session_id="sesn_1", thread_id="sthr_1", call_id="c1", name="bash", input={"command": command},
            recipe=Recipe(), placement=Placement(host_id=host_id, journal_id=journal_id),
        ),
        epoch=1,
    )

asyncio.run(main())
"""


async def test_a_client_killed_during_its_call_and_another_gets_the_true_result(tmp_path):
    async with hosting(tmp_path), client_of(tmp_path) as client:
        placement = await client.placement(SESSION)
        asker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _ASKER, str(tmp_path), placement.host_id, placement.journal_id, WORK
        )
        await exists(workspace(tmp_path) / "begun")
        asker.send_signal(signal.SIGKILL)
        await asker.wait()
        await client.announce(SESSION, epoch=2)
        attached = asyncio.create_task(client.attach(bash(placement, "c1", WORK), epoch=2))
        (workspace(tmp_path) / "go").touch()
        result = await attached
        assert (result.content[0]["text"], result.is_error) == ("true result\n", False)
    assert (workspace(tmp_path) / "log").read_text() == "ran\n"


_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from corral.hands.client import HandsClient
from corral.daemon import socket_path, token_path

async def main():
    data_dir = Path(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    token = token_path(data_dir, "hands").read_text()
    async for _ in HandsClient(socket_path(data_dir, "hands"), token=token).adopt():
        print("adopted", flush=True)

asyncio.run(main())
"""


class Supervisor:
    """A process that adopts the host, once it is told to: no host waits until a Python has begun."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin and process.stdout
        self.process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def said(self, line: bytes) -> None:
        assert await asyncio.wait_for(self._stdout.readline(), WAIT_SECONDS) == line

    async def adopt(self) -> None:
        self._stdin.write(b"\n")
        await self.said(b"adopted\n")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def supervising(data_dir: Path) -> AsyncIterator[Supervisor]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUPERVISOR, str(data_dir)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    supervisor = Supervisor(process)
    try:
        await supervisor.said(b"ready\n")
        yield supervisor
    finally:
        if process.returncode is None:
            await supervisor.kill()


async def test_a_host_outlives_its_supervisor_is_adopted_again_and_else_ends_with_its_sandboxes(tmp_path):
    async with (
        supervising(tmp_path) as first,
        supervising(tmp_path) as second,
        hosting(tmp_path, unadopted_seconds=UNADOPTED_SECONDS) as host,
        client_of(tmp_path) as client,
    ):
        await first.adopt()
        placement = await client.placement(SESSION)
        await client.execute(bash(placement, "c1", "true"), epoch=1)
        sandboxes = psutil.Process(host.pid).children()
        assert sandboxes
        await first.kill()
        await second.adopt()
        ended = asyncio.create_task(host.wait())
        done, _ = await asyncio.wait([ended], timeout=UNADOPTED_SECONDS + 1)  # an orphan would have ended
        assert not done
        assert (await client.placement(SESSION)) == placement and await client.sandboxes()
        await second.kill()
        assert await asyncio.wait_for(ended, WAIT_SECONDS) == 0
        assert not any(sandbox.is_running() for sandbox in sandboxes)


async def test_sigterm_answers_what_runs_and_ends_cleanly(tmp_path):
    async with hosting(tmp_path) as host, client_of(tmp_path) as client:
        call = bash(await client.placement(SESSION), "c1", WORK)
        running = asyncio.create_task(client.execute(call, epoch=1))
        await exists(workspace(tmp_path) / "begun")
        host.terminate()
        result = await asyncio.wait_for(running, WAIT_SECONDS)
        assert result.is_error and OUTCOME_UNKNOWN in result.content[0]["text"]
        assert await asyncio.wait_for(host.wait(), WAIT_SECONDS) == 0
    async with hosting(tmp_path), client_of(tmp_path) as client:
        assert await client.attach(call, epoch=2) == result
