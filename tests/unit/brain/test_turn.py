"""The order of events in every kind of turn, and what is in flight at each point."""

from dataclasses import replace
from datetime import timedelta

import pytest

from corral.brain.actions import Aborted, AskModel, Backoff, Failed, Ran, RunTool, Stop, Unmounted, Waited
from corral.brain.judge import UNDECIDED, Judgement
from corral.brain.ports import ModelFailed, Usage
from corral.brain.turn import DENIED, NO_HANDS
from corral.kernel import limits
from corral.session import events as ev
from corral.session.call import INTERRUPTED
from corral.session.content import ToolResult
from tests.unit.brain.scene import CUSTOM, Scene, agent, call, text
from tests.unit.brain.scene import START as START_OF_SCENE

BEGIN = ["session.status_running", "session.thread_status_running"]
END = ["session.thread_status_idle", "session.usage", "session.status_idle"]
START, DONE = "span.model_request_start", "span.model_request_end"


def begun(scene: Scene, words: str = "hello") -> AskModel:
    """A turn up to its first model request."""
    scene.say(words)
    assert scene.step() == [*BEGIN, "user.message", START]
    return scene.asked()


def failure(*, retryable: bool = True, retry_after: float | None = None) -> ModelFailed:
    return ModelFailed(
        "overloaded", failure="overloaded", retryable=retryable, retry_after_seconds=retry_after
    )


def test_a_text_turn_has_the_hosted_order() -> None:
    scene = Scene()
    begun(scene)
    reply = scene.reply({"type": "thinking", "thinking": "", "signature": "s"}, text("hi"))
    assert scene.step(reply) == ["agent.thinking", "agent.message", DONE, *END]
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}
    assert scene.decide() == set()
    assert scene.last("session.usage").usage["output_tokens"] == 5


def test_a_tool_turn_has_the_hosted_order() -> None:
    scene = Scene()
    begun(scene)
    assert scene.step(scene.reply(call())) == ["agent.tool_use", DONE]
    use = scene.last("agent.tool_use")
    assert (use.evaluated_permission, use.evaluation) == ("allow", {"type": "always_allow"})
    assert scene.decide() == {RunTool(call_id=use.id, attach=False)}
    assert scene.step(scene.ran()) == ["agent.tool_result", START]
    scene.asked()
    assert scene.step(scene.reply(text("done"))) == ["agent.message", DONE, *END]
    roles = [entry.role for entry in scene.state.primary.entries]
    assert roles == ["user", "assistant", "user", "assistant"]


def test_parallel_calls_ask_the_model_once_all_have_ended() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call(1, name="read"), call(2)))
    assert len(scene.decide()) == 2
    assert scene.step(scene.ran()) == ["agent.tool_result"]
    assert scene.step(scene.ran()) == ["agent.tool_result", START]


def test_commands_for_one_shell_go_out_in_the_order_the_model_gave_them() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call(1), call(2), call(3)))
    order = []
    for _ in range(3):
        (action,) = scene.decide()
        order.append(action)
        scene.step(scene.ran())
    assert [action.call_id for action in order] == [
        event.event.id for event in scene.events if event.event.type == "agent.tool_use"
    ]


def test_a_message_during_a_tool_comes_after_its_result_without_a_status_pair() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    scene.decide()
    scene.say("and another thing")
    assert scene.step() == []
    assert scene.step(scene.ran()) == ["agent.tool_result", "user.message", START]


def test_a_message_during_the_last_reply_continues_the_turn() -> None:
    scene = Scene()
    begun(scene)
    scene.say("wait")
    assert scene.step() == []
    assert scene.step(scene.reply(text("hi"))) == ["agent.message", DONE, "user.message", START]


def test_several_messages_are_one_turn() -> None:
    scene = Scene()
    scene.say("one")
    scene.say("two")
    assert scene.step() == [*BEGIN, "user.message", "user.message", START]


def test_an_interrupt_of_a_model_request_stops_it_first() -> None:
    scene = Scene()
    asked = begun(scene)
    scene.send(ev.UserInterrupt)
    assert scene.step() == []
    assert scene.decide() == {Stop(action=asked)}
    assert scene.step(Aborted(action=asked)) == [DONE, "user.interrupt", *END]
    assert scene.last(DONE).is_error is True
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}


