"""Which MCP servers an environment lets an agent reach."""

import pytest

from corral.catalog.mcp.servers import (
    McpServer,
    check_mcp_networking,
    named_server,
    opened_endpoints,
    uses_mcp,
)
from corral.catalog.networking import NetworkPolicy
from corral.kernel.errors import InvalidRequest

SERVERS = [{"type": "url", "name": "notes", "url": "https://MCP.example:8443/mcp"}]


def limited(*hosts: str, **more: bool) -> dict[str, object]:
    return {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": list(hosts), **more}}


@pytest.mark.parametrize(
    ("environment", "is_allowed"),
    [
        ({"type": "cloud", "networking": {"type": "unrestricted"}}, True),
        ({"type": "self_hosted"}, True),
        (limited(), False),
        (limited("example"), False),
        (limited("mcp.example"), True),
        (limited("*.example"), True),
        (limited(allow_mcp_servers=True), True),
        (limited(allow_mcp_servers=False), False),
    ],
)
def test_networking(environment: dict[str, object], is_allowed: bool) -> None:
    server = named_server({"mcp_servers": SERVERS}, environment, "notes")
    assert server is not None
    allowed = server.allowed_hosts
    assert (allowed is None or NetworkPolicy(hosts=allowed).allows("mcp.example")) is is_allowed
    if is_allowed:
        check_mcp_networking(SERVERS, environment)
    else:
        with pytest.raises(InvalidRequest, match=r"agent.mcp_servers.0.url: 'mcp.example'"):
            check_mcp_networking(SERVERS, environment)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://MCP.example:8443/mcp", ("mcp.example", 8443)),
        ("https://mcp.example./mcp", ("mcp.example", 443)),
        ("http://mcp.example", ("mcp.example", 80)),
        ("http://user:word@mcp.example/a?b#c", ("mcp.example", 80)),
        ("https://[2001:DB8::0:1]/mcp", ("2001:db8::1", 443)),
        ("https://*.example/mcp", None),
        ("https://*/mcp", None),
        ("https:///mcp", None),
        ("https://mcp.example:99999/", None),
        ("ftp://mcp.example/", None),
        ("mcp.example", None),
    ],
)
def test_what_is_opened_to_sandboxes(url: str, endpoint: tuple[str, int] | None) -> None:
    agent = {"mcp_servers": [{"type": "url", "name": "a", "url": url}]}
    found = opened_endpoints(agent, limited(allow_mcp_servers=True))
    assert found == (() if endpoint is None else (endpoint,))
    for environment in (limited(), {"type": "cloud", "networking": {"type": "unrestricted"}}, {}):
        assert opened_endpoints(agent, environment) == ()
    assert opened_endpoints({}, limited(allow_mcp_servers=True)) == ()


def test_servers_are_found_by_name() -> None:
    assert named_server({"mcp_servers": SERVERS}, {}, "other") is None
    assert named_server({"mcp_servers": SERVERS}, {}, "notes") == McpServer(
        name="notes", url=SERVERS[0]["url"]
    )


@pytest.mark.parametrize(
    ("tools", "uses"),
    [
        ([], False),
        ([{"type": "custom", "name": "x"}], False),
        ([{"type": "mcp_toolset", "default_config": {"enabled": True}, "configs": []}], True),
        ([{"type": "mcp_toolset", "default_config": {"enabled": False}, "configs": []}], False),
        (
            [{"type": "mcp_toolset", "default_config": {"enabled": False}, "configs": [{"enabled": True}]}],
            True,
        ),
    ],
)
def test_who_uses_any(tools: list[dict[str, object]], uses: bool) -> None:
    assert uses_mcp({"tools": tools}) is uses
