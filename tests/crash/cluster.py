"""Many nodes on one PostgreSQL: each is a real `corral serve` with some of the roles, in a directory of its
own, driven by the unmodified SDK."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx2

from corral.cluster.node import NodeRole
from corral.config import Config, Secret
from corral.supervisor.datadir import read_state
from tests.served import KEY, Served, until

MODEL = "claude-opus-5-5"
TOOLSET = {"type": "agent_toolset_20260401"}


class Cluster:
    """Started nodes; `node` adds one."""

    def __init__(self, *, database_url: str, messages_url: str) -> None:
        self.nodes: list[Served] = []
        self.client: anthropic.AsyncAnthropic
        self._database_url = database_url
        self._messages_url = messages_url

    async def node(self, *roles: NodeRole, environment: dict[str, str] | None = None) -> Served:
        """Start one. The first must have the role api: it is where clients send requests."""
        # Not under pytest's directories: a unix socket's path holds 107 bytes.
        config = Config(
            port=0,
            data_dir=Path(tempfile.mkdtemp(prefix="corral-")),
            roles=roles,
            database_url=Secret(self._database_url),
            api_key=Secret(KEY),
            anthropic_api_key=Secret("upstream-key"),
            anthropic_base_url=self._messages_url,
            log_level="info",
        )
        node = Served(config, environment or {})
        self.nodes.append(node)
        await node.start()
        if len(self.nodes) == 1:
            self.client = anthropic.AsyncAnthropic(
                base_url=node.url, api_key=KEY, max_retries=0, timeout=30
            )
        return node

    async def session(self, *tools: Any) -> str:
        """A session of a new agent with these tools; the built-in ones if none are named."""
        beta = self.client.beta
        agent = await beta.agents.create(name="Tester", model=MODEL, tools=list(tools or (TOOLSET,)))
        environment = await beta.environments.create(name="test")
        return (await beta.sessions.create(agent=agent.id, environment_id=environment.id)).id

    async def say(self, session_id: str, words: str = "Go.") -> None:
        message = {"type": "user.message", "content": [{"type": "text", "text": words}]}
        await self.client.beta.sessions.events.send(session_id, events=[message])  # type: ignore[list-item]

    async def types(self, session_id: str) -> list[str]:
        """The types of what is in the log, in order."""
        page = await self.client.beta.sessions.events.list(session_id, limit=1000)
        return [event.type for event in page.data]

    async def idle(self, session_id: str, *, turns: int = 1, seconds: float = 30.0) -> list[str]:
        """The types, once so many turns have come to rest."""
        import asyncio

        async with asyncio.timeout(seconds):
            while (types := await self.types(session_id)).count("session.status_idle") < turns:
                await asyncio.sleep(0.05)
        return types

    async def aclose(self) -> None:
        if self.nodes and hasattr(self, "client"):
            await self.client.close()
        for node in reversed(self.nodes):
            with contextlib.suppress(Exception):  # a test may have left it in any state
                await node.stop()
            sys.stderr.write(node.log)  # shown by pytest when a test fails
            shutil.rmtree(node.config.data_dir, ignore_errors=True)


@asynccontextmanager
async def cluster(*, database_url: str, messages_url: str) -> AsyncIterator[Cluster]:
    """An empty cluster; its nodes are stopped, and everything of them is gone afterwards."""
    made = Cluster(database_url=database_url, messages_url=messages_url)
    try:
        yield made
    finally:
        await made.aclose()


def status(node: Served) -> dict[str, Any]:
    response = httpx2.get(f"{node.url}/corral/v1/status", headers={"x-api-key": KEY}, timeout=10)
    assert response.status_code == 200, response.text
    return dict(response.json())


def seen_by(node: Served) -> dict[str, dict[str, Any]]:
    """The nodes that a node knows, by URL."""
    return {each["url"]: each for each in status(node)["nodes"]}


async def spare_of(node: Served) -> int:
    """The pid of the node's spare server, once it is ready."""

    def look() -> int | None:
        state: Any = read_state(node.config.data_dir)
        return state["spare"]["pid"] if state and state["spare"]["is_ready"] else None

    return await until(look) or 0


__all__ = ["MODEL", "Cluster", "cluster", "replace", "seen_by", "spare_of", "status", "os"]
