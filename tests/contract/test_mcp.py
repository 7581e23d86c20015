"""The connector against real MCP servers: each transport; slow, large and dead ones, and liars."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from corral.catalog.mcp.servers import McpCall, McpServer
from corral.daemon import mcp_path
from corral.egress.policy import OperatorHosts
from corral.kernel import limits
from corral.mcp.connector import McpConnector
from corral.mcp.way import Roads
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from tests.gateway import Gateway, until
from tests.mcp_host import PNG, McpHost

SESSION = "sesn_1"
_numbers = count(1)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], McpHost]]:
    """Servers by kind, each started once."""
    started: dict[str, Any] = {}

    def get(kind: str) -> McpHost:
        if kind not in started:
            context = McpHost.start(kind, tmp_path_factory.mktemp(kind))
            started[kind] = (context, context.__enter__())
        host: McpHost = started[kind][1]
        return host

    yield get
    for context, _ in started.values():
        context.__exit__(None, None, None)


class LocalServers(OperatorHosts):
    """They are at ports that nobody knows before they start."""

    def of_servers(self) -> OperatorHosts:
        return OperatorHosts(internal=("localhost", "moving.example"))


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway.start(names={"localhost": ["127.0.0.1"]}, operator=LocalServers()) as gateway:
        yield gateway


@pytest.fixture
async def connector(gateway: Gateway) -> AsyncIterator[McpConnector]:
    made = McpConnector(Roads(gateway.data_dir), silent_seconds=60.0, list_seconds=60.0)
    yield made
    await made.aclose()
    assert not made.connections


def server(host: McpHost, **fields: Any) -> McpServer:
    return McpServer(name="notes", url=host.url, **fields)


def call(to: McpServer, tool: str, *, session_id: str = SESSION, **fields: Any) -> ToolCall:
    return ToolCall(
        session_id=session_id,
        thread_id="sthr_1",
        call_id=f"sevt_{next(_numbers)}",
        name=f"mcp__notes__{tool}",
        input=fields,
        recipe=Recipe(),
        placement=Placement(host_id="host_1", journal_id="journal_1"),
        mcp=McpCall(server=to, tool=tool),
    )


def words(result: ToolResult) -> str:
    return "".join(block.get("text", "") for block in result.content)


@pytest.mark.parametrize("kind", ["modern", "legacy", "stateless", "json", "sse"])
async def test_tools_of_every_transport(connector: McpConnector, hosts: Any, kind: str) -> None:
    host = hosts(kind)
    to = server(host)
    (listing,) = await connector.list_tools(SESSION, [to])
    assert listing.error is None
    assert [tool["name"] for tool in listing.tools] == sorted(tool["name"] for tool in listing.tools)
    (move,) = (tool for tool in listing.tools if tool["name"] == "move")
    assert move["input_schema"]["properties"]["point"]["properties"]["x"]["type"] == "integer"
    assert "$ref" not in json.dumps(move)
    before = len(host.calls)
    results = await asyncio.gather(*(connector.run(call(to, "echo", text=str(n))) for n in range(8)))
    assert [words(result) for result in results] == [str(n) for n in range(8)]
    assert len(host.calls) == before + 8
    moved = await connector.run(call(to, "move", point={"x": 1, "y": 2}))
    assert json.loads(words(moved)) == {"x": 2, "y": 2}
    measured = await connector.run(call(to, "measure"))
    assert [block["text"] for block in measured.content] == ["It is warm.", '{"degrees":21}']
    shown = await connector.run(call(to, "show"))
    assert [block["type"] for block in shown.content] == ["text", "image", "text", "document"]
    assert shown.content[1]["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    failed = await connector.run(call(to, "fail"))
    assert failed.is_error and failed.trouble is None
    assert (await connector.run(call(to, "nothing"))).is_error
    assert connector.connections == 1, "calls share a connection"
    await connector.forget(SESSION)
    assert connector.connections == 0


async def changed(connector: McpConnector, to: McpServer, **change: Any) -> list[str]:
    """The names of its tools, once it has said that they changed: again and again, for it says nothing to
    one whose ear it does not have yet."""
    async with asyncio.timeout(60):
        await connector.run(call(to, "change", **change))
        while not (found := await connector.list_tools(SESSION, [to], only_changed=True)):
            await connector.run(call(to, "change"))
    (listing,) = found
    assert listing.error is None and listing.server == to
    return [tool["name"] for tool in listing.tools]


@pytest.mark.parametrize("kind", ["modern", "json", "legacy", "sse"])
async def test_a_server_says_that_its_tools_changed(connector: McpConnector, hosts: Any, kind: str) -> None:
    host = hosts(kind)
    to, quiet = server(host), McpServer(name="quiet", url=hosts("stateless").url)
    assert len(await connector.list_tools(SESSION, [to, quiet], only_changed=True)) == 2, "never asked"
    assert "sudden" in await changed(connector, to, add="sudden")
    assert "sudden" not in await changed(connector, to, remove="sudden")
    gone = await connector.run(call(to, "sudden"))
    assert gone.is_error and "sudden" in words(gone), "who calls it all the same is told"
    assert await connector.list_tools(SESSION, [quiet], only_changed=True) == []
    assert len(await connector.list_tools("sesn_2", [to], only_changed=True)) == 1, "of another session"
    await connector.forget(SESSION)
    assert len(await connector.list_tools(SESSION, [to], only_changed=True)) == 1, "nobody listened"


async def test_a_storm_of_notifications_is_one_listing_for_each_look(
    connector: McpConnector, hosts: Any
) -> None:
    host = hosts("modern")
    to = server(host)
    await connector.list_tools(SESSION, [to])
    await changed(connector, to)
    before = host.listings
    assert words(await connector.run(call(to, "change", times=300))) == "changed"
    assert host.listings == before, "nobody has looked"
    looks = 0  # that found something: more may have come between them, by a connection of their own
    async with asyncio.timeout(60):
        while (found := await connector.list_tools(SESSION, [to], only_changed=True)) or not looks:
            looks += bool(found)
            assert host.listings == before + looks
            await asyncio.sleep(0.01)
    assert host.listings == before + looks, "where nothing is new, nothing is asked"


@pytest.mark.parametrize("kind", ["modern", "legacy", "sse"])
async def test_a_call_is_cancelled_there_too(connector: McpConnector, hosts: Any, kind: str) -> None:
    host = hosts(kind)
    holding = call(server(host), "hold")
    before = len(host.calls)
    running = asyncio.create_task(connector.run(holding))
    await host.called(before + 1)
    await connector.cancel(holding.call_id)
    result = await running
    assert (words(result), result.is_error) == (INTERRUPTED, True)
    await host.called(before + 2)
    assert host.calls[-1]["name"] == "cancelled"
    assert words(await connector.run(call(server(host), "echo", text="still here"))) == "still here"


async def test_progress_keeps_a_call_alive_and_silence_ends_it(hosts: Any, gateway: Gateway) -> None:
    host = hosts("modern")
    impatient = McpConnector(Roads(gateway.data_dir), silent_seconds=0.5)
    connector = McpConnector(Roads(gateway.data_dir), silent_seconds=4.0)
    try:
        quiet = await impatient.run(call(server(host), "hold"))
        assert quiet.is_error and "unknown" in words(quiet) and "silent for 0.5 s" in words(quiet)
        before = len(host.calls)
        began = time.monotonic()
        running = asyncio.create_task(connector.run(call(server(host), "hold", progress=True)))
        await host.called(before + 1)
        await asyncio.wait({running}, timeout=5.0)
        assert not running.done(), f"ended after {time.monotonic() - began:.1f} s"
        host.release()
        assert words(await running) == "released"
    finally:
        (host.directory / "go").unlink(missing_ok=True)
        await impatient.aclose()
        await connector.aclose()


async def test_a_server_of_300_tools(connector: McpConnector, hosts: Any) -> None:
    (listing,) = await connector.list_tools(SESSION, [server(hosts("many"))])
    numbered = [tool["name"] for tool in listing.tools if tool["name"].startswith("tool_")]
    assert numbered == [f"tool_{number:03}" for number in range(300)]


@pytest.mark.parametrize("kind", ["modern", "legacy"])
async def test_a_server_that_dies(connector: McpConnector, tmp_path: Path, kind: str) -> None:
    with McpHost.start(kind, tmp_path) as host:
        to = server(host)
        assert (await connector.list_tools(SESSION, [to]))[0].error is None
        assert words(await connector.run(call(to, "echo", text="a"))) == "a"
        dead = await connector.run(call(to, "die"))
        assert dead.is_error and "unknown" in words(dead)
        assert dead.trouble is not None and dead.trouble["type"] == "mcp_connection_failed_error"
        host.die()  # all of it: a process on its way out still accepts for a moment
        gone = await connector.run(call(to, "echo", text="b"))
        assert gone.is_error and "was not made" in words(gone) and gone.trouble is not None
        host.begin()
        assert words(await connector.run(call(to, "echo", text="c"))) == "c"
        host.die()
        host.begin()  # between two calls: nothing is noticed but by who has a handshake to remember
        assert words(await connector.run(call(to, "echo", text="d"))) == "d"
        assert [each.get("text") for each in host.calls] == ["a", None, "c", "d"]

        async def is_asked_anew() -> bool:
            found = await connector.list_tools(SESSION, [to], only_changed=True)
            return bool(found) and found[0].error is None

        await until(is_asked_anew)  # nobody heard what it may have said meanwhile


async def test_a_server_that_asks_who_we_are(connector: McpConnector, hosts: Any) -> None:
    to = server(hosts("locked"))
    (listing,) = await connector.list_tools(SESSION, [to])
    assert listing.error is not None
    assert listing.error["type"] == "mcp_authentication_failed_error"
    assert listing.error["mcp_server_name"] == "notes"
    result = await connector.run(call(to, "echo", text="x"))
    assert result.trouble == listing.error
    assert hosts("locked").calls == []


def _tool(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", **schema}}


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"initialize": {"raw": "no JSON"}}, "does not speak MCP"),
        ({"initialize": {"raw": "<html>", "type": "text/html"}}, "does not speak MCP"),
        ({"initialize": {"raw": "{}", "status": 503}}, "HTTP 503"),
        ({"initialize": {"protocolVersion": "1999-01-01"}}, "does not speak MCP"),
        ({"tools/list": {"tools": [{"name": 7}]}}, "does not follow MCP"),
        ({"tools/list": {"tools": "many"}}, "does not follow MCP"),
        ({"tools/list": {"tools": [{"name": "a", "inputSchema": {"type": "string"}}]}}, "not follow MCP"),
        ({"tools/list": {"raw": "x" * 2**20, "times": 40}}, "more than 32 MiB"),
        ({"tools/list": {"raw": "[" * 100_000}}, ""),
    ],
)
async def test_a_liar_cannot_list(connector: McpConnector, hosts: Any, lies: Any, said: str) -> None:
    host = hosts("liar")
    host.lie(**{"notifications/initialized": {"raw": "", "status": 202}, **lies})
    (listing,) = await connector.list_tools(SESSION, [server(host)])
    assert listing.error is not None and listing.tools == ()
    assert said in listing.error["message"], listing.error
    assert len(listing.error["message"]) <= limits.MCP_REASON_CHARS_MAX + 3


async def test_what_a_liar_lists_is_bounded(connector: McpConnector, hosts: Any) -> None:
    host = hosts("liar")
    accepted = {"raw": "", "status": 202}
    endless = {"tools": [_tool("again")], "nextCursor": "more"}
    host.lie(**{"notifications/initialized": accepted, "tools/list": endless})
    (listing,) = await connector.list_tools(SESSION, [server(host)])
    assert [tool["name"] for tool in listing.tools] == ["again"]
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"properties": {"a": deep}}
    tools = [
        {**_tool("wordy"), "description": "a\x1b[2J" * 20_000},
        _tool("deep", **deep),
        _tool("wide", description="x" * 100_000),
        _tool("bad property", properties={"a b": {}}),
        _tool("endless", properties={"a": {"$ref": "#"}}),
        _tool("\x1b[31mred"),
        _tool("x" * 1_000),
        *(_tool(f"many_{number:04}") for number in range(2_000)),
    ]
    host.lie(**{"notifications/initialized": accepted, "tools/list": {"tools": tools}})
    (listing,) = await connector.list_tools("sesn_2", [server(host)])
    assert listing.error is None
    names = [tool["name"] for tool in listing.tools]
    assert len(names) == limits.MCP_TOOLS_MAX and names[:2] == ["endless", "many_0000"]
    assert not {"deep", "wide", "bad property"} & set(names)
    await connector.forget("sesn_2")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"raw": '{"jsonrpc": "2.0", "id": 7777, "result": {"content": []}}'}, "unknown"),
        ({"content": "text"}, "does not follow MCP"),
        ({"raw": '{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"n\\u001bo"}}'}, ""),
        ({"content": [{"type": "image", "data": "no base64", "mimeType": "image/png"}]}, "cannot be shown"),
        ({"content": [{"type": "text", "text": str(n)} for n in range(500)]}, "400 more parts"),
        ({"content": []}, "(no output)"),
    ],
)
async def test_what_a_liar_returns(hosts: Any, gateway: Gateway, said: Any, expected: str) -> None:
    host = hosts("liar")
    host.lie(**{"notifications/initialized": {"raw": "", "status": 202}, "tools/call": said})
    silent_seconds = 60.0 if expected not in ("", "unknown") else 2.0  # answers to nothing are none
    connector = McpConnector(Roads(gateway.data_dir), silent_seconds=silent_seconds)
    try:
        before = len(host.calls)
        result = await connector.run(call(server(host), "any"))
        assert expected in words(result) and "\x1b" not in words(result)
        assert len(host.calls) == before + 1, "a call is sent once, whatever is made of it"
    finally:
        await connector.aclose()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
)
async def test_addresses_that_are_not_public_are_not_dialled(
    connector: McpConnector, gateway: Gateway, hosts: Any, address: str
) -> None:
    gateway.names["public.example"] = ["93.184.216.34", address]
    to = McpServer(name="notes", url=f"http://public.example:{hosts('modern').port}/mcp")
    (listing,) = await connector.list_tools(SESSION, [to])
    assert listing.error is not None and "not public" in listing.error["message"]
    assert address not in listing.error["message"]
    (entry, *_) = await gateway.entries()
    assert (entry["decision"], entry["host"], address in entry["detail"]) == (
        "denied",
        "public.example",
        True,
    )


async def test_a_name_that_moves_is_not_followed(
    connector: McpConnector, gateway: Gateway, hosts: Any
) -> None:
    """The address that was judged is dialled, whatever the name says a moment later."""
    host = hosts("modern")
    to = McpServer(name="notes", url=f"http://moving.example:{host.port}/mcp")
    gateway.names["moving.example"] = ["127.0.0.1"]
    for _ in range(2):
        result = await connector.run(call(to, "echo", text="x"))
        # The SDK's server answers only to names of this machine, which shows where it was asked.
        assert result.is_error and "HTTP 421" in words(result)
        gateway.names["moving.example"] = ["192.0.2.1"]


async def test_networking_of_the_environment_binds(
    connector: McpConnector, gateway: Gateway, hosts: Any
) -> None:
    to = server(hosts("modern"), allowed_hosts=("other.example",))
    before = len(hosts("modern").calls)
    result = await connector.run(call(to, "echo", text="x"))
    assert result.is_error and "networking of the environment does not allow it" in words(result)
    assert result.trouble is not None and "was not made" in words(result)
    allowed = server(hosts("modern"), allowed_hosts=("localhost",))
    assert words(await connector.run(call(allowed, "echo", text="y"))) == "y"
    denied, *others = await gateway.entries()
    assert (denied["decision"], denied["session_id"]) == ("denied", SESSION)
    assert {entry["decision"] for entry in others} == {"allowed"}
    assert len(hosts("modern").calls) == before + 1


async def test_an_operator_denies_servers(gateway: Gateway, hosts: Any) -> None:
    operator = OperatorHosts(denied=("localhost",), servers=(hosts("modern").where,))
    async with Gateway.start(names={"localhost": ["127.0.0.1"]}, operator=operator) as other:
        connector = McpConnector(Roads(other.data_dir))
        try:
            (listing,) = await connector.list_tools(SESSION, [server(hosts("modern"))])
        finally:
            await connector.aclose()
    assert listing.error is not None and "operator of this server denies it" in listing.error["message"]


async def test_an_egress_process_that_is_started_again(
    connector: McpConnector, gateway: Gateway, hosts: Any
) -> None:
    to = server(hosts("modern"))
    assert words(await connector.run(call(to, "echo", text="a"))) == "a"
    await gateway.end()
    waiting = asyncio.create_task(connector.run(call(to, "echo", text="b")))
    await asyncio.sleep(0)
    await gateway.serve()
    assert words(await waiting) == "b"


async def test_the_door_takes_nobody_without_the_token(gateway: Gateway) -> None:
    for said in (b"", b"Proxy-Authorization: Bearer x\r\nCorral-Grant: {}\r\n"):
        reader, writer = await asyncio.open_unix_connection(mcp_path(gateway.data_dir))
        writer.write(b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n" + said + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"wrong token" in answer
        writer.close()
    assert await gateway.entries() == []


async def test_connections_are_bounded_and_idle_ones_end(hosts: Any, gateway: Gateway) -> None:
    to = server(hosts("modern"))
    connector = McpConnector(Roads(gateway.data_dir), connections_max=2, idle_seconds=0.4)
    try:
        for number in range(4):
            result = await connector.run(call(to, "echo", text="x", session_id=f"sesn_{number}"))
            assert words(result) == "x"
            assert connector.connections <= 2
        async with asyncio.timeout(60):
            while connector.connections:  # noqa: ASYNC110  # they end by time
                await asyncio.sleep(0.02)
    finally:
        await connector.aclose()
