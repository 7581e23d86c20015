"""Calls and listings of MCP servers, as they travel to a hands host and back."""

from dataclasses import replace

import orjson
import pytest

from corral.catalog.mcp.servers import McpCall, McpServer, McpTools
from corral.hands.wire import (
    decode_call,
    decode_listings,
    decode_recipe,
    decode_result,
    decode_servers,
    encode_call,
    encode_listings,
    encode_result,
)
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import Recipe
from corral.session.content import ToolResult

SERVER = McpServer(name="notes", url="https://notes.example/mcp", allowed_hosts=("notes.example",))
ERROR = {"type": "mcp_connection_failed_error", "mcp_server_name": "notes", "message": "no"}


@pytest.mark.parametrize("server", [SERVER, replace(SERVER, allowed_hosts=None)])
def test_a_server_travels_with_its_call(bash, server) -> None:
    call = replace(bash("c1", ""), name="mcp__notes__bash", mcp=McpCall(server=server, tool="bash"))
    assert call.is_outside
    assert decode_call(orjson.loads(encode_call(call, epoch=3))) == (call, 3)


def test_a_limit_that_a_host_does_not_know_stops_the_call(bash) -> None:
    call = replace(bash("c1", ""), name="mcp__notes__bash", mcp=McpCall(server=SERVER, tool="bash"))
    body = orjson.loads(encode_call(call, epoch=3))
    body["call"]["mcp"]["server"]["only_on_sundays"] = True
    with pytest.raises(TypeError):
        decode_call(body)


def test_a_recipe_says_which_servers_are_open_to_its_sandbox() -> None:
    recipe = Recipe(mcp_endpoints=(("notes.example", 443), ("2001:db8::1", 8443)))
    assert decode_recipe(orjson.loads(orjson.dumps(recipe))) == recipe
    assert decode_recipe({"environment": {}}) == Recipe(), "of an older brain"
    with pytest.raises((TypeError, ValueError)):
        decode_recipe({"environment": {}, "mcp_endpoints": ["notes.example:443"]})


def test_listings_and_troubles_travel_back() -> None:
    tool = {"name": "a", "description": "b", "input_schema": {"type": "object"}}
    other, quiet = replace(SERVER, name="other"), replace(SERVER, name="quiet")
    listings = [McpTools(server=SERVER, tools=(tool,)), McpTools(server=other, error=ERROR)]
    for servers in ([SERVER, other], [SERVER, quiet, other], [quiet, SERVER, other]):
        assert decode_listings(encode_listings(listings, servers), servers) == listings
    with pytest.raises(ValueError):
        decode_listings(encode_listings(listings, [SERVER, other]), [SERVER])
    assert decode_servers({"servers": [orjson.loads(orjson.dumps(SERVER))]}) == [SERVER]
    for result in (ToolResult.text("a"), replace(ToolResult.text("a", is_error=True), trouble=ERROR)):
        assert decode_result(encode_result(result)) == result


async def test_a_host_without_connections_says_so(host, bash) -> None:
    call = replace(bash("c1", ""), name="mcp__notes__bash", mcp=McpCall(server=SERVER, tool="bash"))
    result = await host.execute(call, epoch=1)
    assert result.is_error
    assert result.content[0]["text"] == "unavailable: this host has no connections to MCP servers"
    with pytest.raises(SandboxUnavailable):
        await host.list_tools("sesn_1", [SERVER], epoch=1)
