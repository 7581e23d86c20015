"""Many nodes on one PostgreSQL: each is a real `corral serve` with some of the roles, in a directory of its
own, driven by the unmodified SDK."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2

from corral.cluster.node import NodeRole
from corral.config import Config, Secret
from corral.supervisor.datadir import read_state
from tests.served import KEY, WAIT_SECONDS, Served, text, until

MODEL = "claude-opus-5-5"
TOOLSET = {"type": "agent_toolset_20260401"}


class Cluster:
    """Nodes that `node` has started. Clients talk to the first one with the role api."""

    def __init__(self, *, database_url: str, messages_url: str) -> None:
        self.nodes: list[Served] = []
        self.client: anthropic.AsyncAnthropic
        self._database_url = database_url
        self._messages_url = messages_url
        self._blobs = Path(tempfile.mkdtemp(prefix="corral-blobs-"))  # of all nodes

    async def node(self, *roles: NodeRole, environment: dict[str, str] | None = None) -> Served:
        # Not under pytest's directories: a unix socket's path holds 107 bytes.
        config = Config(
            port=0,
            data_dir=Path(tempfile.mkdtemp(prefix="corral-")),
            roles=roles,
            database_url=Secret(self._database_url),
            blob_url=self._blobs.as_uri(),
            api_key=Secret(KEY),
            anthropic_api_key=Secret("upstream-key"),
            anthropic_base_url=self._messages_url,
            log_level="info",
        )
        node = Served(config, environment or {})
        self.nodes.append(node)
        await node.start()
        if "api" in roles and not hasattr(self, "client"):
            # No retries: a test sees the first answer.
            self.client = anthropic.AsyncAnthropic(
                base_url=node.url, api_key=KEY, max_retries=0, timeout=WAIT_SECONDS
            )
        return node

    async def each(self, *nodes: tuple[NodeRole, ...]) -> list[Served]:
        """Start them side by side."""
        return list(await asyncio.gather(*(self.node(*roles) for roles in nodes)))

    async def session(self, *tools: Any) -> str:
        """A session of a new agent with these tools; the built-in ones if none are named."""
        beta = self.client.beta
        agent = await beta.agents.create(name="Tester", model=MODEL, tools=list(tools or (TOOLSET,)))
        environment = await beta.environments.create(name="test")
        return (await beta.sessions.create(agent=agent.id, environment_id=environment.id)).id

    async def say(self, session_id: str, words: str = "Go.") -> None:
        await self.client.beta.sessions.events.send(session_id, events=[text(words)])  # type: ignore[list-item]

    async def events(self, session_id: str) -> list[Any]:
        """What is in the log, in order."""
        page = await self.client.beta.sessions.events.list(session_id, limit=1000)
        return [event for event in page.data if getattr(event, "processed_at", None)]

    async def rested(self, session_id: str, *, turns: int = 1, seconds: float = WAIT_SECONDS) -> list[Any]:
        """The log, once so many turns have come to rest."""
        async with asyncio.timeout(seconds):
            while True:
                events = await self.events(session_id)
                if sum(event.type == "session.status_idle" for event in events) >= turns:
                    return events
                await asyncio.sleep(0.05)

    async def aclose(self) -> None:
        if hasattr(self, "client"):
            await self.client.close()
        await asyncio.gather(*(node.stop() for node in self.nodes), return_exceptions=True)
        for node in self.nodes:
            sys.stderr.write(node.log)  # shown by pytest when a test fails
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(node.config.data_dir)
        shutil.rmtree(self._blobs, ignore_errors=True)


@asynccontextmanager
async def cluster(*, database_url: str, messages_url: str) -> AsyncIterator[Cluster]:
    """An empty cluster; its nodes are stopped, and everything of them is gone afterwards."""
    made = Cluster(database_url=database_url, messages_url=messages_url)
    try:
        yield made
    finally:
        await made.aclose()


def get(node: Served, path: str) -> httpx2.Response:
    return httpx2.get(node.url + path, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS)


def status(node: Served) -> dict[str, Any]:
    """What `GET /corral/v1/status` of this node says."""
    response = get(node, "/corral/v1/status")
    assert response.status_code == 200, response.text
    return dict(response.json())


def listed(by: Served, node: Served) -> dict[str, Any] | None:
    """A node as another one knows it."""
    return next((each for each in status(by)["nodes"] if each["url"] == node.url), None)


async def spare_of(node: Served) -> int:
    """The pid of the node's spare server, once it is ready."""

    def look() -> int | None:
        state: Any = read_state(node.config.data_dir)
        return state["spare"]["pid"] if state and state["spare"]["is_ready"] else None

    return await until(look) or 0
