"""Nothing spends for ever: kills, bounds of a turn, poison sessions, a full disk. Real processes."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
import pytest_asyncio

from corral.kernel.limits import DISK_FREE_BYTES_MIN, SESSION_FAILURES_MAX
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from tests.served import KEY, WAIT_SECONDS, Served, text, until
from tests.stage import LOOKUP, Stage, Stages, staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = "echo ran >> ran; until [ -e go ]; do sleep 0.01; done; echo over"
SILENT = Reply(content=Reply.text("never").content, hang_after_bytes=200)
SECONDS_MAX = 4  # of a turn, where a test waits for its end


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages() -> AsyncIterator[Stages]:
    async with staged(crashing=True, settings={"turn_tokens_max": 1000}) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


def bash(command: str, number: int = 1) -> Reply:
    return Reply.tools((f"toolu_{number}", "bash", {"command": command}))


def last(events: list[Any], kind: str) -> Any:
    return [event for event in events if event.type == kind][-1]


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what has no signal of its own."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await look():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def over(stage: Stage, session_id: str) -> None:
    """Wait until everything that was sent is done with; needs no server."""

    def is_over() -> bool:
        seen = stage.server.snapshot(session_id)
        return bool(seen.events) and seen.events[-1].type == "session.status_idle" and not seen.inbox

    await until(is_over, every=0.02)


async def kill(server: Served, **body: Any) -> dict[str, Any]:
    async with httpx2.AsyncClient(
        base_url=server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS
    ) as http:
        answer = await http.post("/corral/v1/kill", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def check_killed(stage: Stage, session_id: str, reason: str) -> list[Any]:
    """Idle, although what it was at would have gone on for minutes; the reason in the log."""
    await stage.rests(session_id)
    history = await stage.history(session_id)
    assert history[-1].stop_reason.type == "retries_exhausted"
    assert last(history, "session.error").error.message == f"Stopped by an operator: {reason}"
    assert last(history, "session.error").error.retry_status.type == "exhausted"
    return history


# -- kills -----------------------------------------------------------------------------------------------


async def test_kill_aborts_the_model_call_and_drops_what_waits(stage: Stage) -> None:
    stage.play(SILENT, Reply.text("Back."))
    session = await stage.session()
    await stage.send(session.id, text("Go."))
    asked = await stage.asked(1)
    await stage.send(session.id, text("And more."))
    told = await kill(stage.server, session_id=session.id, reason="costs too much")
    assert told == {"type": "killed", "session_ids": [session.id], "next_page": None}
    await check_killed(stage, session.id, "costs too much")
    await asyncio.wait_for(asked.closed.wait(), WAIT_SECONDS)
    assert asked.is_aborted
    again = await kill(stage.server, session_id=session.id, reason="once more")
    assert again["session_ids"] == [], "an idle session is left alone"
    await stage.send(session.id, text("Hello?"))
    await over(stage, session.id)
    assert stage.requests[1].json["messages"][-1]["content"][-1]["text"] == "Hello?"
    stage.requests.clear()  # what was dropped is in no later request


async def test_kill_ends_a_running_tool(stage: Stage) -> None:
    stage.play(bash(SLOW))
    session = await stage.session()
    await stage.send(session.id, text("Go."))
    await stage.exists(session.id, "ran")
    await kill(stage.server, session_id=session.id, reason="enough")
    history = await check_killed(stage, session.id, "enough")
    assert last(history, "agent.tool_result").is_error
    await stage.touch(session.id, "go")


async def test_kill_of_an_agent_stops_its_sessions_in_every_state(stage: Stage) -> None:
    """Asking, waiting for an answer, backed off; another agent's session works on."""
    other = await stage.session(LOOKUP)
    first = await stage.session(LOOKUP)
    agent_id = first.agent.id
    sessions = [first] + [
        await stage.client.beta.sessions.create(agent=agent_id, environment_id=first.environment_id)
        for _ in range(3)
    ]
    stage.session_ids += [session.id for session in sessions[1:]]
    asking, waiting, backed_off, idle = sessions
    stage.play(SILENT, SILENT)
    await stage.send(other.id, text("Go."))
    await stage.asked(1)
    await stage.send(asking.id, text("Go."))
    await stage.asked(2)
    stage.play(Reply.tools(("toolu_1", "lookup", {"word": "x"})))
    await stage.send(waiting.id, text("Go."))
    await stage.rests(waiting.id)
    stage.play(HttpError(status=529, message="busy", headers={"retry-after": "290"}))
    await stage.send(backed_off.id, text("Go."))

    async def is_backed_off() -> bool:
        status = (await stage.client.beta.sessions.retrieve(backed_off.id)).status
        return bool(status == "rescheduling")

    await eventually(is_backed_off)
    told = await kill(stage.server, agent_id=agent_id, reason="wrong prompt")
    assert set(told["session_ids"]) == {asking.id, waiting.id, backed_off.id}
    for session in (asking, waiting, backed_off):
        history = await check_killed_when(stage, session.id, "wrong prompt")
        assert history
    assert not await stage.history(idle.id)
    assert (await stage.client.beta.sessions.retrieve(other.id)).status == "running"
    await run_cli(stage.server, "kill", "ALL", "--reason", "the end")
    await stage.rests(other.id)
    stage.requests.clear()


