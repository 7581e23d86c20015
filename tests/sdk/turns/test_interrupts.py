"""user.interrupt in every state of a session."""

import asyncio

import pytest

from corral.testing.messages_reply import HttpError, Reply
from tests.served import WAIT_SECONDS, text
from tests.stage import ASK, LOOKUP, Stage, Tail, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

INTERRUPT = {"type": "user.interrupt"}
END = ["session.thread_status_idle", "session.usage", "session.status_idle"]
FINISH = "span.model_request_end"


async def test_while_the_model_streams(stage: Stage) -> None:
    reply = Reply.text("A long answer that nobody will see to its end.")
    stage.play(Reply(content=reply.content, hang_after_bytes=len(reply.stream) - 40), Reply.text("Yes?"))
    session = await stage.session()
    async with stage.watch(session.id, event_deltas=["agent.message"]) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("event_delta")
        queued = (await stage.send(session.id, text("Later."), INTERRUPT))[1]
        idle = await tail.idle()
        assert idle.stop_reason.type == "end_turn"
        await asyncio.wait_for(stage.requests[0].closed.wait(), WAIT_SECONDS)
        assert stage.requests[0].is_aborted, "the upstream request was abandoned"
        await tail.idle(2)
    # The interrupt overtakes the message, which starts the next turn.
    taken = tail.types[tail.types.index(FINISH) :]
    assert taken[:6] == [FINISH, "user.interrupt", *END, "session.status_running"]
    assert taken[6:8] == ["session.thread_status_running", "user.message"]
    end = await tail.until(FINISH)
    assert end.is_error and end.model_usage.output_tokens == 0
    assert len(tail.of("agent.message")) == 1, "an interrupted request leaves no message"
    processed = [event for event in tail.of("user.interrupt") if event.processed_at is not None]
    assert [event.id for event in processed] == [queued.id]
    assert [block["text"] for block in stage.requests[1].json["messages"][0]["content"]] == [
        "Go.",
        "Later.",
    ]


@pytest.mark.parametrize(
    "command",
    ["sleep 600", "trap '' INT TERM HUP; echo deaf; while :; do sleep 1; done", "setsid sleep 600 & wait"],
    ids=["sleeping", "deaf", "child"],
)
async def test_while_a_tool_runs(stage: Stage, command: str) -> None:
    stage.play(
        Reply.tools(("toolu_1", "bash", {"command": f"touch began; {command}"})), Reply.text("Fresh.")
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("agent.tool_use")
        await stage.exists(session.id, "began")
        await stage.send(session.id, INTERRUPT)
        result = await tail.until("agent.tool_result")  # which by itself would be there minutes later
        await tail.idle()
        assert result.is_error and "interrupted" in words(result)
        assert tail.types[-5:] == ["agent.tool_result", "user.interrupt", *END]
        assert len(stage.requests) == 1, "an interrupted turn does not ask again"
        await stage.send(session.id, text("Again."))
        await tail.idle(2)
    last = stage.requests[1].json["messages"][-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text"]


async def test_with_a_message_behind_it_while_parallel_tools_run(stage: Stage) -> None:
    """What has not started never starts; the session still works afterwards, in the same workspace."""
    calls = [("toolu_1", "bash", {"command": "touch one; sleep 100"})]
    calls.append(("toolu_2", "bash", {"command": "touch two"}))
    after = Reply.tools(("toolu_3", "bash", {"command": "ls"}))
    stage.play(Reply.tools(*calls), after, Reply.text("Done."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await stage.exists(session.id, "one")
        await stage.send(session.id, INTERRUPT, text("Something else."))
        await tail.idle(2)
    results = tail.of("agent.tool_result")
    assert [result.is_error for result in results] == [True, True, False]
    assert words(results[2]).split() == ["one"]
    assert [kind for kind in tail.types if kind.startswith("session.status")] == [
        "session.status_running",
        "session.status_idle",
    ] * 2


async def test_while_it_backs_off(stage: Stage) -> None:
    stage.play(HttpError(status=529, headers={"retry-after": "200"}), Reply.text("Calm."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("session.status_rescheduled")
        await tail.until("session.thread_status_rescheduled")
        assert (await stage.client.beta.sessions.retrieve(session.id)).status == "rescheduling"
        await stage.send(session.id, INTERRUPT)
        idle = await tail.idle()
        assert idle.stop_reason.type == "end_turn"
        await stage.send(session.id, text("Now."))
        await tail.idle(2)
    assert len(stage.requests) == 2


async def test_while_it_waits_for_the_client(stage: Stage) -> None:
    calls = [("toolu_1", "bash", {"command": "touch never"}), ("toolu_2", "lookup", {"word": "corral"})]
    stage.play(Reply.tools(*calls), Reply.text("Then not."))
    session = await stage.session(ASK, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        blocked = await tail.idle()
        assert blocked.stop_reason.type == "requires_action"
        assert len(blocked.stop_reason.event_ids) == 2
        await stage.send(session.id, INTERRUPT)
        idle = await tail.idle(2)
        assert idle.stop_reason.type == "end_turn"
        results = tail.of("agent.tool_result")
        assert [result.tool_use_id for result in results] == blocked.stop_reason.event_ids
        assert all(result.is_error and "interrupted" in words(result) for result in results)
        # A late answer is taken without effect.
        await stage.send(
            session.id,
            {"type": "user.custom_tool_result", "custom_tool_use_id": blocked.stop_reason.event_ids[1]},
        )
        await stage.send(session.id, text("Well?"))
        await tail.idle(3)
    assert len(stage.requests) == 2
    assert not stage.server.workspace(session.id).joinpath("never").exists()


async def test_with_a_message_while_it_waits_for_the_client(stage: Stage) -> None:
    stage.play(Reply.tools(("toolu_1", "bash", {"command": "touch never"})), Reply.text("Fine."))
    session = await stage.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        await stage.send(session.id, INTERRUPT, text("Leave it."))
        await _until_ended(tail)
    assert [block["type"] for block in stage.requests[1].json["messages"][-1]["content"]] == [
        "tool_result",
        "text",
    ]


async def test_while_idle_it_is_only_processed(stage: Stage) -> None:
    stage.play(Reply.text("Hi."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        sent = await stage.send(session.id, INTERRUPT)
        await tail.until("user.interrupt", 2)
        await stage.send(session.id, text("Go."))
        await tail.idle()
    history = await stage.history(session.id)
    assert history[0].id == sent[0].id and history[1].type == "session.status_running"


async def test_of_one_thread(stage: Stage) -> None:
    stage.play(Reply(hang_after_bytes=0))
    session = await stage.session()
    (thread,) = [each async for each in stage.client.beta.sessions.threads.list(session.id)]
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await stage.asked(1)
        await stage.send(session.id, {**INTERRUPT, "session_thread_id": thread.id})
        assert (await tail.idle()).stop_reason.type == "end_turn"


async def test_many_in_a_row(stage: Stage) -> None:
    stage.play(Reply(hang_after_bytes=0), Reply.text("Last."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await stage.asked(1)
        await asyncio.gather(*(stage.send(session.id, INTERRUPT) for _ in range(8)))
        await stage.send(session.id, text("Go on."))
        await _until_ended(tail)
    assert len(stage.requests) == 2


async def _until_ended(tail: Tail) -> None:
    """Until a turn ended with a message."""
    await tail.until("agent.message")
    number = len(tail.of("session.status_idle"))
    if tail.types[-1] != "session.status_idle":
        await tail.idle(number + 1)
