"""What run and demo share: an official client, and an agent, an environment and a session to work with."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corral.cli.connect import Server

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

__all__ = ["agent_for", "environment_for", "official_client"]

_MARK = "corral.cli"  # metadata key of what the command line made, to find it again


def official_client(server: Server) -> "AsyncAnthropic":
    """The unmodified official SDK, pointed at the server."""
    import anthropic

    return anthropic.AsyncAnthropic(
        base_url=server.url,
        api_key=server.key,
        http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),  # no proxy on the way to our own
    )


async def agent_for(client: "AsyncAnthropic", *, name: str, **fields: Any) -> str:
    """The id of an agent with exactly these fields, made on first use."""
    mark = _digest(fields)
    async for agent in client.beta.agents.list(limit=100):
        if agent.name == name and agent.metadata.get(_MARK) == mark:
            return agent.id
    made = await client.beta.agents.create(name=name, metadata={_MARK: mark}, **fields)
    return made.id


async def environment_for(client: "AsyncAnthropic", *, name: str, config: Mapping[str, Any]) -> str:
    """The id of an environment with this name and config, made on first use."""
    mark = _digest(config)
    async for environment in client.beta.environments.list(limit=100):
        if environment.name == name and environment.metadata.get(_MARK) == mark:
            return environment.id
    made = await client.beta.environments.create(name=name, config=config, metadata={_MARK: mark})  # type: ignore[arg-type]
    return made.id


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
