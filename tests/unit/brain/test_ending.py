"""Turns that are ended before the model ends them: bounds, kills, poison, input that no provider takes."""

import pytest

from corral.brain.actions import Aborted, AskModel, Failed, RunTool, Stop, Waited
from corral.brain.ending import LEFT_BEHIND, NEVER_RAN, TurnLimits
from corral.brain.ports import ModelFailed
from corral.kernel.limits import SESSION_FAILURES_MAX
from corral.session import events as ev
from corral.session.call import INTERRUPTED
from corral.session.conversation import LEFT_OUT
from tests.unit.brain.scene import CUSTOM, Scene, agent, call, text

ENDS = ["session.error", "session.thread_status_idle", "session.usage", "session.status_idle"]


def check_ended(scene: Scene, *words: str, error: str = "unknown_error") -> None:
    """Idle, with an error that says these words, nothing left open, and a log that folds to the same."""
    assert scene.last("session.status_idle").stop_reason == {"type": "retries_exhausted"}
    said = scene.last("session.error").error
    assert (said["type"], said["retry_status"]) == (error, {"type": "exhausted"})
    assert all(word in said["message"] for word in words), said["message"]
    thread = scene.state.primary
    assert (thread.status, thread.request, thread.calls) == ("idle", None, {})
    rebuilt = scene.rebuilt()
    assert rebuilt.primary == thread


def stopped(scene: Scene) -> set[type]:
    return {type(each.action) for each in scene.decide() if isinstance(each, Stop)}


# -- bounds ----------------------------------------------------------------------------------------------


def test_a_model_request_is_stopped_when_the_time_is_up() -> None:
    scene = Scene()
    scene.limits = TurnLimits(seconds_max=60)
    scene.say("go")
    scene.step()
    asked = scene.asked()
    scene.wait(59)
    assert scene.step() == []
    assert stopped(scene) == set()
    scene.wait(1)
    assert scene.step() == [], "what is in flight is stopped first"
    assert stopped(scene) == {AskModel}
    assert scene.step(Aborted(action=asked)) == ["span.model_request_end", *ENDS]
    check_ended(scene, "60", "turn_seconds_max")


def test_a_tool_is_stopped_when_the_time_is_up_and_its_result_is_kept() -> None:
    scene = Scene()
    scene.limits = TurnLimits(seconds_max=60)
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(call()))
    scene.decide()
    scene.wait(60)
    assert scene.step() == []
    assert stopped(scene) == {RunTool}
    assert scene.step(scene.ran(INTERRUPTED, is_error=True)) == ["agent.tool_result", *ENDS]
    check_ended(scene, "turn_seconds_max")


def test_a_tool_of_a_dead_brain_is_found_and_stopped_when_the_time_is_up() -> None:
    scene = Scene()
    scene.limits = TurnLimits(seconds_max=60)
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(call()))
    scene.restart()
    scene.wait(60)
    assert scene.step() == []
    started = scene.decide()
    assert {type(each) for each in started} == {RunTool, Stop}
    scene.step(scene.ran(INTERRUPTED, is_error=True))
    check_ended(scene, "turn_seconds_max")


def test_a_backoff_is_part_of_the_turn() -> None:
    scene = Scene()
    scene.limits = TurnLimits(seconds_max=60)
    scene.say("go")
    scene.step()
    asked = scene.asked()
    scene.step(Failed(action=asked, error=ModelFailed("busy", failure="overloaded", retryable=True)))
    scene.decide()
    scene.wait(60)
    assert scene.step() == []
    backoff = scene.backing_off()
    assert scene.decide() == {Stop(action=backoff)}
    scene.step(Aborted(action=backoff))
    check_ended(scene, "turn_seconds_max")


def test_waiting_for_the_client_takes_no_time_and_ends_no_turn() -> None:
    scene = Scene(agent(tools=[CUSTOM]))
    scene.limits = TurnLimits(seconds_max=60, rounds_max=2)
    scene.say("go")
    scene.step()
    scene.asked()
    scene.wait(30)
    scene.step(scene.reply(call(name="lookup")))
    scene.wait(3600)
    scene.answer_custom(next(iter(scene.state.primary.calls)))
    scene.step()
    assert 30 < scene.state.primary.turn_seconds(scene.state.last_at) < 31
    assert scene.state.primary.rounds == 1, "the turn goes on where it was"
    scene.asked()
    scene.step(scene.reply(call(number=2)))
    scene.decide()
    scene.step(scene.ran())
    check_ended(scene, "2", "turn_rounds_max", error="tool_use_limit_reached_error")