def test_an_interrupt_waits_for_the_killed_tool() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    (running,) = scene.decide()
    scene.send(ev.UserInterrupt)
    assert scene.step() == []
    assert scene.decide() == {Stop(action=running)}  # type: ignore[arg-type]
    killed = scene.ran(INTERRUPTED, is_error=True)
    assert scene.step(killed) == ["agent.tool_result", "user.interrupt", *END]


def test_an_interrupt_overtakes_a_queued_message_which_starts_the_next_turn() -> None:
    scene = Scene()
    asked = begun(scene)
    scene.say("queued")
    scene.send(ev.UserInterrupt)
    scene.decide()
    assert scene.step(Aborted(action=asked)) == [
        DONE,
        "user.interrupt",
        *END,
        *BEGIN,
        "user.message",
        START,
    ]


def test_the_most_that_can_be_due_at_once_fits_into_one_append() -> None:
    """A full inbox, and a reply of as many calls as fit into a model's output, all of them interrupted."""
    scene = Scene()
    begun(scene)
    for number in range(limits.INBOX_EVENTS_MAX):
        scene.say(f"and {number}")
    for _ in range(limits.INBOX_INTERRUPTS_MAX):
        scene.send(ev.UserInterrupt)
    scene.kill("enough")
    calls = [call(number) for number in range(limits.MODEL_OUTPUT_TOKENS // 16)]
    written = scene.step(scene.reply(*calls))
    assert written.count("agent.tool_result") == len(calls) and not scene.state.inbox
    assert len(written) <= limits.EVENTS_PER_APPEND_MAX


def test_an_interrupt_while_idle_is_only_processed() -> None:
    scene = Scene()
    scene.send(ev.UserInterrupt)
    assert scene.step() == ["user.interrupt"]
    assert scene.state.status == "idle"


def test_an_interrupt_closes_pending_asks() -> None:
    scene = Scene(agent(policy="always_ask", tools=[CUSTOM]))
    begun(scene)
    scene.step(scene.reply(call(1), call(2, name="lookup")))
    scene.send(ev.UserInterrupt)
    assert scene.step() == ["agent.tool_result", "agent.tool_result", "user.interrupt", *END]
    assert scene.last("agent.tool_result").content[0]["text"] == INTERRUPTED
    assert scene.state.blocked_on == []


def test_a_confirmation_runs_the_call() -> None:
    scene = Scene(agent(policy="always_ask"))
    begun(scene)
    assert scene.step(scene.reply(call())) == ["agent.tool_use", DONE, *END]
    use = scene.last("agent.tool_use")
    assert (use.evaluated_permission, use.evaluation) == ("ask", {"type": "always_ask"})
    idle = scene.last("session.status_idle")
    assert idle.stop_reason == {"type": "requires_action", "event_ids": [use.id]}
    assert scene.decide() == set()
    scene.send(ev.UserToolConfirmation, tool_use_id=use.id, result="allow")
    assert scene.step() == [*BEGIN, "user.tool_confirmation"]
    assert scene.decide() == {RunTool(call_id=use.id, attach=False)}
    assert scene.step(scene.ran()) == ["agent.tool_result", START]


def test_a_denial_is_an_error_result_with_the_message() -> None:
    scene = Scene(agent(policy="always_ask"))
    begun(scene)
    scene.step(scene.reply(call()))
    use = scene.last("agent.tool_use")
    scene.send(ev.UserToolConfirmation, tool_use_id=use.id, result="deny", deny_message="Not on a Friday")
    assert scene.step() == [*BEGIN, "user.tool_confirmation", "agent.tool_result", START]
    result = scene.last("agent.tool_result")
    assert result.is_error
    assert result.content[0]["text"] == f"{DENIED} Not on a Friday"


def test_a_partial_answer_re_emits_idle_with_the_rest() -> None:
    scene = Scene(agent(policy="always_ask", tools=[CUSTOM]))
    begun(scene)
    scene.step(scene.reply(call(1), call(2, name="lookup"), call(3)))
    first, custom, second = scene.state.blocked_on
    scene.send(ev.UserToolConfirmation, tool_use_id=first, result="allow")
    assert scene.step() == ["user.tool_confirmation", *END]
    assert scene.state.blocked_on == [custom, second]
    assert scene.decide() == set()
    scene.answer_custom(custom)
    assert scene.step() == END
    assert scene.state.blocked_on == [second]
    scene.send(ev.UserToolConfirmation, tool_use_id=second, result="allow")
    assert scene.step() == [*BEGIN, "user.tool_confirmation"]
    assert [action.call_id for action in scene.decide()] == [first]  # they share a shell
    scene.step(scene.ran())
    assert [action.call_id for action in scene.decide()] == [second]


def test_the_last_answer_being_a_custom_result_still_runs_what_was_confirmed() -> None:
    scene = Scene(agent(policy="always_ask", tools=[CUSTOM]))
    begun(scene)
    scene.step(scene.reply(call(1), call(2, name="lookup")))
    ask, custom = scene.state.blocked_on
    scene.send(ev.UserToolConfirmation, tool_use_id=ask, result="allow")
    scene.step()
    scene.answer_custom(custom)
    assert scene.step() == BEGIN
    assert scene.decide() == {RunTool(call_id=ask, attach=False)}


def test_an_early_custom_result_still_sees_no_extra_turn() -> None:
    scene = Scene(agent(tools=[CUSTOM]))
    begun(scene)
    assert scene.step(scene.reply(call(1, name="lookup"))) == ["agent.custom_tool_use", DONE, *END]
    scene.answer_custom(scene.state.blocked_on[0])
    assert scene.step() == [*BEGIN, START]


def test_allowed_calls_run_before_the_session_waits_for_the_client() -> None:
    scene = Scene(agent(tools=[CUSTOM]))
    begun(scene)
    assert scene.step(scene.reply(call(1), call(2, name="lookup"))) == [
        "agent.tool_use",
        "agent.custom_tool_use",
        DONE,
    ]
    scene.decide()
    assert scene.step(scene.ran()) == ["agent.tool_result", *END]


def test_an_unknown_tool_is_refused_before_any_policy() -> None:
    scene = Scene()
    begun(scene)
    assert scene.step(scene.reply(call(1, name="teleport"))) == [
        "agent.tool_use",
        DONE,
        "agent.tool_result",
        START,
    ]
    use = scene.last("agent.tool_use")
    assert use.evaluated_permission == "deny"
    assert b"evaluation" not in use.body(processed_at=None).replace(b"evaluated_permission", b"")


def test_a_failed_request_is_retried_visibly_and_then_given_up() -> None:
    scene = Scene()
    begun(scene)
    for _ in range(limits.MODEL_ATTEMPTS_MAX - 1):
        asked = next(action for action in scene.in_flight if isinstance(action, AskModel))
        assert scene.step(Failed(action=asked, error=failure())) == [
            DONE,
            "session.error",
            "session.status_rescheduled",
            "session.thread_status_rescheduled",
        ]
        assert scene.last("session.error").error["retry_status"] == {"type": "retrying"}
        scene.decide()
        assert scene.step(Waited(action=scene.backing_off())) == [*BEGIN, START]
        scene.asked()
    scene.say("queued")
    asked = next(action for action in scene.in_flight if isinstance(action, AskModel))
    assert scene.step(Failed(action=asked, error=failure())) == [
        DONE,
        "session.error",
        "user.message",
        *END,
    ]
    assert scene.last("session.error").error["retry_status"] == {"type": "exhausted"}
    assert scene.last("session.status_idle").stop_reason == {"type": "retries_exhausted"}
    begun(scene, "again")  # and the session is usable


def test_a_permanent_failure_ends_the_turn_at_once() -> None:
    scene = Scene()
    asked = begun(scene)
    written = scene.step(Failed(action=asked, error=failure(retryable=False)))
    assert written == [DONE, "session.error", *END]


def test_a_reply_resets_the_count_of_failures() -> None:
    scene = Scene()
    asked = begun(scene)
    scene.step(Failed(action=asked, error=failure(retry_after=3.0)))
    assert scene.state.primary.retry_after_seconds == 3.0
    assert scene.decide() == {Backoff(thread_id=scene.state.primary.thread_id, failures=1)}
    scene.step(Waited(action=scene.backing_off()))
    scene.asked()
    scene.step(scene.reply(call()))
    assert scene.state.primary.failures == 0


def test_an_interrupt_ends_a_backoff() -> None:
    scene = Scene()
    asked = begun(scene)
    scene.step(Failed(action=asked, error=failure()))
    (backoff,) = scene.decide()
    scene.send(ev.UserInterrupt)
    assert scene.decide() == {Stop(action=backoff)}  # type: ignore[arg-type]
    assert scene.step(Aborted(action=scene.backing_off())) == ["user.interrupt", *END]


def test_a_request_of_a_dead_brain_is_closed_and_asked_again() -> None:
    scene = Scene()
    begun(scene)
    scene.epoch, scene.in_flight = 2, set()
    assert scene.decide() == set()
    assert scene.step() == [DONE, START]
    scene.asked()


def test_a_call_of_a_dead_brain_is_attached_to() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    scene.epoch, scene.in_flight = 2, set()
    assert scene.step() == []
    use = scene.last("agent.tool_use")
    assert scene.decide() == {RunTool(call_id=use.id, attach=True)}


def test_a_call_in_a_truncated_reply_is_never_executed() -> None:
    scene = Scene()
    begun(scene)
    assert scene.step(scene.reply(text("let me"), call(), stop_reason="max_tokens")) == [
        "agent.message",
        DONE,
        *END,
    ]
    assert scene.decide() == set()
    blocks = [block["type"] for entry in scene.state.primary.entries for block in entry.content]
    assert blocks == ["text", "text"]


def test_pause_turn_resends_unchanged() -> None:
    scene = Scene()
    begun(scene)
    scene.say("a message that came meanwhile")
    paused = scene.step(scene.reply(text("searching"), stop_reason="pause_turn"))
    assert paused == ["agent.message", DONE, START]
    assert [entry.role for entry in scene.state.primary.entries] == ["user", "assistant"]
    scene.asked()
    found = scene.step(scene.reply(text("found")))
    assert found == ["agent.message", DONE, "user.message", START]


def test_a_refusal_is_its_own_stop_reason() -> None:
    scene = Scene()
    begun(scene)
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    scene.step(scene.reply(stop_reason="refusal", stop_details=details))
    idle = scene.last("session.status_idle")
    assert (idle.stop_reason, idle.stop_details) == ({"type": "refusal"}, details)


def test_a_call_without_any_hands_host_is_answered_not_dispatched() -> None:
    scene = Scene()
    scene.placement = None
    begun(scene)
    assert scene.step(scene.reply(call())) == ["agent.tool_use", DONE, "agent.tool_result", START]
    assert scene.last("agent.tool_result").content[0]["text"] == NO_HANDS


def test_a_system_message_alone_starts_no_turn() -> None:
    scene = Scene()
    scene.send(ev.SystemMessage, content=[text("be brief")])
    assert scene.step() == ["system.message"]
    scene.say("hello")
    assert scene.step() == [*BEGIN, "user.message", START]
    assert [entry.role for entry in scene.state.primary.entries] == ["system", "user"]


def test_the_round_limit_ends_the_turn() -> None:
    scene = Scene()
    begun(scene)
    scene.state.primary.rounds = limits.TOOL_ROUNDS_PER_TURN_MAX - 1
    scene.step(scene.reply(call()))
    scene.decide()
    assert scene.step(scene.ran()) == ["agent.tool_result", "session.error", *END]
    assert scene.last("session.error").error["type"] == "tool_use_limit_reached_error"


def test_nothing_new_is_begun_while_handing_over() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    scene.decide()
    scene.say("queued")
    assert scene.step(scene.ran(), starts_requests=False) == ["agent.tool_result"]
    assert scene.decide() == set()
    scene.epoch, scene.in_flight = 2, set()
    assert scene.step() == ["user.message", START]


def test_an_interrupt_while_handing_over_waits_if_a_message_does() -> None:
    """Idle, the session would need no brain, and nobody would take the message."""
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    scene.decide()
    message = scene.say("queued")
    interrupt = scene.send(ev.UserInterrupt)
    assert scene.step(scene.ran(), starts_requests=False) == ["agent.tool_result"]
    assert set(scene.state.inbox) == {message, interrupt} and scene.state.status == "running"
    scene.restart()
    assert scene.step() == ["user.interrupt", *END, *BEGIN, "user.message", START]


def test_a_new_brain_has_the_messages_that_later_inputs_have_overtaken() -> None:
    scene = Scene(agent(policy="always_ask"))
    begun(scene)
    queued = scene.say("queued while the model thinks")
    scene.step(scene.reply(call()))
    scene.send(ev.UserToolConfirmation, tool_use_id=scene.last("agent.tool_use").id, result="allow")
    scene.step()
    scene.decide()
    scene.restart()
    assert set(scene.state.inbox) == {queued}
    scene.decide()
    assert scene.step(scene.ran()) == ["agent.tool_result", "user.message", START]


def test_an_interrupt_goes_to_the_hands_before_it_closes_a_call_of_an_earlier_brain() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(call()))
    scene.decide()
    scene.restart()
    scene.send(ev.UserInterrupt)
    assert scene.step() == [], "only the hands know what became of the call"
    attached = RunTool(call_id=scene.last("agent.tool_use").id, attach=True)
    assert scene.decide() == {attached, Stop(action=attached)}
    assert scene.step(scene.ran("it had ended by itself")) == ["agent.tool_result", "user.interrupt", *END]
    assert scene.last("agent.tool_result").content[0]["text"] == "it had ended by itself"


def test_stamps_increase_from_the_creation_even_if_the_clock_went_back() -> None:
    scene = Scene()
    scene.record = replace(scene.record, created_at=START_OF_SCENE + timedelta(hours=1))
    scene.restart()
    scene.say("hello")
    scene.step()
    assert scene.events[0].processed_at > scene.record.created_at


def test_folding_the_log_again_gives_the_same_state() -> None:
    scene = Scene(agent(policy="always_ask", tools=[CUSTOM]))
    asked = begun(scene)
    scene.step(Failed(action=asked, error=failure()))
    scene.decide()
    scene.step(Waited(action=scene.backing_off()))
    scene.asked()
    scene.step(scene.reply(text("a"), call(1), call(2, name="lookup")))
    ask, custom = scene.state.blocked_on
    scene.answer_custom(custom)
    scene.step()
    scene.send(ev.UserToolConfirmation, tool_use_id=ask, result="allow")
    scene.step()
    assert replace_arrivals(scene.rebuilt()) == replace_arrivals(scene.state)


def replace_arrivals(state: object) -> object:
    return replace(state, arrival=0, inbox={})  # type: ignore[type-var]


def test_stamps_increase_strictly() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(text("hi")))
    stamps = [new.processed_at for new in scene.events]
    assert stamps == sorted(set(stamps))


