"""Turns as they should go: order of events, tools, messages that arrive meanwhile."""

import asyncio
import json

import anthropic
import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import ASK, LOOKUP, TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEGIN = ["session.status_running", "session.thread_status_running", "user.message"]
END = ["session.thread_status_idle", "session.usage", "session.status_idle"]
START, FINISH = "span.model_request_start", "span.model_request_end"
IMAGE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def bash(command: str, number: int = 1, **fields: object) -> tuple[str, str, dict[str, object]]:
    return f"toolu_{number}", "bash", {"command": command, **fields}


async def test_a_text_turn(stage: Stage) -> None:
    stage.play(Reply.text("Hello."))
    session = await stage.session()
    assert session.status == "idle"
    async with stage.watch(session.id) as tail:
        sent = await stage.send(session.id, text("Hi."))
        assert "processed_at" not in sent[0].model_fields_set
        idle = await tail.idle()
    assert tail.types == [*BEGIN, START, "agent.message", FINISH, *END]
    echo, processed = tail.of("user.message")
    assert echo.id == processed.id == sent[0].id
    assert tail.events[0] is echo and echo.processed_at is None
    assert (idle.stop_reason.type, idle.stop_details) == ("end_turn", None)
    history = await stage.history(session.id)
    assert [event.id for event in history] == [event.id for event in tail.events[1:]]
    # The status was visible before the event was.
    assert (await stage.client.beta.sessions.retrieve(session.id)).status == "idle"


async def test_a_tool_turn(stage: Stage) -> None:
    stage.play(
        Reply.tools(bash("echo $((6*7)) > answer; cat answer"), say="Let me see."), Reply.text("42.")
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("What is 6*7?"))
        await tail.idle()
    tools = [START, "agent.message", "agent.tool_use", FINISH, "agent.tool_result"]
    assert tail.types == [*BEGIN, *tools, START, "agent.message", FINISH, *END]
    use, result = await tail.until("agent.tool_use"), await tail.until("agent.tool_result")
    assert (use.name, use.input) == ("bash", {"command": "echo $((6*7)) > answer; cat answer"})
    assert (use.evaluated_permission, use.evaluation.type) == ("allow", "always_allow")
    assert (result.tool_use_id, words(result).strip(), result.is_error) == (use.id, "42", False)
    # Toward the model the call has the model's own id.
    assert stage.requests[1].json["messages"][-1]["content"][0]["tool_use_id"] == "toolu_1"


