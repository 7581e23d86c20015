"""The MCP servers that an agent names, and whether its environment lets it reach them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from corral.catalog.networking import NetworkPolicy
from corral.catalog.records import Wire
from corral.catalog.web.rules import limited_to
from corral.kernel.errors import InvalidRequest
from corral.kernel.hosts import canonical_host

__all__ = [
    "McpCall",
    "McpServer",
    "McpTools",
    "check_mcp_networking",
    "named_server",
    "opened_endpoints",
    "uses_mcp",
]

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class McpServer:
    """A server as a call or a listing names it; it travels with them, so everything in it is plain.

    allowed_hosts: of a `limited` environment that does not open its MCP servers; None: no restriction.
    """

    name: str
    url: str
    allowed_hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class McpCall:
    """What a tool call is of: tool is the server's own word for it."""

    server: McpServer
    tool: str


@dataclass(frozen=True, kw_only=True, slots=True)
class McpTools:
    """What came of asking a server for its tools.

    tools: `{"name", "description", "input_schema"}` each, sorted by name; bounded. error: why there are
    none, as `{"type", "mcp_server_name", "message"}` of a `session.error`.
    """

    server: McpServer
    tools: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None


def uses_mcp(agent: Wire) -> bool:
    """Whether its stored tools have an MCP toolset of which anything may be enabled."""
    return any(
        tool["type"] == "mcp_toolset"
        and (tool["default_config"]["enabled"] or any(config["enabled"] for config in tool["configs"]))
        for tool in agent.get("tools") or ()
    )


def named_server(agent: Wire, environment: Wire, name: str) -> McpServer | None:
    """The agent's server of that name. environment: its stored config."""
    for server in agent.get("mcp_servers") or ():
        if server["name"] == name:
            return McpServer(name=name, url=server["url"], allowed_hosts=_limits(environment))
    return None


def check_mcp_networking(mcp_servers: Sequence[Wire], environment: Wire, *, where: str = "agent.") -> None:
    """Raises InvalidRequest for a server that a `limited` environment (its stored config) keeps it from."""
    policy = NetworkPolicy(hosts=_limits(environment))
    for number, server in enumerate(mcp_servers):
        if not policy.allows(host_of(server["url"])):
            raise InvalidRequest(
                f"{where}mcp_servers.{number}.url: {host_of(server['url'])!r} is not among the"
                " networking.allowed_hosts of the environment; add it there, or set"
                " networking.allow_mcp_servers"
            )


def opened_endpoints(agent: Wire, environment: Wire) -> tuple[tuple[str, int], ...]:
    """Host (canonical) and port of the agent's servers, where its environment (its stored config) opens
    them to sandboxes: with `allow_mcp_servers` of limited networking. A URL that names no host has none."""
    networking = environment.get("networking") or {}
    if networking.get("type") != "limited" or networking.get("allow_mcp_servers") is not True:
        return ()
    found = (_endpoint(server["url"]) for server in agent.get("mcp_servers") or ())
    return tuple(sorted({endpoint for endpoint in found if endpoint is not None}))


def _endpoint(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = canonical_host(f"[{name}]" if ":" in name else name)
    return None if host is None or port is None else (host, port)


def host_of(url: str) -> str:
    """Lower case; "" for what has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _limits(environment: Wire) -> tuple[str, ...] | None:
    networking = environment.get("networking") or {}
    return None if networking.get("allow_mcp_servers") is True else limited_to(environment)
