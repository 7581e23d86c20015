"""A real Corral: supervisor, server, hands and egress as processes, driven by the unmodified SDK."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anthropic
import psutil

from corral.config import Config, Secret

KEY = "corral_test_key_of_the_test_suite"
READY_SECONDS = 30.0


@dataclass
class Served:
    """A running server. `kill` and `start` may be called in between; the data directory stays."""

    config: Config
    environment: dict[str, str] = field(default_factory=dict)
    url: str = ""
    process: asyncio.subprocess.Process | None = None
    client: anthropic.AsyncAnthropic = field(init=False)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "corral.supervisor", "--json"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self.environment},
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(self.config.to_json()).encode() + b"\n")
        await self.process.stdin.drain()
        line = await asyncio.wait_for(self.process.stdout.readline(), READY_SECONDS)
        assert line, "the server did not start"
        self.url = json.loads(line)["url"]
        # Clients that were told a port expect it again after a restart.
        self.config = replace(self.config, port=int(self.url.rpartition(":")[2]))

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 40)

    def pid(self, role: str) -> int:
        """The process of a role, found by what it runs."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if command[-3:] == ["-m", "corral.app", role] and self._is_ours(process):
                return process.pid
        raise LookupError(f"no {role} process of {self.config.data_dir}")

    def _is_ours(self, process: psutil.Process) -> bool:
        state = json.loads((self.config.data_dir / "supervisor.json").read_text())
        return str(process.pid) in json.dumps(state)

    async def kill(self, role: str) -> None:
        """kill -9 one process of this server and return when it is gone."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served(*, messages_url: str | None = None, **environment: str) -> AsyncIterator[Served]:
    """Start a server in a data directory of its own; everything is gone afterwards."""
    # Not under pytest's directories: a unix socket's path holds 107 bytes.
    data_dir = Path(tempfile.mkdtemp(prefix="corral-"))
    config = Config(
        port=0,
        data_dir=data_dir,
        api_key=Secret(KEY),
        anthropic_api_key=Secret("upstream-key"),
        anthropic_base_url=messages_url,
        log_level="warning",
    )
    server = Served(config, environment)
    try:
        await server.start()
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY) as server.client:
            yield server
    finally:
        await server.stop()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(data_dir)


async def make_session(client: anthropic.AsyncAnthropic, **fields: Any) -> Any:
    """An agent with the built-in tools, an environment and a session of both."""
    tools = fields.pop("tools", [{"type": "agent_toolset_20260401"}])
    agent = await client.beta.agents.create(name="Tester", model="claude-sonnet-4-5", tools=tools)
    environment = await client.beta.environments.create(name="test")
    return await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, **fields)


def text(words: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": words}]}


async def until_idle(stream: Any, *, seconds: float = 20.0) -> list[Any]:
    """The events of a stream up to and including the next session.status_idle."""
    events = []
    async with asyncio.timeout(seconds):
        async for event in stream:
            events.append(event)
            if event.type == "session.status_idle":
                return events
    raise AssertionError(f"the stream ended without idle: {[event.type for event in events]}")