async def check_killed_when(stage: Stage, session_id: str, reason: str) -> list[Any]:
    async def is_exhausted() -> bool:  # one that waits for an answer is idle before and after
        errors = [event.error for event in await stage.history(session_id) if event.type == "session.error"]
        return bool(errors) and errors[-1].retry_status.type == "exhausted"

    await eventually(is_exhausted)
    return await check_killed(stage, session_id, reason)


async def run_cli(server: Served, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "corral.cli", *arguments, "--url", server.url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "ANTHROPIC_API_KEY": KEY},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_a_kill_survives_the_death_of_the_server(stage: Stage) -> None:
    stage.script = lambda _: SILENT
    session = await stage.session()
    await stage.send(session.id, text("Go."))
    await stage.asked(1)
    stage.server.crash_at("brain.before_append")
    await kill(stage.server, session_id=session.id, reason="no more")
    await until(stage.server.has_crashed)
    await stage.rests(session.id)  # another server has started meanwhile
    history = await check_killed(stage, session.id, "no more")
    assert sum(event.type == "session.error" for event in history) == 1
    assert len(stage.requests) == 1, "it was not asked again"


# -- bounds of a turn ------------------------------------------------------------------------------------


async def test_a_turn_ends_when_its_time_is_up() -> None:
    """While the model is silent, and while a tool runs, which both would go on for minutes."""

    def is_asked(stage: Stage, _: str) -> bool:
        return bool(stage.requests)

    def runs(stage: Stage, session_id: str) -> bool:
        return (stage.server.workspace(session_id) / "ran").exists()

    async with staged(settings={"turn_seconds_max": SECONDS_MAX}) as stages:
        for answer, has_begun in ((SILENT, is_asked), (bash(SLOW), runs)):
            await _overdue(stages, answer, has_begun)


async def _overdue(stages: Stages, answer: Answer, has_begun: Callable[[Stage, str], bool]) -> None:
    """On a busy machine the time may be up before anything has begun: then once more."""
    async with stages.open() as stage:
        stage.script = lambda _: answer
        is_shown = False
        while not is_shown:
            session = await stage.session()
            began = time.monotonic()
            await stage.send(session.id, text("Go."))
            await over(stage, session.id)
            assert time.monotonic() - began >= SECONDS_MAX
            is_shown = has_begun(stage, session.id)
            history = await stage.history(session.id)
            assert history[-1].stop_reason.type == "retries_exhausted"
            error = last(history, "session.error").error
            assert error.type == "unknown_error" and "turn_seconds_max" in error.message


async def test_a_turn_ends_when_its_tokens_are_used(stage: Stage) -> None:
    reply = Reply(
        content=bash("true").content,
        stop_reason="tool_use",
        usage={"input_tokens": 600, "output_tokens": 1},
    )
    stage.play(reply, reply)
    session = await stage.session()
    await stage.send(session.id, text("Go."))
    await over(stage, session.id)
    history = await stage.history(session.id)
    assert len(stage.requests) == 2
    assert "1202 tokens" in last(history, "session.error").error.message
    assert history[-1].stop_reason.type == "retries_exhausted"