def test_tokens_of_earlier_turns_do_not_count() -> None:
    scene = Scene()
    scene.limits = TurnLimits(tokens_max=30)  # a reply of the scene takes 15
    for _ in range(3):
        scene.say("go")
        scene.step()
        scene.asked()
        scene.step(scene.reply(text("hi")))
        assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}
    scene.say("go")
    scene.step()
    for number in (1, 2):
        scene.asked()
        scene.step(scene.reply(call(number)))
        scene.decide()
        scene.step(scene.ran())
    check_ended(scene, "30", "turn_tokens_max")
    scene.say("on")
    scene.step()
    assert scene.asked(), "the next turn begins anew"


# -- kills -----------------------------------------------------------------------------------------------


def test_a_kill_stops_the_request_and_drops_what_waits() -> None:
    scene = Scene()
    scene.say("go")
    scene.step()
    asked = scene.asked()
    scene.say("and more")
    scene.kill("costs too much")
    assert scene.step() == []
    assert stopped(scene) == {AskModel}
    written = scene.step(Aborted(action=asked))
    assert written == [
        "span.model_request_end",
        "user.interrupt",
        "session.error",
        "user.message",
        *ENDS[1:],
    ]
    check_ended(scene, "Stopped by an operator: costs too much")
    assert not scene.state.inbox
    assert [entry.content for entry in scene.state.primary.entries] == [(text("go"),)], "moot"
    scene.say("again")
    scene.step()
    assert scene.asked(), "the session lives"


@pytest.mark.parametrize("policy", ["always_ask", "custom"])
def test_a_kill_ends_what_waits_for_the_client(policy: str) -> None:
    scene = Scene(agent(tools=[CUSTOM]) if policy == "custom" else agent(policy=policy))
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(call(name="lookup" if policy == "custom" else "bash")))
    assert scene.last("session.status_idle").stop_reason["type"] == "requires_action"
    scene.kill("no")
    assert scene.step() == ["agent.tool_result", "user.interrupt", *ENDS]
    check_ended(scene, "Stopped by an operator: no")


def test_a_kill_ends_a_backoff() -> None:
    scene = Scene()
    scene.say("go")
    scene.step()
    asked = scene.asked()
    scene.step(Failed(action=asked, error=ModelFailed("busy", failure="overloaded", retryable=True)))
    scene.decide()
    backoff = scene.backing_off()
    scene.kill("no")
    assert scene.decide() == {Stop(action=backoff)}
    assert scene.step(Aborted(action=backoff)) == ["user.interrupt", *ENDS]
    check_ended(scene, "Stopped by an operator: no")


def test_a_kill_that_comes_before_the_turn_begins() -> None:
    scene = Scene()
    scene.say("go")
    scene.kill("no")
    assert scene.step() == [
        "user.interrupt",
        "session.status_running",
        "session.thread_status_running",
        "session.error",
        "user.message",
        *ENDS[1:],
    ]
    check_ended(scene, "Stopped by an operator: no")


def test_a_kill_that_comes_too_late_leaves_no_error() -> None:
    scene = Scene()
    scene.kill("no")
    assert scene.step() == ["user.interrupt"]


# -- poison ----------------------------------------------------------------------------------------------


def test_a_session_that_kills_its_brains_is_ended_without_being_tried_again() -> None:
    scene = Scene(agent(tools=[CUSTOM]))
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(call(1), call(2, name="lookup")))
    sent, asked = scene.state.primary.calls
    scene.say("hello?")
    scene.restart()
    scene.failures = SESSION_FAILURES_MAX
    assert scene.step() == ["agent.tool_result", "agent.tool_result", *ENDS[:1], "user.message", *ENDS[1:]]
    assert scene.decide() == set()
    results = [new for new in scene.events if new.event.type == "agent.tool_result"]
    said = {new.answers: (new.event.content[0]["text"], new.private) for new in results}  # type: ignore[attr-defined]
    assert said == {sent: (LEFT_BEHIND, {"left": True}), asked: (NEVER_RAN, None)}
    check_ended(scene, f"{SESSION_FAILURES_MAX} times", "start a new session")


