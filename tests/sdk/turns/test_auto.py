"""Permission policy `auto`: a judge decides about each call, and whoever cannot tell asks the client."""

import json
from typing import Any

import pytest

from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from tests.served import text
from tests.stage import TOOLSET, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTO = {**TOOLSET, "default_config": {"permission_policy": {"type": "auto"}}}
RISKY = "rm -rf /workspace/precious"
VERDICTS: dict[str, Answer] = {
    "touch allowed": Reply(content=Reply.text("ALLOW").content, usage={"input_tokens": 1000}),
    RISKY: Reply.text("Deny."),
    "touch unsure": Reply.text("UNSURE"),
    "touch chatty": Reply.text("I would say ALLOW, because"),
    "touch cut": Reply(content=Reply.text("ALLOW").content, stop_reason="max_tokens"),
    "touch refused": Reply(content=[], stop_reason="refusal"),
    "touch failed": HttpError(status=500),
    "touch unpaid": HttpError(status=402),
}


def judge(request: Request) -> Answer:
    shown = json.loads(request.json["messages"][0]["content"][0]["text"])
    assert "Do it all." in shown["transcript"]
    assert "tools" not in request.json
    return VERDICTS[shown["call"]["input"]["command"]]


async def test_auto(stage: Stage) -> None:
    stage.judge = judge
    calls = [(f"toolu_{number}", "bash", {"command": command}) for number, command in enumerate(VERDICTS)]
    stage.play(Reply.tools(*calls), Reply.text("Done."))
    session = await stage.session(AUTO)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Do it all."))
        idle = await tail.idle()
        uses = {use.input["command"]: use for use in tail.of("agent.tool_use")}
        asked = [command for command in VERDICTS if command not in ("touch allowed", RISKY, "touch unpaid")]
        assert idle.stop_reason.event_ids == [uses[command].id for command in asked]
        for command, use in uses.items():
            judged = use.evaluation.evaluated_permission
            assert use.evaluation.type == "auto" and judged.type == use.evaluated_permission
            assert (judged.type, getattr(judged, "reason_code", None)) == {
                "touch allowed": ("allow", None),
                RISKY: ("deny", "high_risk"),
                "touch unpaid": ("deny", "indeterminate"),
            }.get(command, ("ask", "indeterminate"))
        denied = {result.tool_use_id: result for result in tail.of("agent.tool_result") if result.is_error}
        assert "high risk" in words(denied[uses[RISKY].id])
        assert denied.keys() == {uses[RISKY].id, uses["touch unpaid"].id}
        usage = tail.of("span.model_request_end")[0].model_usage
        assert usage.input_tokens > 1000, "the judge is counted"
        await stage.send(session.id, *[_confirmation(uses[command].id) for command in asked])
        await tail.idle(2)
    names = {path.name for path in stage.server.workspace(session.id).iterdir()}
    assert {"allowed", *(command.removeprefix("touch ") for command in asked)} <= names
    assert "unpaid" not in names


async def test_a_policy_of_a_tool_beats_the_default(stage: Stage) -> None:
    stage.judge = lambda _: pytest.fail("nothing is to be judged")
    stage.play(
        Reply.tools(("toolu_1", "bash", {"command": "true"}), ("toolu_2", "write", {})), Reply.text("Done.")
    )
    tools = {
        **AUTO,
        "configs": [
            {"name": "bash", "permission_policy": {"type": "always_allow"}},
            {"name": "write", "enabled": False},
        ],
    }
    session = await stage.session(tools)
    assert session.agent.tools[0].default_config.permission_policy.type == "auto"
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    ran, refused = tail.of("agent.tool_use")
    assert (ran.evaluated_permission, ran.evaluation.type) == ("allow", "always_allow")
    assert (refused.evaluated_permission, refused.evaluation) == ("deny", None)


def _confirmation(tool_use_id: str) -> dict[str, Any]:
    return {"type": "user.tool_confirmation", "tool_use_id": tool_use_id, "result": "allow"}