# -- poison ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
async def test_a_session_that_kills_every_brain_is_ended_and_its_neighbours_go_on() -> None:
    """Each time its tool has run, the process that would note it dies: five times, then no more."""
    async with staged(crashing=True) as stages, stages.open() as poison, stages.open() as others:
        poison.script = lambda _: bash("true")
        others.script = lambda _: Reply.text("Done.")
        guilty = await poison.session()
        neighbours = [await others.session() for _ in range(10)]
        stages.server.crash_at("brain.after_tool")
        await poison.send_surely(guilty.id, text("Go."))
        ended = asyncio.create_task(_poisoned(poison, guilty.id))
        latencies: list[float] = []
        while not ended.done():
            for neighbour in neighbours:
                began = time.monotonic()
                await others.send_surely(neighbour.id, text("Go."))
                await over(others, neighbour.id)
                latencies.append(time.monotonic() - began)
        deaths = await ended
        assert deaths == SESSION_FAILURES_MAX
        history = await poison.history(guilty.id)
        assert history[-1].stop_reason.type == "retries_exhausted"
        assert f"failed {SESSION_FAILURES_MAX} times" in last(history, "session.error").error.message
        results = [event for event in history if event.type == "agent.tool_result"]
        assert len(results) == 1 and results[0].is_error
        for neighbour in neighbours:
            ends = [e for e in await others.history(neighbour.id) if e.type == "session.status_idle"]
            assert {end.stop_reason.type for end in ends} == {"end_turn"}
        latencies.sort()
        print(
            f"{deaths} deaths; {len(latencies)} turns of 10 neighbours meanwhile:"
            f" p50 {latencies[len(latencies) // 2]:.2f} s, longest {latencies[-1]:.2f} s"
        )


async def _poisoned(stage: Stage, session_id: str) -> int:
    """Every brain that has the tool's result dies, until the session is ended; how many did."""
    deaths = 0

    def is_over() -> bool:
        nonlocal deaths
        if stage.server.has_crashed():
            deaths += 1
            stage.server.crash_at("brain.after_tool")
        log = stage.server.snapshot(session_id).events
        return bool(log) and log[-1].type == "session.status_idle"

    await until(is_over, seconds=300, every=0.05)
    return deaths


# -- a full disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own with little more room than is kept free."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    directory = Path(tempfile.mkdtemp(prefix="corral-disk-"))
    size = DISK_FREE_BYTES_MIN + 96 * 1024 * 1024
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "corral-test", str(directory)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        directory.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        directory.rmdir()


async def test_a_full_disk_refuses_new_work_and_recovers(small_disk: Path) -> None:
    async with staged(parent=small_disk) as stages:
        server = stages.server
        async with stages.open() as stage:
            stage.script = _by_turns
            session, running = await stage.session(), await stage.session()
            await stage.send(session.id, text("Go."))
            await over(stage, session.id)
            await stage.send(running.id, text("Silence, please."))
            await stage.asked(2)

            filler = small_disk / "filler"
            _fill(filler, leaving=DISK_FREE_BYTES_MIN // 2)
            refused = await _refused(stage, session.id)
            assert (refused.status_code, refused.headers["retry-after"]) == (529, "1")
            assert "disk" in refused.text and "overloaded_error" in refused.text
            await over(stage, session.id)
            before = await stage.history(session.id)
            await stage.send(running.id, {"type": "user.interrupt"})
            await stage.rests(running.id)  # it stops, there is room for that
            await kill(server, all=True, reason="disk")

            _fill(filler, leaving=0)  # and now nothing at all can be written
            with pytest.raises(anthropic.InternalServerError):
                await stage.send(session.id, {"type": "user.interrupt"})
            assert [event.id for event in await stage.history(session.id)] == [e.id for e in before]

            filler.unlink()
            await stage.send_surely(session.id, text("Go on."))
            await over(stage, session.id)
            after = await stage.history(session.id)
            assert [event.id for event in after[: len(before)]] == [event.id for event in before]
            assert last(after, "agent.message").content[0].text == "Done."
            await stage.client.beta.sessions.archive(running.id)
            stage.requests.clear()


def _by_turns(request: Request) -> Answer:
    return SILENT if b"Silence" in request.body else Reply.text("Done.")


def _fill(filler: Path, *, leaving: int) -> None:
    """Take all but so much of the file system's room."""
    stat = os.statvfs(filler.parent)
    with filler.open("ab") as file:
        more = stat.f_bavail * stat.f_frsize - leaving
        os.posix_fallocate(file.fileno(), file.tell(), max(more, 1) // stat.f_frsize * stat.f_frsize)


async def _refused(stage: Stage, session_id: str) -> httpx2.Response:
    """The answer to a message, once the server has noticed."""
    path = f"/v1/sessions/{session_id}/events"
    async with (
        asyncio.timeout(WAIT_SECONDS),
        httpx2.AsyncClient(
            base_url=stage.server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS
        ) as http,
    ):
        while True:
            answer = await http.post(path, json={"events": [text("x")]})
            if answer.status_code != 200:
                return answer
            await over(stage, session_id)