def test_a_refused_draft_leaves_no_trace() -> None:
    """Every move of a turn, drafted and thrown away: the state is what the log alone gives."""
    scene = Scene(agent(policy="always_ask", tools=[CUSTOM]))
    begun(scene)
    scene.step(scene.reply(text("a"), call(1), call(2, name="lookup")))
    ask, custom = scene.state.blocked_on
    scene.answer_custom(custom)
    scene.send(ev.UserToolConfirmation, tool_use_id=ask, result="allow")
    scene.send(ev.UserInterrupt)
    before, inbox = scene.rebuilt(), dict(scene.state.inbox)
    kept = scene.state
    assert scene.step() != []
    assert scene.state is not kept
    assert replace_arrivals(kept) == replace_arrivals(before)
    assert kept.inbox == inbox


def test_the_size_of_a_state_is_that_of_its_conversation() -> None:
    scene = Scene()
    begun(scene, "x" * 1000)
    scene.step(scene.reply(text("y" * 500)))
    assert 1500 <= scene.state.chars < 1600


def test_a_failed_mount_is_said_once_and_tried_again_with_the_next_turn() -> None:
    """The call that found it failing starts once the log says so, and without it."""
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(text("a"), call(1)))
    (run,) = scene.decide()
    error = {"type": "repository_clone_error", "message": "no", "repository_url": "https://x/y"}
    failed = Unmounted(action=run, mount_id="sesrsc_1", error=error)
    assert scene.step(failed) == ["session.error"]
    assert scene.last("session.error").error == {**error, "retry_status": {"type": "retrying"}}
    assert scene.state.failed_mounts == scene.rebuilt().failed_mounts == {"sesrsc_1"}
    assert scene.decide() == {run}
    assert scene.step(failed) == [], "another call of the turn may have found the same"
    scene.restart()
    assert scene.state.failed_mounts == {"sesrsc_1"}
    scene.decide()
    scene.step(scene.ran())
    scene.asked()
    scene.step(scene.reply(text("done")))
    assert scene.state.status == "idle" and scene.state.failed_mounts
    scene.say("again")
    scene.step()
    assert scene.state.status == "running" and not scene.state.failed_mounts


