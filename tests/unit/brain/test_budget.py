"""Budgets: the gate before each model request, the pause, and how a session goes on."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from corral.brain.actions import Failed, Replied, Waited
from corral.brain.derive import cost, derive
from corral.brain.ports import ModelFailed, Usage
from corral.session import events as ev
from corral.session.fold import fold
from corral.session.log import NewEvent
from corral.session.state import begin
from tests.unit.brain.scene import CUSTOM, MODELS, THREAD, Scene, agent, call, text

PAUSED = ["session.thread_status_idle", "session.usage", "session.status_idle"]
RESUMED = ["session.status_running", "session.thread_status_running", "span.model_request_start"]
CENT_TOKENS = 1_000_000 // 1500  # output tokens of a cent, at 15 USD per million; less than one is left


def budget(cents: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def budgeted(cents: int, *, rate: int = 0, snapshot: dict[str, Any] | None = None) -> Scene:
    scene = Scene(snapshot)
    scene.record = replace(scene.record, budget=budget(cents), runtime_rate=Decimal(rate))
    scene.state = begin(scene.record)
    return scene


def change(scene: Scene, wanted: dict[str, Any] | None) -> None:
    """The budget is changed, as the store logs it."""
    event = ev.SessionUpdated(id=scene._ids.event(), budget=wanted)
    at = scene._clock.now()
    scene.events.append(NewEvent(event=event, thread_id=THREAD, processed_at=at))
    fold(scene.state, event, thread_id=THREAD, at=at)


def costing(done: Replied, output_tokens: int) -> Replied:
    return replace(done, reply=replace(done.reply, usage=Usage(output_tokens=output_tokens)))


def asked(scene: Scene) -> None:
    scene.say("go")
    assert scene.step()[-1] == "span.model_request_start"
    scene.asked()


def paused(scene: Scene) -> None:
    """Idle at the gate after one request that crossed the cap, and its tool."""
    asked(scene)
    scene.step(costing(scene.reply(call()), 3 * CENT_TOKENS))
    scene.decide()
    assert scene.step(scene.ran()) == ["agent.tool_result", *PAUSED]


def test_the_crossing_request_finishes_its_tools_run_and_then_it_pauses() -> None:
    scene = budgeted(2)
    paused(scene)
    assert scene.last("session.status_idle").stop_reason == {"type": "budget_reached"}
    assert scene.last("session.thread_status_idle").stop_reason == {"type": "budget_reached"}
    usage = scene.last("session.usage")
    assert (usage.budget, usage.usage["list_cost"]["amount"]) == (budget(2), "3")
    assert scene.decide() == set() and scene.step() == [], "it stays as it is"
    derived = derive(scene.state, MODELS, needs_brain=False)
    assert (derived.status, derived.stop_reason) == ("idle", "budget_reached")
    assert derived.requests_cost == 3 * CENT_TOKENS * 1500
    assert (scene.rebuilt().primary, scene.rebuilt().budget) == (scene.state.primary, scene.state.budget)


def test_what_ends_with_the_crossing_request_says_end_turn() -> None:
    scene = budgeted(1)
    asked(scene)
    scene.step(costing(scene.reply(text("hi")), 2 * CENT_TOKENS))
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}


@pytest.mark.parametrize(("tokens", "goes_on"), [(2000, False), (1999, True)])
def test_the_gate_is_exact(tokens: int, goes_on: bool) -> None:
    scene = budgeted(3)  # 2000 tokens of 1500 micro-cents
    asked(scene)
    scene.step(costing(scene.reply(call()), tokens))
    scene.decide()
    assert (scene.step(scene.ran())[-1] == "span.model_request_start") == goes_on


@pytest.mark.parametrize("wanted", [budget(4), None])
def test_raised_or_removed_it_goes_on_by_itself(wanted: dict[str, Any] | None) -> None:
    scene = budgeted(2)
    paused(scene)
    rounds = scene.state.primary.rounds
    change(scene, wanted)
    assert scene.state.budget == wanted
    assert scene.step() == RESUMED
    assert scene.state.primary.rounds == rounds == 1, "in the middle of the same turn"
    scene.asked()
    scene.step(scene.reply(text("done")))
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}
    assert ("budget" in scene.last("session.usage").model_fields_set) == (wanted is not None)
    assert (scene.rebuilt().primary, scene.rebuilt().budget) == (scene.state.primary, scene.state.budget)


def test_a_new_brain_finds_it_paused_and_resumes_it() -> None:
    scene = budgeted(2)
    paused(scene)
    scene.restart()
    assert scene.step() == []
    change(scene, budget(9))
    scene.restart()
    assert scene.step() == RESUMED


def test_a_pending_ask_outranks_the_cap() -> None:
    scene = budgeted(1, snapshot=agent(policy="always_ask"))
    asked(scene)
    scene.step(costing(scene.reply(call()), 2 * CENT_TOKENS))
    assert scene.last("session.status_idle").stop_reason["type"] == "requires_action"
    (use,) = scene.state.primary.calls
    scene.send(ev.UserToolConfirmation, tool_use_id=use, result="allow")
    scene.step()
    scene.decide()
    assert scene.step(scene.ran()) == ["agent.tool_result", *PAUSED]
    assert scene.last("session.status_idle").stop_reason["type"] == "budget_reached"


def test_a_custom_result_at_the_cap_is_taken_before_it_pauses() -> None:
    scene = budgeted(1, snapshot=agent(tools=[CUSTOM]))
    asked(scene)
    scene.step(costing(scene.reply(call(name="lookup")), 2 * CENT_TOKENS))
    scene.answer_custom(next(iter(scene.state.primary.calls)))
    assert scene.step() == [*RESUMED[:2], *PAUSED]
    assert scene.state.stop_reason == "budget_reached"


def test_an_interrupt_that_comes_with_the_raise_ends_the_turn() -> None:
    scene = budgeted(2)
    paused(scene)
    change(scene, budget(9))
    scene.send(ev.UserInterrupt)
    assert scene.step() == ["user.interrupt", *PAUSED]
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}
    assert scene.step() == [] and scene.decide() == set()


def test_running_time_is_part_of_the_cost_and_idle_time_is_not() -> None:
    scene = budgeted(1, rate=3_600_000)  # a micro-cent for each millisecond
    asked(scene)
    scene.wait(1000)
    scene.step(costing(scene.reply(call()), 0))
    scene.decide()
    scene.step(scene.ran())
    assert scene.last("session.status_idle").stop_reason == {"type": "budget_reached"}
    seconds = scene.last("session.usage").usage["active_seconds"]
    before = cost(scene.state, MODELS, at=scene.state.last_at)
    assert before == round(scene.state.active_seconds * 1000)
    assert 1_000_000 <= round(seconds * 1000) <= before < 1_001_000
    scene.wait(36_000)
    change(scene, budget(2))
    assert cost(scene.state, MODELS, at=scene._clock.now()) == before


def test_backing_off_costs_nothing() -> None:
    scene = budgeted(1, rate=3_600_000)
    scene.say("go")
    scene.step()
    action = scene.asked()
    scene.step(Failed(action=action, error=ModelFailed("busy", failure="overloaded", retryable=True)))
    scene.decide()
    scene.wait(36_000)
    assert scene.step(Waited(action=scene.backing_off()))[-1] == "span.model_request_start"


def test_a_model_whose_price_is_gone_is_not_asked() -> None:
    snapshot = agent() | {"model": {"id": "claude-next-9", "speed": "standard"}}
    scene = budgeted(100, snapshot=snapshot)
    scene.say("go")
    assert scene.step()[-3:] == PAUSED
    assert scene.state.stop_reason == "budget_reached"
    change(scene, None)
    assert scene.step() == RESUMED


def test_sums_of_many_short_runs_stay_whole_microseconds() -> None:
    scene = budgeted(1_000_000)
    for _ in range(300):
        asked(scene)
        scene.wait(0.000_1)
        scene.step(scene.reply(text("hi")))
    exact = sum(
        (
            (idle.processed_at - running.processed_at)
            for running, idle in zip(
                (new for new in scene.events if new.event.type == "session.status_running"),
                (new for new in scene.events if new.event.type == "session.status_idle"),
                strict=True,
            )
        ),
        start=scene.events[0].processed_at - scene.events[0].processed_at,
    )
    assert scene.state.active_seconds == exact.total_seconds()


def test_what_a_tool_of_ours_costs_counts() -> None:
    """A web search in the control plane says so in the private part of its result."""
    scene = budgeted(2)
    asked(scene)
    scene.step(costing(scene.reply(call()), 1))
    (use,) = scene.state.primary.calls
    usage = {"web_search_requests": 2, "cost_microcents": str(MODELS.search_cost(2))}
    event = ev.AgentToolResult(id=scene._ids.event(), tool_use_id=use, content=[])
    new = NewEvent(
        event=event,
        thread_id=THREAD,
        processed_at=scene._clock.now(),
        answers=use,
        private={"usage": usage},
    )
    scene.events.append(new)
    fold(scene.state, event, thread_id=THREAD, at=new.processed_at, private=new.private, answers=use)
    assert scene.step() == PAUSED, "two searches cost two cents"
    shown = scene.last("session.usage").usage
    assert shown["server_tool_use"]["web_search_requests"] == 2
    assert (shown["list_cost"]["amount"], shown["output_tokens"]) == ("2", 1)
    assert scene.rebuilt().primary == scene.state.primary
