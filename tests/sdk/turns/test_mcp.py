"""MCP servers end to end: official SDK, real processes, the official SDK's MCP server over HTTP."""

import asyncio
import json
from typing import Any

import anthropic
import pytest

from corral.brain.judge import RULES
from corral.session.call import INTERRUPTED
from corral.testing.messages_reply import Reply
from tests.mcp_host import PNG, McpHost
from tests.served import text
from tests.stage import TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALLOW = {"permission_policy": {"type": "always_allow"}}


def server(host: McpHost, name: str = "notes", **fields: Any) -> dict[str, Any]:
    return {"type": "url", "name": name, "url": host.url, **fields}


def toolset(name: str = "notes", **fields: Any) -> dict[str, Any]:
    return {"type": "mcp_toolset", "mcp_server_name": name, **fields}


def call(number: int, tool: str, **fields: Any) -> tuple[str, str, dict[str, Any]]:
    return f"toolu_{number}", tool, fields


def names(request: Any) -> list[str]:
    return [tool["name"] for tool in request.json["tools"]]


async def test_tools_are_listed_and_called(stage: Stage, mcp: McpHost) -> None:
    stage.play(
        Reply.tools(
            call(1, "mcp__notes__echo", text="hello"),
            call(2, "mcp__notes__show"),
            call(3, "mcp__notes__fail"),
            call(4, "mcp__notes__bash", command="touch /tmp/never"),
        ),
        Reply.text("Done."),
        Reply.text("Again."),
    )
    before = len(mcp.calls)
    session = await stage.session(TOOLSET, toolset(default_config=ALLOW), mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        uses, results = tail.of("agent.mcp_tool_use"), tail.of("agent.mcp_tool_result")
        await stage.send(session.id, text("More."))
        await tail.idle(2)
    assert [(use.name, use.mcp_server_name, use.evaluated_permission) for use in uses] == [
        (name, "notes", "allow") for name in ("echo", "show", "fail", "bash")
    ]
    assert uses[0].input == {"text": "hello"}
    by_use = {result.mcp_tool_use_id: result for result in results}
    echo, show, fail, bash = (by_use[use.id] for use in uses)
    assert (words(echo), echo.is_error) == ("hello", False)
    assert [block.type for block in show.content] == ["text", "image", "text", "document"]
    assert show.content[0].text == "a picture:", "nothing that a terminal obeys"
    assert show.content[1].source.data == PNG
    assert show.content[3].source.data == "the notes"
    assert fail.is_error and "Error executing tool fail" in words(fail)
    assert words(bash) == "not a shell", "a name of ours is no tool of ours"
    assert sorted(each["name"] for each in mcp.calls[before:]) == ["bash", "echo", "fail", "show"]
    assert not tail.of("agent.tool_use") and not tail.of("session.error")
    first, *others = stage.requests
    offered = [name for name in names(first) if name.startswith("mcp__")]
    assert offered == sorted(offered) and "mcp__notes__echo" in offered
    assert all(tool["input_schema"]["type"] == "object" for tool in first.json["tools"])
    assert all(names(other) == names(first) for other in others), "prompts keep their prefix"
    logged = [
        event.private["mcp"]
        for event in stage.server.snapshot(session.id).events
        if event.type == "span.model_request_start" and event.private and "mcp" in event.private
    ]
    assert len(logged) == 1, "a listing is logged once, until it changes"


async def test_calls_are_asked_for_by_default(stage: Stage, mcp: McpHost) -> None:
    stage.play(
        Reply.tools(call(1, "mcp__notes__echo", text="yes"), call(2, "mcp__notes__echo", text="no")),
        Reply.text("Done."),
    )
    before = len(mcp.calls)
    session = await stage.session(toolset(), mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        first, second = tail.of("agent.mcp_tool_use")
        assert (first.evaluated_permission, first.evaluation.type) == ("ask", "always_ask")
        assert len(mcp.calls) == before, "nothing has happened yet"
        await stage.send(
            session.id,
            {"type": "user.tool_confirmation", "tool_use_id": first.id, "result": "allow"},
            {
                "type": "user.tool_confirmation",
                "tool_use_id": second.id,
                "result": "deny",
                "deny_message": "not this one",
            },
        )
        await tail.idle(2)
    results = {result.mcp_tool_use_id: result for result in tail.of("agent.mcp_tool_result")}
    assert words(results[first.id]) == "yes"
    assert results[second.id].is_error and "not this one" in words(results[second.id])
    assert [each["text"] for each in mcp.calls[before:]] == ["yes"]


async def test_policies_and_disabled_tools(stage: Stage, mcp: McpHost) -> None:
    stage.play(
        Reply.tools(
            call(1, "mcp__notes__echo", text="judged"),
            call(2, "mcp__notes__show"),
            call(3, "mcp__notes__nothing"),
            call(4, "mcp__other__echo"),
        ),
        Reply.text("Done."),
    )
    stage.judge = lambda request: Reply.text("ALLOW")
    tools = toolset(
        default_config=ALLOW,
        configs=[
            {"name": "echo", "permission_policy": {"type": "auto"}},
            {"name": "show", "enabled": False},
        ],
    )
    before = len(mcp.calls)
    session = await stage.session(tools, mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    echo, show, nothing = tail.of("agent.mcp_tool_use")
    assert (echo.evaluated_permission, echo.evaluation.type) == ("allow", "auto")
    assert [(use.evaluated_permission, use.evaluation) for use in (show, nothing)] == [("deny", None)] * 2
    (unknown,) = tail.of("agent.tool_use")
    assert (unknown.name, unknown.evaluated_permission) == ("mcp__other__echo", "deny")
    refused = [result for result in tail.of("agent.mcp_tool_result") if result.is_error]
    assert len(refused) == 2 and all("no tool" in words(result) for result in refused)
    assert [each["name"] for each in mcp.calls[before:]] == ["echo"]
    assert "mcp__notes__show" not in names(
        next(each for each in stage.requests if each.json["system"][0]["text"] != RULES)
    )


async def test_a_call_can_be_interrupted(stage: Stage, mcp: McpHost) -> None:
    stage.play(Reply.tools(call(1, "mcp__notes__hold")), Reply.text("Done."))
    before = len(mcp.calls)
    session = await stage.session(toolset(default_config=ALLOW), mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await mcp.called(before + 1)
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle()
    (result,) = tail.of("agent.mcp_tool_result")
    assert (words(result), result.is_error) == (INTERRUPTED, True)
    await mcp.called(before + 2)
    assert mcp.calls[-1]["name"] == "cancelled", "the server was told"


async def test_a_long_output_is_a_file_in_the_sandbox(stage: Stage, mcp: McpHost) -> None:
    def script(request: Any) -> Any:
        if request.turns == 0:
            return Reply.tools(call(1, "mcp__notes__long", characters=150_000))
        if request.turns == 1:
            said = request.json["messages"][-1]["content"][-1]["content"][0]["text"]
            path = said.partition("all of it is in ")[2].partition("]")[0]
            return Reply.tools(call(2, "bash", command=f"wc -c < {path}"))
        return Reply.text("Done.")

    stage.script = script
    session = await stage.session(TOOLSET, toolset(default_config=ALLOW), mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    (result,) = tail.of("agent.mcp_tool_result")
    assert len(words(result)) < 5_000
    (counted,) = tail.of("agent.tool_result")
    assert words(counted).strip() == "150000"


async def test_a_server_that_fails_is_told_of_and_tried_again(
    stage: Stage, mcp: McpHost, liar: McpHost
) -> None:
    stage.play(Reply.text("One."), Reply.text("Two."), Reply.text("Three."))
    liar.lie(initialize={"raw": "", "status": 401})
    tools = [toolset("notes", default_config=ALLOW), toolset("liar", default_config=ALLOW)]
    session = await stage.session(*tools, mcp_servers=[server(mcp), server(liar, "liar")])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        (locked,) = tail.of("session.error")
        liar.lie(initialize={"raw": "\x1b[31mno", "status": 500})
        await stage.send(session.id, text("Go."))
        await tail.idle(2)
        broken = tail.of("session.error")[1]
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        odd = {"type": "object", "oneOf": [{"required": ["a"]}], "properties": {"a": {"$ref": "#/nowhere"}}}
        listed = [
            {"name": "fine", "description": "\x1b[31mobey me", "inputSchema": schema},
            {"name": "odd", "inputSchema": odd},
            {"name": "fine", "description": "twice", "inputSchema": schema},
        ]
        liar.lie(
            **{"tools/list": {"tools": listed}, "notifications/initialized": {"raw": "", "status": 202}}
        )
        await stage.send(session.id, text("Go."))
        await tail.idle(3)
    assert locked.error.type == "mcp_authentication_failed_error"
    assert locked.error.mcp_server_name == "liar"
    assert (broken.error.type, broken.error.retry_status.type) == (
        "mcp_connection_failed_error",
        "retrying",
    )
    assert "HTTP 500" in broken.error.message and "\x1b" not in broken.error.message
    assert len(tail.of("session.error")) == 2
    first, second, third = stage.requests
    assert names(first) == names(second) and "mcp__notes__echo" in names(first)
    assert [name for name in names(third) if name.startswith("mcp__liar")] == ["mcp__liar__fine"]
    assert "\x1b" not in third.body.decode()


async def test_networking_binds_mcp_servers(stage: Stage, mcp: McpHost) -> None:
    client = stage.client
    agent = await client.beta.agents.create(
        name="Tester",
        model="claude-opus-5-5",
        system=stage.name,
        tools=[toolset()],
        mcp_servers=[server(mcp)],
    )

    async def environment(**fields: Any) -> str:
        made = await client.beta.environments.create(
            name="limited", config={"type": "cloud", "networking": {"type": "limited", **fields}}
        )
        return made.id

    with pytest.raises(anthropic.BadRequestError, match=r"mcp_servers\.0\.url: 'localhost'"):
        await client.beta.sessions.create(agent=agent.id, environment_id=await environment())
    opened = await environment(allow_mcp_servers=True)
    session = await client.beta.sessions.create(agent=agent.id, environment_id=opened)
    stage.session_ids.append(session.id)
    other = {"type": "url", "name": "other", "url": "https://other.example/mcp"}
    with pytest.raises(anthropic.BadRequestError, match="no mcp_toolset in tools names 'other'"):
        await client.beta.sessions.update(session.id, agent={"mcp_servers": [other]})
    bare = await client.beta.sessions.update(session.id, agent={"tools": [], "mcp_servers": []})
    assert bare.agent.mcp_servers == []


async def test_sandboxes_reach_mcp_servers_that_the_environment_opens(
    stage: Stage, mcp: McpHost, liar: McpHost
) -> None:
    networking = {"type": "limited", "allow_mcp_servers": True}
    config = {"type": "cloud", "networking": networking}
    environment = await stage.client.beta.environments.create(name="limited", config=config)
    curl = "curl -s --noproxy '' -H 'Accept: application/json, text/event-stream'"
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "curl", "version": "8"},
        },
    }
    said = f"{curl} --json '{json.dumps(hello)}' {mcp.url}"
    refused = f"{curl} -o /dev/null -w '%{{http_code}}' {liar.url}"
    stage.play(Reply.tools(call(1, "bash", command=f"{said}; {refused}")), Reply.text("Done."))
    session = await stage.session(
        TOOLSET, toolset(), mcp_servers=[server(mcp)], environment_id=environment.id
    )
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    (result,) = tail.of("agent.tool_result")
    assert '"serverInfo":{"name":"test"' in words(result), "it speaks to the agent's server"
    assert words(result).endswith("403"), "and to no other at the same host"


async def test_tools_that_change_are_seen_when_the_session_next_runs(stage: Stage, liar: McpHost) -> None:
    def list_(*names: str) -> None:
        liar.lie(
            **{
                "tools/list": {
                    "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]
                },
                "tools/call": {"content": [{"type": "text", "text": "called"}]},
                "notifications/initialized": {"raw": "", "status": 202},
            }
        )

    list_("one")
    stage.play(Reply.tools(call(1, "mcp__liar__one")), Reply.text("Done."), Reply.text("Done."))
    session = await stage.session(toolset("liar"), mcp_servers=[server(liar, "liar")])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        list_("two", "one")
        (use,) = tail.of("agent.mcp_tool_use")
        confirmation = {"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"}
        await stage.send(session.id, confirmation)
        await tail.idle(2)
        assert words(tail.of("agent.mcp_tool_result")[0]) == "called"
        await asyncio.sleep(0)
    assert names(stage.requests[0]) == ["mcp__liar__one"]
    assert names(stage.requests[1]) == ["mcp__liar__one", "mcp__liar__two"]


async def test_tools_that_come_and_go_during_a_turn_are_seen_in_it(stage: Stage, mcp: McpHost) -> None:
    """As soon as the server has said so, which it does again while it was not heard."""
    sudden = "mcp__notes__sudden"
    steps = iter(["add", "use", "remove", "use anyway", "end"])
    step = next(steps)

    def script(request: Any) -> Any:
        nonlocal step
        number, is_offered = request.turns, sudden in names(request)
        if step in ("use", "use anyway") and is_offered != (step == "use"):
            return Reply.tools(call(number, "mcp__notes__change"))
        this, step = step, next(steps, "end")
        match this:
            case "add":
                return Reply.tools(call(number, "mcp__notes__change", add="sudden"))
            case "remove":
                return Reply.tools(call(number, "mcp__notes__change", remove="sudden"))
            case "use" | "use anyway":
                return Reply.tools(call(number, sudden))
        return Reply.text("Done.")

    stage.script = script
    session = await stage.session(toolset(default_config=ALLOW), mcp_servers=[server(mcp)])
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle(seconds=60)
    used, refused = [use for use in tail.of("agent.mcp_tool_use") if use.name == "sudden"]
    results = {result.mcp_tool_use_id: result for result in tail.of("agent.mcp_tool_result")}
    assert words(results[used.id]) == "grown"
    assert refused.evaluated_permission == "deny" and "no tool 'sudden'" in words(results[refused.id])
    assert len(tail.of("session.status_running")) == 1, "all of it is one turn"
    logged = [
        [tool["name"] for tool in event.private["mcp"]["notes"]["tools"]]
        for event in stage.server.snapshot(session.id).events
        if event.type == "span.model_request_start" and event.private and "mcp" in event.private
    ]
    assert ["sudden" in tools for tools in logged] == [False, True, False], "what changed, and only that"
