"""Budgets over the official SDK, real processes and a scripted model: pause, raise, remove."""

from typing import Any

import anthropic
import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import ASK, MODEL, TOOLSET, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAUSED = ["session.thread_status_idle", "session.usage", "session.status_idle"]
DEAR = {"input_tokens": 0, "output_tokens": 5_000}  # 10 cents of claude-opus-5-5


def budget(cents: int | str) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def bash(number: int, command: str = "true", usage: dict[str, int] = DEAR) -> Reply:
    call = Reply.tools((f"toolu_{number}", "bash", {"command": command}))
    return Reply(content=call.content, stop_reason="tool_use", usage=usage)


async def refused(sending: Any) -> tuple[str, str | None]:
    with pytest.raises(anthropic.BadRequestError) as error:
        await sending
    said = error.value.body["error"]  # type: ignore[index]
    return said["message"], (said.get("details") or {}).get("error_code")


async def test_a_session_pauses_at_its_budget_and_goes_on_when_it_is_raised(stage: Stage) -> None:
    sessions = stage.client.beta.sessions
    stage.play(bash(1), bash(2), Reply.text("Done."))
    session = await stage.session(budget=budget(5))
    assert session.budget.to_dict() == budget(5)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle()
        assert idle.stop_reason.type == "budget_reached"
        assert tail.types[-4:] == ["agent.tool_result", *PAUSED], "the crossing request's tool ran"
        usage = tail.of("session.usage")[-1]
        assert (usage.usage.list_cost.amount, usage.budget.to_dict()) == ("10", budget(5))
        assert tail.of("session.thread_status_idle")[-1].stop_reason.type == "budget_reached"

        # At the cap: what settles calls, and an interrupt that changes nothing.
        message, _ = await refused(stage.send(session.id, text("And?")))
        for taken in ("tool_confirmation", "tool_result", "custom_tool_result", "interrupt"):
            assert f"user.{taken}" in message
        before = await stage.history(session.id)
        assert await stage.send(session.id, {"type": "user.interrupt"}) == []
        assert await stage.history(session.id) == before

        # Not to what is used up already; what is not refused resumes it, without another word.
        assert (await refused(sessions.update(session.id, budget=budget(10))))[1] == "budget_not_raised"
        raised = await sessions.update(session.id, budget=budget(15))
        assert raised.budget.to_dict() == budget(15)
        assert (await tail.idle(2)).stop_reason.type == "budget_reached"
        updated = tail.of("session.updated")[-1]
        assert updated.model_fields_set - {"id", "type", "processed_at"} == {"budget"}
        assert len(stage.requests) == 2

        # Removed for good.
        removed = await sessions.update(session.id, budget=None)
        assert removed.budget is None
        assert (await tail.idle(3)).stop_reason.type == "end_turn"
        assert "budget" not in tail.of("session.usage")[-1].model_fields_set
        assert "budget" in tail.of("session.updated")[-1].model_fields_set
        assert (await refused(sessions.update(session.id, budget=budget(99))))[1] == "budget_create_only"
    now = await sessions.retrieve(session.id)
    assert (now.status, now.usage.list_cost.amount, now.usage.output_tokens) == ("idle", "20", 10_012)


async def test_a_pending_ask_outranks_the_cap(stage: Stage) -> None:
    stage.play(bash(1), Reply.text("Done."))
    session = await stage.session(ASK, budget=budget(1))
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle()
        assert idle.stop_reason.type == "requires_action"
        (call_id,) = idle.stop_reason.event_ids
        await stage.send(
            session.id, {"type": "user.tool_confirmation", "tool_use_id": call_id, "result": "allow"}
        )
        assert (await tail.idle(2)).stop_reason.type == "budget_reached"
        await stage.client.beta.sessions.archive(session.id)
    assert len(stage.requests) == 1


async def test_the_last_request_of_a_turn_may_cross_the_cap(stage: Stage) -> None:
    stage.play(Reply(content=Reply.text("Done.").content, usage=DEAR))
    session = await stage.session(TOOLSET, budget=budget(1))
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        assert (await tail.idle()).stop_reason.type == "end_turn"
    message, _ = await refused(stage.send(session.id, text("On.")))
    assert "budget" in message
    await stage.client.beta.sessions.update(session.id, budget=budget(11))
    assert (await stage.client.beta.sessions.retrieve(session.id)).status == "idle", "it waits for nothing"


async def test_what_a_budget_must_be(stage: Stage) -> None:
    for wrong in ("0", "007", "-1", "1.5", "", "1" * 16):
        message, _ = await refused(stage.session(budget=budget(wrong)))
        assert message.startswith("budget.max_list_cost.amount")
    euros = {"type": "limit", "max_list_cost": {"amount": "1", "currency": "EUR"}}
    assert "currency" in (await refused(stage.session(budget=euros)))[0]
    assert (await refused(stage.session(budget=budget(5), model="claude-next-9")))[1] == (
        "model_not_budgetable"
    )
    without = await stage.session()
    update = stage.client.beta.sessions.update
    assert (await refused(update(without.id, budget=budget(5))))[1] == "budget_create_only"
    assert (await update(without.id, budget=None)).budget is None
    assert await stage.history(without.id) == [], "nothing has changed"
    assert without.agent.model.id == MODEL
