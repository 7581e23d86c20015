"""kill -9 and SIGTERM of real processes in the middle of a turn: the session goes on as if nothing was.

After each: the laws of `tests.stage` hold on the database, every acknowledged event is there once, a
command that appends a line to a file did so once, and the session is idle.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from corral.brain.summary import INSTRUCTION
from corral.hands.news import NEWS_KEPT
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from tests.served import KEY, WAIT_SECONDS, Served, lives, text, until
from tests.stage import LOOKUP, TOOLSET, Stage, Stages, frames, staged, words

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEATHS_MAX = 3  # then a new supervisor: this one would wait ever longer before it starts the server again
ONCE = "echo ran >> ran"
SLOW = "echo ran >> ran; until [ -e go ]; do sleep 0.01; done; echo over"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages() -> AsyncIterator[Stages]:
    async with staged(crashing=True) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    if stages.server.deaths >= DEATHS_MAX:
        await stages.server.restart()
    async with stages.open() as stage:
        yield stage


def conversation(*replies: Answer) -> Any:
    """By the number of assistant turns in the request: a repeated request gets the same reply."""

    def script(request: Request) -> Answer:
        return replies[request.turns]

    return script


def bash(command: str, number: int = 1) -> Reply:
    return Reply.tools((f"toolu_{number}", "bash", {"command": command}))


async def results(stage: Stage, session_id: str) -> list[Any]:
    """The tool results, once the model has said "Done." and the session is idle."""

    def is_over() -> bool:
        log = stage.server.snapshot(session_id).events
        if not log or log[-1].type != "session.status_idle":
            return False
        return b"requires_action" not in log[-1].body

    await until(is_over, every=0.05)
    await stage.rests(session_id)  # and the server that says so is up
    history = await stage.history(session_id)
    assert history[-1].type == "session.status_idle" and history[-1].stop_reason.type == "end_turn"
    assert words([event for event in history if event.type == "agent.message"][-1]) == "Done."
    return [event for event in history if event.type == "agent.tool_result"]


def lines(stage: Stage, session_id: str) -> Sequence[str]:
    return stage.server.workspace(session_id).joinpath("ran").read_text().split()


@pytest.mark.parametrize(
    "point",
    [
        "store.accept.after",  # the message is written, its sender does not know
        "brain.before_append:2",  # the reply has come, its events are not written
        "brain.after_append:2",  # the tool use is written, nothing has begun
        "brain.after_tool",  # the tool has run, its result is not written
        "store.append.after:3",  # its result is written, and nobody knows
    ],
)
async def test_the_server_dies_and_the_turn_goes_on(stage: Stage, point: str) -> None:
    stage.script = conversation(bash(ONCE), Reply.text("Done."))
    session = await stage.session()
    stage.server.crash_at(point)
    sent = await stage.send_surely(session.id, text("Go."))
    (result,) = await results(stage, session.id)
    assert stage.server.has_crashed(), f"{point} was passed"
    assert not result.is_error
    assert lines(stage, session.id) == ["ran"]
    messages = [event for event in await stage.history(session.id) if event.type == "user.message"]
    assert [event.id for event in messages] == [sent], "acknowledged once, there once"


@pytest.mark.parametrize(
    ("point", "ran", "is_known"),
    [
        ("hands.after_started", 0, False),
        ("hands.before_result", 1, False),
        ("hands.after_result", 1, True),
    ],
)
async def test_the_hands_die_and_the_call_is_answered_once(
    stage: Stage, point: str, ran: int, is_known: bool
) -> None:
    again = bash("cat ran 2>/dev/null; echo fresh", 2)
    stage.script = conversation(bash(ONCE), again, Reply.text("Done."))
    session = await stage.session()
    stage.server.crash_at(point)
    await stage.send_surely(session.id, text("Go."))
    first, second = await results(stage, session.id)
    assert stage.server.has_crashed()
    assert first.is_error != is_known
    assert is_known or "unknown" in words(first)
    # The next call works, in a fresh sandbox with the same workspace.
    news, out = (block.text for block in second.content)
    assert news == NEWS_KEPT
    assert out.split() == [*["ran"] * ran, "fresh"]


async def test_the_server_dies_while_the_model_streams(stage: Stage) -> None:
    reply = Reply.text("Done.")
    hanging = Reply(content=reply.content, hang_after_bytes=sum(map(len, reply.events[:-3])))
    stage.script = lambda _: hanging if len(stage.requests) == 1 else reply
    session = await stage.session()
    async with stage.watch(session.id, event_deltas=["agent.message"]) as tail:
        sent = await stage.send_surely(session.id, text("Go."))
        await tail.until("event_start")
        await stage.server.kill("server")
    assert not await results(stage, session.id)
    history = await stage.history(session.id)
    ends = [event.is_error for event in history if event.type == "span.model_request_end"]
    assert ends == [True, False], "the lost request is closed, and asked again"
    assert [event.id for event in history if event.type == "user.message"] == [sent]
    assert len(stage.requests) == 2


async def test_the_server_dies_while_a_summary_is_made(stage: Stage) -> None:
    """It is asked for again, and takes the conversation's place once."""
    asked: list[Request] = []

    def script(request: Request) -> Answer:
        messages = request.json["messages"]
        told = str(messages)
        if messages[-1]["content"][-1]["text"] == INSTRUCTION:
            asked.append(request)
            return Reply.text("Summary: we greeted.") if len(asked) > 1 else Reply(hang_after_bytes=200)
        if "we greeted" in told:
            return Reply.text("Done.")
        return HttpError.prompt_too_long() if "Again." in told else Reply.text("Well. " * 3_000)

    stage.script = script
    session = await stage.session(initial_events=[text("Hello. " * 3_000)])
    await stage.rests(session.id)
    await stage.send(session.id, text("Again."))
    await until(lambda: asked)
    await stage.server.kill("server")
    assert await results(stage, session.id) == []
    kinds = [event.type for event in await stage.history(session.id)]
    assert kinds.count("agent.thread_context_compacted") == 1 and len(asked) == 2
    assert "session.error" not in kinds