def test_what_failed_is_not_said_again_after_a_model_was_waited_for() -> None:
    """It is one turn still: nothing of it is tried again."""
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(text("a"), call(1)))
    (run,) = scene.decide()
    error = {"type": "repository_clone_error", "message": "no", "repository_url": "https://x/y"}
    scene.step(Unmounted(action=run, mount_id="sesrsc_1", error=error))
    server = {"type": "mcp_connection_failed_error", "mcp_server_name": "notes", "message": "no"}
    scene.decide()
    scene.step(Ran(action=run, result=replace(ToolResult.text("no", is_error=True), trouble=server)))
    scene.step(Failed(action=scene.asked(), error=failure()))
    assert scene.state.status == "rescheduling"
    scene.decide()
    scene.step(Waited(action=scene.backing_off()))
    assert scene.state.status == "running"
    assert scene.state.failed_mounts == scene.rebuilt().failed_mounts == {"sesrsc_1"}
    assert scene.state.failed_servers == {"notes"}


def test_an_mcp_server_that_fails_is_said_once_until_the_session_goes_running() -> None:
    """Also when calls side by side, and later ones, find the same; and whoever goes on with the turn."""
    scene = Scene()
    begun(scene)
    error = {"type": "mcp_authentication_failed_error", "mcp_server_name": "notes", "message": "no"}
    failed = replace(ToolResult.text("no", is_error=True), trouble=error)

    def fail() -> int:
        told = scene.step(*(Ran(action=run, result=failed) for run in scene.decide()))
        return told.count("session.error")

    scene.step(scene.reply(text("a"), call(1), call(2, name="read")))
    assert fail() == 1
    assert scene.last("session.error").error == {**error, "retry_status": {"type": "retrying"}}
    scene.restart()
    scene.step()
    scene.asked()
    scene.step(scene.reply(text("b"), call(3)))
    assert fail() == 0
    other = {**error, "mcp_server_name": "another"}
    scene.asked()
    scene.step(scene.reply(text("c"), call(4)))
    failed = replace(failed, trouble=other)
    assert fail() == 1, "another server is another matter"
    scene.asked()
    scene.step(scene.reply(text("done")))
    assert scene.state.status == "idle"
    scene.say("again")
    scene.step()
    scene.asked()
    scene.step(scene.reply(text("d"), call(5)))
    assert fail() == 1, "it was tried again"


