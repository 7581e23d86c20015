"""Confirmations and custom tools: what a session waits for, and what frees it."""

from typing import Any

import anthropic
import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import ASK, LOOKUP, TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

END = ["session.thread_status_idle", "session.usage", "session.status_idle"]
RESUME = ["session.status_running", "session.thread_status_running"]


def confirm(tool_use_id: str, result: str = "allow", **fields: Any) -> dict[str, Any]:
    return {"type": "user.tool_confirmation", "tool_use_id": tool_use_id, "result": result, **fields}


def answer(tool_use_id: str, words: str = "a pen for horses", **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": words}]
    return {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": tool_use_id,
        "content": content,
        **fields,
    }


def call(number: int, name: str = "bash", **fields: Any) -> tuple[str, str, dict[str, Any]]:
    return f"toolu_{number}", name, fields or {"command": f"echo {number} >> ran; echo did {number}"}


async def refused(stage: Stage, session_id: str, *events: Any, match: str) -> None:
    before = [event.id for event in await stage.history(session_id)]
    with pytest.raises(anthropic.BadRequestError, match=match):
        await stage.send(session_id, *events)
    assert [event.id for event in await stage.history(session_id)] == before, "nothing was stored"


async def test_allow(stage: Stage) -> None:
    stage.play(Reply.tools(call(1)), Reply.text("Done."))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle()
        use = await tail.until("agent.tool_use")
        assert (use.evaluated_permission, use.evaluation.type) == ("ask", "always_ask")
        assert (idle.stop_reason.type, idle.stop_reason.event_ids) == ("requires_action", [use.id])
        assert not stage.server.workspace(session.id).joinpath("ran").exists()
        confirmed = (await stage.send(session.id, confirm(use.id)))[0]
        await tail.idle(2)
    # The confirmation is processed inside the running session.
    after = tail.after(idle)
    assert after[:4] == [*RESUME, "user.tool_confirmation", "agent.tool_result"]
    echo, processed = tail.of("user.tool_confirmation")
    assert (echo.id, echo.processed_at) == (confirmed.id, None) and processed.id == confirmed.id
    result = await tail.until("agent.tool_result")
    assert (words(result).strip(), result.is_error) == ("did 1", False)


async def test_deny(stage: Stage) -> None:
    stage.play(Reply.tools(call(1)), Reply.text("As you wish."))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        use = await tail.until("agent.tool_use")
        await stage.send(session.id, confirm(use.id, "deny", deny_message="Not on a Friday."))
        await tail.idle(2)
    result = await tail.until("agent.tool_result")
    assert words(result) == "Tool call was rejected by the user. Not on a Friday."
    assert result.is_error
    assert "Not on a Friday." in str(stage.requests[1].json["messages"][-1])
    assert not stage.server.workspace(session.id).joinpath("ran").exists()


async def test_partial_answers_of_several_clients(stage: Stage) -> None:
    """Two asks and a custom tool; each answer leaves the rest, the last one resumes."""
    stage.play(Reply.tools(call(1), call(2, "lookup", word="corral"), call(3)), Reply.text("Done."))
    session = await stage.session(ASK, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        first, custom, third = (await tail.idle()).stop_reason.event_ids
        await refused(stage, session.id, text("Hello?"), match="requires_action")
        await stage.send(session.id, confirm(third, "deny"))
        assert (await tail.idle(2)).stop_reason.event_ids == [first, custom]
        await stage.send(session.id, answer(custom))
        assert (await tail.idle(3)).stop_reason.event_ids == [first]
        await refused(stage, session.id, text("Still?"), match="requires_action")
        assert len(stage.requests) == 1
        await stage.send(session.id, confirm(first))
        assert (await tail.idle(4)).stop_reason.type == "end_turn"
    blocks = {b["tool_use_id"]: b for b in stage.requests[1].json["messages"][-1]["content"]}
    assert set(blocks) == {"toolu_1", "toolu_2", "toolu_3"}
    assert [bool(blocks[f"toolu_{n}"].get("is_error")) for n in (1, 2, 3)] == [False, False, True]
    assert stage.server.workspace(session.id).joinpath("ran").read_text() == "1\n"


async def test_all_answers_in_one_request(stage: Stage) -> None:
    stage.play(Reply.tools(call(1), call(2), call(3, "lookup", word="a")), Reply.text("Done."))
    session = await stage.session(ASK, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        first, second, custom = (await tail.idle()).stop_reason.event_ids
        await stage.send(session.id, confirm(first), answer(custom), confirm(second))
        assert (await tail.idle(2)).stop_reason.type == "end_turn"
    assert tail.types.count("session.status_running") == 2
    assert stage.server.workspace(session.id).joinpath("ran").read_text() == "1\n2\n"


async def test_allowed_calls_run_while_others_wait(stage: Stage) -> None:
    tools = {**TOOLSET, "configs": [{"name": "write", "permission_policy": {"type": "always_ask"}}]}
    write = call(2, "write", file_path="f", content="x")
    stage.play(Reply.tools(call(1), write), Reply.text("Done."))
    session = await stage.session(tools)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle()
        asked = (await tail.until("agent.tool_use", 2)).id
        assert idle.stop_reason.event_ids == [asked]
        assert len(tail.of("agent.tool_result")) == 1, "what may run has run"
        await stage.send(session.id, confirm(asked))
        await tail.idle(2)
    assert stage.server.workspace(session.id).joinpath("f").read_text() == "x"


async def test_an_early_custom_result(stage: Stage) -> None:
    """Sent while another tool still runs, before the idle event: the session never waits for it."""
    slow = call(1, command="until [ -e go ]; do :; done")
    stage.play(Reply.tools(slow, call(2, "lookup", word="a")), Reply.text("Done."))
    session = await stage.session(TOOLSET, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        custom = await tail.until("agent.custom_tool_use")
        assert (custom.name, custom.input) == ("lookup", {"word": "a"})
        result = (await stage.send(session.id, answer(custom.id)))[0]
        assert result.processed_at is not None, "processed on receipt"
        again = (await stage.send(session.id, answer(custom.id, "another answer")))[0]
        assert again.id == result.id, "a second result is accepted without effect"
        await stage.touch(session.id, "go")
        assert (await tail.idle()).stop_reason.type == "end_turn"
        late = (await stage.send(session.id, answer(custom.id, "too late")))[0]
        assert late.id == result.id
    assert len(tail.of("user.custom_tool_result")) == 1
    blocks = {b["tool_use_id"]: b for b in stage.requests[1].json["messages"][-1]["content"]}
    assert blocks["toolu_2"]["content"] == [{"type": "text", "text": "a pen for horses"}]
    assert len(stage.requests) == 2


async def test_a_custom_result_with_every_kind_of_block(stage: Stage) -> None:
    stage.play(Reply.tools(call(1, "lookup", word="a")), Reply.text("Done."))
    session = await stage.session(LOOKUP)
    png = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [
        {"type": "image", "source": png},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
        {
            "type": "search_result",
            "source": "https://example.com",
            "title": "T",
            "content": [{"type": "text", "text": "found"}],
            "citations": {"enabled": False},
        },
    ]
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        (custom,) = (await tail.idle()).stop_reason.event_ids
        system = {"type": "system.message", "content": [{"type": "text", "text": "Mind it."}]}
        await refused(stage, session.id, system, match="system.message")
        await stage.send(session.id, answer(custom, content=content, is_error=True), system)
        await tail.idle(2)
    *_, results, said = stage.requests[1].json["messages"]
    (block,) = results["content"]
    assert (block["content"], block["is_error"]) == (content, True)
    assert said["role"] == "system"


async def test_what_cannot_be_confirmed(stage: Stage) -> None:
    tools = {**TOOLSET, "configs": [{"name": "read", "permission_policy": {"type": "always_ask"}}]}
    stage.play(Reply.tools(call(1), call(2, "read", file_path="ran")), Reply.text("Done."))
    session = await stage.session(tools, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        allowed, asked = (event.id for event in tail.of("agent.tool_use"))
        await refused(stage, session.id, confirm(allowed), match="needs no confirmation")
        await refused(stage, session.id, confirm("sevt_unknown"), match="no tool use")
        await refused(stage, session.id, answer(asked), match="no custom tool use")
        await refused(stage, session.id, confirm(asked, deny_message="no"), match="deny_message")
        await refused(stage, session.id, confirm(asked), confirm(asked, "deny"), match="settled")
        await refused(stage, session.id, confirm(asked), confirm("sevt_unknown"), match=r"events\.1")
        await stage.send(session.id, confirm(asked))
        await tail.idle(2)
        await refused(stage, session.id, confirm(asked, "deny"), match="settled")
    assert words(tail.of("agent.tool_result")[1]).strip().endswith("1")


async def test_a_confirmation_said_again_has_no_effect(stage: Stage) -> None:
    stage.play(Reply.tools(call(1)), Reply.text("Done."))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        (asked,) = (await tail.idle()).stop_reason.event_ids
        assert len(await stage.send(session.id, confirm(asked), confirm(asked))) == 1
        await tail.idle(2)
        assert await stage.send(session.id, confirm(asked)) == []
        await refused(stage, session.id, confirm(asked, "deny"), match="settled")
    said = [event for event in await stage.history(session.id) if event.type == "user.tool_confirmation"]
    assert len(said) == 1 and len(stage.requests) == 2
    assert stage.server.workspace(session.id).joinpath("ran").read_text() == "1\n"


async def test_a_tool_that_is_disabled_or_unknown_is_refused_before_any_policy(stage: Stage) -> None:
    tools = {**ASK, "configs": [{"name": "bash", "enabled": False}]}
    stage.play(Reply.tools(call(1), call(2, "teleport", to="Mars")), Reply.text("Pity."))
    session = await stage.session(tools)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        assert (await tail.idle()).stop_reason.type == "end_turn"
    for use, result in zip(tail.of("agent.tool_use"), tail.of("agent.tool_result"), strict=True):
        assert use.evaluated_permission == "deny" and "evaluation" not in use.model_fields_set
        assert result.tool_use_id == use.id and result.is_error and use.name in words(result)
    assert "bash" not in [tool["name"] for tool in stage.requests[0].json["tools"]]
    assert not stage.server.workspace(session.id).joinpath("ran").exists()


async def test_tools_may_change_while_it_waits_and_pending_calls_keep_their_policy(stage: Stage) -> None:
    stage.play(Reply.tools(call(1)), Reply.tools(call(2)), Reply.text("Done."))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        (asked,) = (await tail.idle()).stop_reason.event_ids
        await stage.client.beta.sessions.update(session.id, agent={"tools": [TOOLSET]})
        await stage.send(session.id, confirm(asked))
        assert (await tail.idle(2)).stop_reason.type == "end_turn", "the second call needs no answer"
    assert [use.evaluated_permission for use in tail.of("agent.tool_use")] == ["ask", "allow"]