async def test_the_private_part_of_a_reply_goes_back_verbatim_and_nowhere_else(stage: Stage) -> None:
    """Thinking with signature, a block type nobody knows, odd spacing: all of it, in order."""
    content = [
        {"type": "thinking", "thinking": "Hmm,  é\u2028", "signature": "EqQB+/=="},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "First. "},
        {"type": "text", "text": "Second."},
        {"type": "hologram", "shape": {"z": [1.50, None], "a": "ü"}},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "bash",
            "input": {"command": "true", "restart": None},
        },
    ]
    stage.play(Reply(content=content, stop_reason="tool_use"), Reply.text("Done."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Think."))
        await tail.idle()
    sent_back = stage.requests[1].json["messages"][1]
    assert sent_back["role"] == "assistant"
    blocks = [{k: v for k, v in block.items() if k != "cache_control"} for block in sent_back["content"]]
    assert json.dumps(blocks) == json.dumps(content)
    assert tail.types[4:9] == [
        "agent.thinking",
        "agent.thinking",
        "agent.message",
        "agent.tool_use",
        FINISH,
    ]
    said = (await tail.until("agent.message")).content
    assert [block.text for block in said] == ["First. ", "Second."]
    shown = json.dumps([event.to_dict(mode="json") for event in tail.events])
    for private in ("Hmm", "EqQB", "c2VjcmV0", "hologram", "toolu_1"):
        assert private not in shown
    assert (await tail.until("agent.thinking")).model_fields_set == {"id", "type", "processed_at"}


async def test_blocks_without_any_text_are_not_sent_back(stage: Stage) -> None:
    """The provider sometimes writes them and always refuses them."""
    stage.play(
        Reply(
            content=[{"type": "text", "text": ""}, *Reply.tools(bash("true")).content],
            stop_reason="tool_use",
        ),
        Reply(content=[{"type": "text", "text": "\n\n"}]),
        Reply.text("Yes."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        await stage.send(session.id, text("And?"))
        await tail.idle(2)
    for request in stage.requests:
        for message in request.json["messages"]:
            assert message["content"]
            assert all(block["text"].strip() for block in message["content"] if block["type"] == "text")


async def test_parallel_calls_share_a_shell_and_are_all_answered_before_the_model_goes_on(
    stage: Stage,
) -> None:
    calls = [bash("x=1; echo a >> f"), bash("echo $x; echo b >> f", 2), bash("cat f; false", 3)]
    stage.play(Reply.tools(*calls), Reply.text("Done."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    uses, results = tail.of("agent.tool_use"), tail.of("agent.tool_result")
    by_use = {result.tool_use_id: result for result in results}
    assert [words(by_use[use.id]).split() for use in uses[1:]] == [["1"], ["a", "b"]]
    assert [by_use[use.id].is_error for use in uses] == [False, False, True]
    assert tail.types[3:8] == [START, *["agent.tool_use"] * 3, FINISH]
    blocks = stage.requests[1].json["messages"][-1]["content"]
    assert {block["tool_use_id"] for block in blocks} == {"toolu_1", "toolu_2", "toolu_3"}
    assert {block["tool_use_id"] for block in blocks if block.get("is_error")} == {"toolu_3"}


async def test_a_message_during_a_tool_follows_its_result(stage: Stage) -> None:
    stage.play(Reply.tools(bash("until [ -e go ]; do :; done; echo over")), Reply.text("Both."))
    stage.play(Reply.text("never"))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("agent.tool_use")
        sent = await stage.send(session.id, text("And this."))
        listed = await stage.history(session.id)
        assert (
            listed[-1].id == sent[0].id and listed[-1].processed_at is None
        )  # behind all that is processed
        await stage.touch(session.id, "go")
        await tail.idle()
    assert tail.types == [
        *BEGIN,
        *(START, "agent.tool_use", FINISH, "agent.tool_result", "user.message"),
        *(START, "agent.message", FINISH, *END),
    ]
    last = stage.requests[1].json["messages"][-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]
    assert len(stage.requests) == 2


async def test_messages_during_a_reply_are_answered_in_one_more(stage: Stage) -> None:
    go = asyncio.Event()
    stage.play(Reply(content=Reply.text("One.").content, held_until=go), Reply.text("Rest."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("1"))
        await stage.asked(1)
        await stage.send(session.id, text("2"), text("3"))
        await stage.send(session.id, text("4"))
        go.set()
        await tail.idle()
    assert tail.types == [
        *BEGIN,
        *(START, "agent.message", FINISH),
        *["user.message"] * 3,
        *(START, "agent.message", FINISH, *END),
    ]
    assert [block["text"] for block in stage.requests[1].json["messages"][-1]["content"]] == ["2", "3", "4"]


async def test_several_messages_of_one_request_are_one_turn(stage: Stage) -> None:
    stage.play(Reply.text("All."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        picture = {"type": "user.message", "content": [{"type": "image", "source": IMAGE}]}
        await stage.send(session.id, text("1"), picture, text("2"))
        await tail.idle()
    assert tail.types.count("user.message") == 3 and tail.types.count(START) == 1
    blocks = stage.requests[0].json["messages"][0]["content"]
    assert [block["type"] for block in blocks] == ["text", "image", "text"]
    assert blocks[1]["source"] == IMAGE


async def test_a_session_with_initial_events_is_born_running(stage: Stage) -> None:
    go = asyncio.Event()
    stage.play(Reply(content=Reply.text("Hi.").content, held_until=go))
    session = await stage.session(initial_events=[text("Start."), text("Now.")])
    assert session.status == "running"
    async with stage.watch(session.id) as tail:
        go.set()
        await tail.idle()
    history = await stage.history(session.id)
    assert [event.type for event in history] == [
        *(*BEGIN, "user.message", START),
        *("agent.message", FINISH, *END),
    ]
    assert [block["text"] for block in stage.requests[0].json["messages"][0]["content"]] == [
        "Start.",
        "Now.",
    ]


async def test_a_system_message_joins_the_conversation(stage: Stage) -> None:
    stage.play(Reply.text("Aye."), Reply.text("Aye aye."))
    session = await stage.session()
    system = {"type": "system.message", "content": [{"type": "text", "text": "Talk like a sailor."}]}
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Hi."), system)
        await tail.idle()
        assert tail.types[:5] == [*BEGIN, "system.message", START]
        await stage.send(session.id, {**system, "content": [{"type": "text", "text": "Shout."}]})  # alone
        await stage.send(session.id, text("Again."))
        await tail.idle(2)
    roles = [message["role"] for message in stage.requests[1].json["messages"]]
    assert roles == ["user", "system", "assistant", "system", "user"]
    assert tail.types.count(START) == 2


async def test_a_system_message_needs_a_model_that_knows_them(stage: Stage) -> None:
    session = await stage.session(model="claude-sonnet-4-5")
    system = {"type": "system.message", "content": [{"type": "text", "text": "Be brief."}]}
    with pytest.raises(anthropic.BadRequestError) as refused:
        await stage.send(session.id, text("Hi."), system)
    assert "model_does_not_support_mid_conversation_system" in str(refused.value.body)
    assert await stage.history(session.id) == []


async def test_an_agent_without_tools_and_one_with_all_kinds(stage: Stage) -> None:
    """What the model is offered, and where the cache marks are."""
    quiet = {
        **TOOLSET,
        "default_config": {"enabled": False},
        "configs": [{"name": "read", "enabled": True}],
    }
    stage.play(Reply.text("a"), Reply.text("b"))
    session = await stage.session(quiet, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("1"))
        await tail.idle()
        await stage.send(session.id, text("2"))
        await tail.idle(2)
    body = stage.requests[1].json
    assert [tool["name"] for tool in body["tools"]] == ["read", "lookup"]
    marked = {"type": "ephemeral"}
    assert body["tools"][-1]["cache_control"] == body["system"][-1]["cache_control"] == marked
    assert [message["content"][-1].get("cache_control") for message in body["messages"]] == [
        None,
        marked,
        marked,
    ]
    assert body["stream"] is True and body["model"] == "claude-opus-5-5"


async def test_tools_of_a_session_change_between_turns(stage: Stage) -> None:
    stage.play(Reply.text("a"), Reply.text("b"))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("1"))
        await tail.idle()
        await stage.client.beta.sessions.update(session.id, agent={"tools": [LOOKUP]}, title="Changed")
        updated = await tail.until("session.updated")
        assert (updated.title, [tool.name for tool in updated.agent.tools]) == ("Changed", ["lookup"])
        await stage.send(session.id, text("2"))
        await tail.idle(2)
    assert "bash" in [tool["name"] for tool in stage.requests[0].json["tools"]]
    assert [tool["name"] for tool in stage.requests[1].json["tools"]] == ["lookup"]
    assert len(stage.requests[1].json["system"]) == 1  # nothing is said about a sandbox it cannot use
    stage.requests.clear()  # the prefix law holds while the tools stay the same


async def test_tools_change_while_idle_only(stage: Stage) -> None:
    stage.play(Reply(hang_after_bytes=0))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("1"))
        await stage.asked(1)
        with pytest.raises(anthropic.BadRequestError, match=r"running|idle"):
            await stage.client.beta.sessions.update(session.id, agent={"tools": [LOOKUP]})
        await stage.client.beta.sessions.update(session.id, title="Any time", metadata={"a": "b"})
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle()