def test_a_request_of_a_poisoned_session_is_closed() -> None:
    scene = Scene()
    scene.say("go")
    scene.step()
    scene.restart()
    scene.failures = SESSION_FAILURES_MAX
    assert scene.step() == ["span.model_request_end", *ENDS]
    check_ended(scene)


def test_a_poisoned_session_that_never_began() -> None:
    scene = Scene()
    scene.say("go")
    scene.send(ev.UserInterrupt)
    scene.failures = SESSION_FAILURES_MAX
    running = ["session.status_running", "session.thread_status_running", "session.error"]
    assert scene.step() == [*running, "user.message", "user.interrupt", *ENDS[1:]]
    check_ended(scene)
    assert not scene.state.inbox
    assert scene.step() == [], "idle and empty: nothing to end"


def test_failures_below_the_bound_change_nothing() -> None:
    scene = Scene()
    scene.failures = SESSION_FAILURES_MAX - 1
    scene.say("go")
    scene.step()
    assert scene.asked()


# -- input that the provider refuses ------------------------------------------------------------------

REFUSED = ModelFailed("400: no", failure="request_failed", retryable=False, is_refused=True)
PICTURE = {"type": "image", "source": {"type": "url", "url": "https://example.com/gone.png"}}


def test_a_message_that_the_provider_refuses_is_not_sent_again() -> None:
    scene = Scene()
    scene.say("first")
    scene.step()
    scene.asked()
    scene.step(scene.reply(text("hi")))
    scene.send(ev.UserMessage, content=[PICTURE])
    scene.step()
    scene.step(Failed(action=scene.asked(), error=REFUSED))
    check_ended(scene, "left out", error="model_request_failed_error")
    assert [entry.content for entry in scene.state.primary.entries] == [(text("first"),), (text("hi"),)]
    scene.say("go on")
    scene.step()
    assert [entry.role for entry in scene.state.primary.entries] == ["user", "assistant", "user"]


def test_a_result_that_the_provider_refuses_keeps_its_place() -> None:
    scene = Scene()
    scene.say("go")
    scene.step()
    scene.asked()
    scene.step(scene.reply(call()))
    scene.decide()
    scene.step(scene.ran("poisoned"))
    scene.step(Failed(action=scene.asked(), error=REFUSED))
    check_ended(scene, "left out", error="model_request_failed_error")
    result = scene.state.primary.entries[-1].content[0]
    assert (result["tool_use_id"], result["content"]) == ("toolu_1", [text(LEFT_OUT)])


def test_a_picture_that_is_gone_since_it_was_taken_is_left_out_the_second_time() -> None:
    scene = Scene()
    scene.send(ev.UserMessage, content=[text("look"), PICTURE])
    scene.step()
    scene.asked()
    scene.step(scene.reply(text("nice")))
    for _ in range(2):
        assert PICTURE in scene.state.primary.entries[0].content
        scene.say("and now?")
        scene.step()
        scene.step(Failed(action=scene.asked(), error=REFUSED))
    assert PICTURE not in scene.state.primary.entries[0].content
    assert scene.rebuilt().primary == scene.state.primary


def test_what_fails_otherwise_stays_in_the_context() -> None:
    scene = Scene()
    scene.say("go")
    scene.step()
    wrong_key = ModelFailed("401", failure="request_failed", retryable=False)
    scene.step(Failed(action=scene.asked(), error=wrong_key))
    assert [entry.content for entry in scene.state.primary.entries] == [(text("go"),)]


def test_a_wait_that_ends_in_time_goes_on() -> None:
    scene = Scene()
    scene.limits = TurnLimits(seconds_max=60)
    scene.say("go")
    scene.step()
    scene.step(Failed(action=scene.asked(), error=ModelFailed("x", failure="overloaded", retryable=True)))
    scene.decide()
    scene.wait(30)
    scene.step(Waited(action=scene.backing_off()))
    assert scene.asked()