@pytest.mark.parametrize("how", ["kill server", "SIGTERM server", "kill supervisor", "SIGTERM all"])
async def test_a_running_tool_survives_and_its_true_result_arrives_once(stage: Stage, how: str) -> None:
    """With a reader that resumes: it misses nothing and sees nothing twice."""
    stage.script = conversation(bash(SLOW), Reply.text("Done."), Reply.text("Done."))
    session = await stage.session()
    reading = asyncio.create_task(_follow(stage.server, session.id))
    await stage.send_surely(session.id, text("Go."))
    await stage.exists(session.id, "ran")
    match how:
        case "kill server":
            await stage.server.kill("server")
        case "SIGTERM server":
            await stage.server.kill("server", signal.SIGTERM)
        case "kill supervisor":
            hands = stage.server.pid("hands")
            await stage.server.restart()
            assert stage.server.pid("hands") == hands, "the hands were adopted"
        case "SIGTERM all":
            pid = stage.server.pid("server")
            stopping = asyncio.create_task(stage.server.stop())
            await until(lambda: not lives(pid))
            await stage.touch(session.id, "go")  # the hands let it end before they do
            await stopping
            await stage.server.start()
    later = await stage.send_surely(session.id, text("Are you there?"))
    await stage.touch(session.id, "go")
    await until(lambda: later in [event.event_id for event in stage.server.snapshot(session.id).events])
    (result,) = await results(stage, session.id)
    assert (words(result).strip(), result.is_error) == ("over", False)
    assert lines(stage, session.id) == ["ran"]
    history = await stage.history(session.id)
    kinds = [event.type for event in history]
    if how != "SIGTERM all":  # where it ended before the message came
        # Taken behind the result, in the same turn: who runs the session changed, not the session.
        assert history[kinds.index("agent.tool_result") + 1].id == later
        assert kinds.count("session.status_running") == 1
    async with asyncio.timeout(WAIT_SECONDS):
        seen = await reading
    assert len(set(seen)) == len(seen)
    taken = [event_id for event_id, at in seen if at is not None]
    assert taken == [event.id for event in history][: len(taken)]


async def _follow(server: Served, session_id: str) -> list[tuple[str, str | None]]:
    """Event ids and times up to the idle that ends with "Done.", over as many connections as it takes."""
    seen: list[tuple[str, str | None]] = []
    cursor, is_said = "0.0", False
    async with httpx2.AsyncClient(
        headers={"x-api-key": KEY}, base_url=server.url, timeout=WAIT_SECONDS
    ) as http:
        while True:
            try:
                async with aclosing(frames(http, session_id, cursor=cursor)) as reading:
                    async for frame_id, event in reading:
                        cursor = frame_id
                        seen.append((event["id"], event["processed_at"]))
                        is_said = is_said or (event["type"] == "agent.message")
                        if is_said and event["type"] == "session.status_idle":
                            return seen
            except httpx2.TransportError:
                await asyncio.sleep(0.02)


