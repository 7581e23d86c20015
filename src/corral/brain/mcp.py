"""Tools of MCP servers as a brain sees them: what a thread has been told of, and what a call of one means.

A thread knows the tools that the log says it was told of (`Thread.mcp`), so that a prompt that is built
again is the same. They are asked for anew whenever the session goes running, and before each later request
those servers are that may list others by now; one that cannot be asked keeps the tools that it had, and
whoever calls one sees for itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corral.brain.ports import Hands
from corral.catalog.mcp.names import is_mcp_name, model_name, server_prefix
from corral.catalog.mcp.servers import McpServer, McpTools, named_server
from corral.kernel.errors import HandsUnavailable, SandboxUnavailable
from corral.session.content import Json
from corral.session.state import PendingCall, State, Thread

__all__ = ["McpTool", "Told", "called", "list_tools", "news_of", "offered", "server_of"]

Told = Mapping[str, Mapping[str, Json]]
"""As `Thread.mcp`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McpTool:
    """What a model means by a name. name: the server's own word for it. config: `enabled` and
    `permission_policy` for it. is_listed: the thread was told that there is one."""

    server: str
    name: str
    config: Mapping[str, Json]
    is_listed: bool


def offered(agent: Mapping[str, Json], toolset: Mapping[str, Json], told: Told) -> list[Mapping[str, Json]]:
    """The definitions of an MCP toolset's tools that are shown to the model: those that are enabled."""
    return [
        {**tool, "name": model_name(toolset["mcp_server_name"], tool["name"])}
        for tool in _tools(agent, toolset, told)
        if _config(toolset, tool["name"])["enabled"]
    ]


def called(agent: Mapping[str, Json], told: Told, name: str) -> McpTool | None:
    """What a call by this name is of; None if it is of no MCP server of the agent."""
    if not is_mcp_name(name):
        return None
    toolsets = [entry for entry in agent["tools"] if entry["type"] == "mcp_toolset"]
    for toolset in toolsets:
        server = toolset["mcp_server_name"]
        for tool in _tools(agent, toolset, told):
            if model_name(server, tool["name"]) == name:
                config = _config(toolset, tool["name"])
                return McpTool(server=server, name=tool["name"], config=config, is_listed=True)
    for toolset in toolsets:  # disabled, gone, or made up
        server = toolset["mcp_server_name"]
        bare = name.removeprefix(server_prefix(server))
        if bare and bare != name:
            return McpTool(server=server, name=bare, config=_config(toolset, bare), is_listed=False)
    return None


def server_of(state: State, call: PendingCall) -> McpServer | None:
    """The server that a call goes to, None for a call of another tool. One that the agent does not have
    any more has no URL."""
    if call.mcp_server is None:
        return None
    agent = state.threads[call.thread_id].agent
    found = named_server(agent, state.environment, call.mcp_server)
    return found or McpServer(name=call.mcp_server, url="")


async def list_tools(
    hands: Hands, state: State, thread: Thread, *, epoch: int, only_changed: bool
) -> tuple[McpTools, ...]:
    """What the servers of the thread's agent list now, in the order of its tools. only_changed: those that
    may list others than when they were last asked, but for those that the session was told of as failed.
    Raises LeaseLost."""
    names = [entry["mcp_server_name"] for entry in thread.agent["tools"] if entry["type"] == "mcp_toolset"]
    if only_changed:
        names = [name for name in names if name not in state.failed_servers]
    found = [named_server(thread.agent, state.environment, name) for name in names]
    servers = [server for server in found if server is not None]
    if not servers:
        return ()
    try:
        return tuple(
            await hands.list_tools(state.session_id, servers, epoch=epoch, only_changed=only_changed)
        )
    except (HandsUnavailable, SandboxUnavailable):
        if only_changed:
            return ()  # no call could be made either: they are as good as the ones there will be
        said = "No machine was available to connect to the MCP server {!r} from."
        return tuple(
            McpTools(
                server=server,
                error={
                    "type": "mcp_connection_failed_error",
                    "mcp_server_name": server.name,
                    "message": said.format(server.name),
                },
            )
            for server in servers
        )


def news_of(thread: Thread, listings: Sequence[McpTools]) -> dict[str, Json]:
    """What a thread is to be told of these listings: what it does not know already."""
    return {
        listing.server.name: told
        for listing in listings
        if listing.error is None
        and (told := {"url": listing.server.url, "tools": [dict(tool) for tool in listing.tools]})
        != thread.mcp.get(listing.server.name)
    }


def _tools(
    agent: Mapping[str, Json], toolset: Mapping[str, Json], told: Told
) -> Iterator[Mapping[str, Json]]:
    """What the server of a toolset was last known to list, if it is the same server still."""
    known = told.get(toolset["mcp_server_name"])
    for server in agent.get("mcp_servers") or () if known else ():
        if known and (server["name"], server["url"]) == (toolset["mcp_server_name"], known["url"]):
            yield from known["tools"]


def _config(toolset: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    own = (config for config in toolset["configs"] if config["name"] == name)
    found: Mapping[str, Json] = next(own, toolset["default_config"])
    return found
