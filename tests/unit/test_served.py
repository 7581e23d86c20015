"""What tests drive servers with."""

import asyncio
import os
from pathlib import Path

from corral.config import Config
from corral.supervisor.datadir import write_state
from tests.served import Served, lives


async def test_a_process_that_is_being_started_is_waited_for_and_killed(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()

    def say(pid: int | None) -> None:
        write_state(tmp_path, {"pid": os.getpid(), "processes": [{"role": "server", "pid": pid}]})

    say(None)
    killing = asyncio.create_task(Served(Config(data_dir=tmp_path)).kill("server"))
    for pid in (None, ended.pid, process.pid):
        await asyncio.sleep(0)
        assert not killing.done()
        say(pid)
    await killing
    assert not lives(process.pid)
    await process.wait()