async def test_a_stopping_server_waits_for_the_reply_and_leaves_the_rest(stage: Stage) -> None:
    """SIGTERM during a model request: paid for, so it is written down; its tool is the next server's."""
    asks = Reply(content=bash(ONCE).content, stop_reason="tool_use", first_seconds=1.0)
    stage.script = conversation(asks, Reply.text("Done."))
    session = await stage.session()
    await stage.send_surely(session.id, text("Go."))
    await stage.asked(1)
    await stage.server.kill("server", signal.SIGTERM)
    (result,) = await results(stage, session.id)
    assert not result.is_error and lines(stage, session.id) == ["ran"]
    assert len(stage.requests) == 2 and not any(request.is_aborted for request in stage.requests)


async def test_many_sessions_survive_one_crash(stage: Stage) -> None:
    """Running, waiting for the client, waiting for the model, idle: each goes on as it was."""

    def script(request: Request) -> Answer:
        what = request.json["messages"][0]["content"][0]["text"]
        if what == "tool":
            return [bash(SLOW), Reply.text("Done.")][request.turns]
        if what == "ask":
            return [Reply.tools(("toolu_1", "lookup", {"word": "x"})), Reply.text("Done.")][request.turns]
        is_first = sum(what in str(each.json) for each in stage.requests) == 1
        return Reply(hang_after_bytes=0) if what == "model" and is_first else Reply.text("Done.")

    stage.script = script
    sessions = {}
    for what in ("tool", "tool", "ask", "model", "idle"):
        session = await stage.session(TOOLSET, LOOKUP, initial_events=[text(what)])
        sessions[session.id] = what
    for session_id, what in sessions.items():
        if what == "tool":
            await stage.exists(session_id, "ran")
        elif what in ("ask", "idle"):
            await stage.rests(session_id)
    await stage.asked(len(sessions))
    await stage.server.kill("server")
    for session_id, what in sessions.items():
        if what == "tool":
            await stage.touch(session_id, "go")
        elif what == "ask":
            (use,) = [
                e for e in stage.server.snapshot(session_id).events if e.type == "agent.custom_tool_use"
            ]
            answer = {"type": "user.custom_tool_result", "custom_tool_use_id": use.event_id}
            await stage.send_surely(session_id, answer)
            await stage.asked(len(sessions) + 1)
    for session_id, what in sessions.items():
        assert len(await results(stage, session_id)) == (1 if what == "tool" else 0)
        if what == "tool":
            assert lines(stage, session_id) == ["ran"]


async def test_a_budget_holds_whoever_dies(stage: Stage) -> None:
    """At the pause, and at the resumption: nothing is asked in between, and what it has cost is known."""
    dear = Reply(content=bash(ONCE).content, stop_reason="tool_use", usage={"output_tokens": 5_000})
    stage.script = conversation(dear, Reply.text("Done."))
    budget: dict[str, Any] = {"type": "limit", "max_list_cost": {"amount": "5", "currency": "USD"}}
    session = await stage.session(budget=budget)
    stage.server.crash_at("brain.after_tool")
    await stage.send_surely(session.id, text("Go."))

    def is_paused() -> bool:
        record = stage.server.snapshot(session.id).record
        return record.stop_reason == "budget_reached" and record.status == "idle"

    await until(is_paused, every=0.05)
    await stage.server.kill("server")  # the one that went on with it
    rests = await stage.rests(session.id)
    assert (rests.status, rests.usage.list_cost.amount) == ("idle", "10")
    assert len(stage.requests) == 1, "the gate stayed closed"
    stage.server.crash_at("brain.before_append")  # of the brain that wants to go on
    budget["max_list_cost"]["amount"] = "11"
    await stage.client.beta.sessions.update(session.id, budget=budget)  # type: ignore[arg-type]
    (result,) = await results(stage, session.id)
    assert stage.server.has_crashed() and not result.is_error
    assert lines(stage, session.id) == ["ran"]