def test_a_mount_that_the_session_needs_is_tried_three_times_and_ends_the_turn() -> None:
    scene = Scene()
    begun(scene)
    scene.step(scene.reply(text("a"), call(1), call(2, name="read"), call(3)))
    runs = sorted(scene.decide(), key=str)
    error = {"type": "unknown_error", "message": "no"}

    def failed(run: RunTool, failures: int) -> Unmounted:
        return Unmounted(action=run, mount_id="packages", error=error, needed_failures=failures)

    for before in (0, 1):
        assert scene.step(*(failed(run, before) for run in runs)) == ["session.error"], (
            "both found the same"
        )
        assert scene.last("session.error").error["retry_status"] == {"type": "retrying"}
        assert scene.state.needed_failures == scene.rebuilt().needed_failures == before + 1
        assert len(scene.decide()) == 2
    told = scene.step(*(failed(run, 2) for run in runs))
    assert told[:4] == ["session.error", *["agent.tool_result"] * 3], "the third, too, which waited"
    assert scene.last("session.error").error["retry_status"] == {"type": "exhausted"}
    assert scene.last("agent.tool_result").is_error
    assert scene.state.status == "idle" and scene.state.stop_reason == "retries_exhausted"
    scene.say("again")
    scene.step()
    assert scene.state.status == "running" and scene.state.needed_failures == 0


JUDGED = {
    "allow": (Judgement(permission="allow"), {"type": "allow"}),
    "deny": (
        Judgement(permission="deny", reason_code="high_risk"),
        {"type": "deny", "reason_code": "high_risk"},
    ),
    "unpaid": (
        Judgement(permission="deny", reason_code="indeterminate"),
        {"type": "deny", "reason_code": "indeterminate"},
    ),
    "ask": (UNDECIDED, {"type": "ask", "reason_code": "indeterminate"}),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judged_call(name: str) -> None:
    judgement, shown = JUDGED[name]
    scene = Scene(agent(policy="auto"))
    begun(scene)
    judged = replace(judgement, model="claude-haiku-4-5", usage=Usage(input_tokens=1000, output_tokens=1))
    reply = replace(scene.reply(call()), judgements={"toolu_1": judged})
    written = scene.step(reply)
    use = scene.last("agent.tool_use")
    assert use.evaluation == {"type": "auto", "evaluated_permission": shown}
    assert use.evaluated_permission == shown["type"]
    assert scene.last(DONE).model_usage["input_tokens"] == 1010, "what the judge took is counted"
    assert scene.state.primary.measured_tokens == 15, "and is no part of the conversation"
    assert scene.state.primary.tokens.cost_microcents > 0
    if name == "allow":
        assert scene.decide() == {RunTool(call_id=use.id, attach=False)}
    elif name == "ask":
        assert scene.last("session.status_idle").stop_reason["event_ids"] == [use.id]
    else:
        assert written == ["agent.tool_use", DONE, "agent.tool_result", START]
        result = scene.last("agent.tool_result")
        assert result.is_error and "not run" in result.content[0]["text"]
    assert scene.rebuilt().primary == scene.state.primary


def test_a_call_that_nobody_judged_asks() -> None:
    scene = Scene(agent(policy="auto"))
    begun(scene)
    scene.step(scene.reply(call()))
    assert scene.last("agent.tool_use").evaluation == {
        "type": "auto",
        "evaluated_permission": {"type": "ask", "reason_code": "indeterminate"},
    }
    assert scene.state.blocked_on == [scene.last("agent.tool_use").id]


# -- self-hosted environments --------------------------------------------------------------------------


def remote_scene(*, policy: str = "always_allow") -> Scene:
    """A session whose tools run at a worker, and whose model is about to answer."""
    scene = Scene(agent(policy=policy), environment="self_hosted")
    scene.say("go")
    scene.step()
    scene.asked()
    return scene


def test_calls_for_workers_wait_for_their_results() -> None:
    scene = remote_scene()
    assert scene.step(scene.reply(call(1), call(2)))[-3:] == [
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    one, two = scene.state.blocked_on
    assert scene.state.awaits_worker and not scene.decide(), "no hands are asked"
    assert [call.placement for call in scene.state.primary.calls.values()] == [None, None]
    scene.answer_remote(one)
    assert scene.step()[-1] == "session.status_idle"
    assert scene.state.blocked_on == [two]
    scene.answer_remote(two)
    kinds = scene.step()
    assert kinds[:2] == ["session.status_running", "session.thread_status_running"]
    assert kinds[-1] == "span.model_request_start" and not scene.state.awaits_worker


def test_a_confirmed_call_for_a_worker_still_waits_for_its_result() -> None:
    scene = remote_scene(policy="always_ask")
    scene.step(scene.reply(call(1), call(2)))
    one, two = scene.state.blocked_on
    assert not scene.state.awaits_worker, "nobody may run them yet"
    scene.send(ev.UserToolConfirmation, tool_use_id=one, result="allow")
    assert scene.step() == ["user.tool_confirmation"]
    assert scene.state.awaits_worker and scene.state.blocked_on == [one, two]
    scene.answer_remote(one)
    scene.step()
    scene.send(ev.UserToolConfirmation, tool_use_id=two, result="deny", deny_message="No.")
    kinds = scene.step()
    assert kinds[:4] == [
        "session.status_running",
        "session.thread_status_running",
        "user.tool_confirmation",
        "user.tool_result",
    ]
    assert kinds[-1] == "span.model_request_start"


def test_a_worker_may_answer_before_the_confirmation_is_taken() -> None:
    scene = remote_scene(policy="always_ask")
    scene.step(scene.reply(call(1)))
    [one] = scene.state.blocked_on
    scene.send(ev.UserToolConfirmation, tool_use_id=one, result="allow")
    scene.answer_remote(one)
    assert scene.step() == [
        "session.status_running",
        "session.thread_status_running",
        "user.tool_confirmation",
        "span.model_request_start",
    ]


def test_an_interrupt_settles_a_workers_calls_in_its_own_kind() -> None:
    scene = remote_scene()
    scene.step(scene.reply(call(1)))
    scene.send(ev.UserInterrupt)
    kinds = scene.step()
    assert kinds[:2] == ["user.tool_result", "user.interrupt"] and kinds[-1] == "session.status_idle"
    assert scene.last("user.tool_result").is_error
    assert scene.last("session.status_idle").stop_reason == {"type": "end_turn"}
