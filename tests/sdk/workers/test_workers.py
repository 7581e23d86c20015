"""The official SDK's EnvironmentWorker serves sessions of a self-hosted environment."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import anthropic
import pytest

from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Answer, Reply
from tests.sdk.workers.conftest import Pool
from tests.served import text, until
from tests.stage import ASK, LOOKUP, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

SESSIONS, ROUNDS = 8, 2


def bash(command: str, number: int = 1) -> tuple[str, str, dict[str, Any]]:
    return f"toolu_{number}", "bash", {"command": command}


def by_rounds(request: Request) -> Answer:
    """Runs what the user says, ROUNDS times, then has nothing more to say."""
    messages = request.json["messages"]
    said = messages[0]["content"][0]["text"]
    rounds = sum(block["type"] == "tool_result" for each in messages for block in each["content"])
    return Reply.tools(bash(said, rounds + 1)) if rounds < ROUNDS else Reply.text("Done.")


def marker(pool: Pool, name: str) -> Path:
    return pool.directory / name


async def ended(stage: Stage, session_id: str) -> list[Any]:
    """The log of a session whose turn has come to its end: it also rests while it waits for a worker."""
    async with asyncio.timeout(60):
        while True:
            events = await stage.history(session_id)
            last = events[-1] if events else None
            if getattr(getattr(last, "stop_reason", None), "type", None) == "end_turn":
                return events
            await asyncio.sleep(0.1)


async def test_several_workers_and_one_killed_in_the_middle(pool: Pool, stage: Stage) -> None:
    """Every session gets all its answers; that of the dead worker from another one."""
    stage.script = by_rounds
    for _ in range(3):
        await pool.worker()
    ran, taken = marker(pool, "ran"), marker(pool, "taken")
    # The first to run it notes its worker and hangs; whoever comes later does not.
    first = f"(set -o noclobber; echo $PPID > {taken}) 2> /dev/null"
    trap = f"echo trap >> {ran}; {first} && sleep 60; echo it"
    commands = [f"echo {number} >> {ran}; echo it" for number in range(SESSIONS - 1)]
    sessions = [await pool.session(initial_events=[text(said)]) for said in (trap, *commands)]
    victim = int(await until(lambda: taken.exists() and taken.read_text().strip(), seconds=60))
    assert victim in [worker.process.pid for worker in pool.workers]
    os.kill(victim, signal.SIGKILL)
    for session in sessions:
        events = await ended(stage, session.id)
        uses = [event.id for event in events if event.type == "agent.tool_use"]
        results = [event for event in events if event.type == "user.tool_result"]
        assert [result.tool_use_id for result in results] == uses and len(uses) == ROUNDS
        assert all("it" in words(result) and not result.is_error for result in results)
    lines = ran.read_text().split()
    assert sorted(lines) == sorted(
        ["trap"] * (ROUNDS + 1) + [str(n) for n in range(SESSIONS - 1) for _ in range(ROUNDS)]
    ), "nothing but what the dead worker had begun ran twice"
    items = await pool.items()
    assert len(items) == SESSIONS, "the same item went to another worker"


async def test_confirmations(pool: Pool, stage: Stage) -> None:
    ran = marker(pool, "ran")
    stage.play(
        Reply.tools(bash(f"echo one >> {ran}; echo it", 1), bash(f"echo two >> {ran}; echo it", 2)),
        Reply.text("Done."),
    )
    await pool.worker()
    session = await pool.session(ASK)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        idle = await tail.idle(seconds=60)
        one, two = tail.of("agent.tool_use")
        assert idle.stop_reason.event_ids == [one.id, two.id]
        early = {"type": "user.tool_result", "tool_use_id": one.id, "content": []}
        with pytest.raises(anthropic.BadRequestError, match="awaits a user"):
            await stage.send(session.id, early)
        confirm = {"type": "user.tool_confirmation", "tool_use_id": one.id, "result": "allow"}
        await stage.send(session.id, confirm)
        result = await tail.until("user.tool_result", seconds=60)
        assert (result.tool_use_id, words(result).strip()) == (one.id, "it")
        deny = {"type": "user.tool_confirmation", "tool_use_id": two.id, "result": "deny"}
        await stage.send(session.id, deny)
        await tail.until("agent.message", seconds=60)
        await ended(stage, session.id)
    assert ran.read_text().split() == ["one"], "what was denied never ran"
    refused = {"type": "user.tool_result", "tool_use_id": two.id, "content": []}
    with pytest.raises(anthropic.BadRequestError, match="settled"):
        await stage.send(session.id, refused)


async def test_an_interrupt_settles_calls_and_their_late_results_are_refused(
    pool: Pool, stage: Stage
) -> None:
    ran, go = marker(pool, "ran"), marker(pool, "go")
    wait = f"echo one >> {ran}; until [ -e {go} ]; do sleep 0.05; done; echo late"
    stage.play(
        Reply.tools(bash(wait, 1), bash(f"echo two >> {ran}", 2)),
        Reply.tools(bash(f"echo three >> {ran}; echo it", 3)),
        Reply.text("Done."),
    )
    worker = await pool.worker()
    session = await pool.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await until(ran.exists, seconds=60)
        await stage.send(session.id, {"type": "user.interrupt"})
        idle = await tail.idle(2)
        assert idle.stop_reason.type == "end_turn"
        results = tail.of("user.tool_result")
        assert [result.is_error for result in results] == [True, True]
        go.touch()
        await until(lambda: "failed to send tool result" in worker.log, seconds=60)
        await stage.send(session.id, text("Again."))
        await tail.until("agent.message", seconds=60)
        await ended(stage, session.id)
    assert ran.read_text().split() == ["one", "three"], "a call that was interrupted is not begun"
    refused = {"type": "user.tool_result", "tool_use_id": results[0].tool_use_id, "content": []}
    with pytest.raises(anthropic.BadRequestError, match="already settled"):
        await stage.send(session.id, refused)


async def test_clients_that_each_answer_their_own(pool: Pool, stage: Stage) -> None:
    stage.play(
        Reply.tools(bash("echo it", 1), ("toolu_2", "lookup", {"word": "corral"})), Reply.text("Done.")
    )
    await pool.worker()
    session = await pool.session({"type": "agent_toolset_20260401"}, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        mine = await tail.until("agent.custom_tool_use", seconds=60)
        await tail.until("user.tool_result", seconds=60)
        answer = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": mine.id,
            "content": [{"type": "text", "text": "a pen"}],
        }
        await stage.send(session.id, answer)
        await tail.until("agent.message", seconds=60)
        await ended(stage, session.id)
    [request] = stage.requests[1:]
    results = [b for b in request.json["messages"][-1]["content"] if b["type"] == "tool_result"]
    assert {each["tool_use_id"] for each in results} == {"toolu_1", "toolu_2"}


async def test_a_process_with_nothing_but_the_secret_of_its_item(pool: Pool, stage: Stage) -> None:
    """As a sandbox that never sees the environment's key."""
    stage.play(Reply.tools(bash("echo it", 1)), Reply.text("Done."))
    worker = await pool.worker(ANTHROPIC_ENVIRONMENT_KEY="", ITEM_ON_STDIN="1")
    await until((worker.workdir / "ready").exists, seconds=60)  # so that the lease does not end before
    session = await pool.session(initial_events=[text("Go.")])
    async with anthropic.AsyncAnthropic(
        base_url=stage.server.url, api_key=None, auth_token=pool.key
    ) as poller:
        item = await poller.beta.environments.work.poll(pool.id, block_ms=999)
        assert item is not None and item.secret is not None
        await poller.beta.environments.work.ack(item.id, environment_id=pool.id)
    claimed = {"work_id": item.id, "session_id": session.id, "work_secret": item.secret}
    assert worker.process.stdin is not None
    worker.process.stdin.write(json.dumps(claimed).encode() + b"\n")
    await worker.process.stdin.drain()
    async with asyncio.timeout(60):
        assert await worker.process.wait() == 0, worker.log
    await ended(stage, session.id)
    events = await stage.history(session.id)
    assert [words(event).strip() for event in events if event.type == "user.tool_result"] == ["it"]
    [shown] = await pool.items()
    assert (shown.id, shown.state) == (item.id, "stopped")


async def test_the_system_prompt_says_nothing_of_a_machine_that_is_not_ours(
    pool: Pool, stage: Stage, upstream: MessagesApi
) -> None:
    stage.play(Reply.text("Hello."))
    session = await pool.session(initial_events=[text("Hi.")])
    await ended(stage, session.id)
    [request] = stage.requests
    assert "/mnt/session/outputs" not in json.dumps(request.json["system"])
    assert "bash" in [tool["name"] for tool in request.json["tools"]]


@pytest.mark.skipif(not os.access("/mnt", os.W_OK), reason="memory stores are mounted at /mnt/memory")
async def test_memory_stores_and_skills(pool: Pool, stage: Stage) -> None:
    """The worker mounts, syncs and downloads with nothing but the token of its item."""
    name = f"corral-test-{pool.id[-6:].lower()}"
    beta = stage.client.beta
    notes, rules = [await beta.memory_stores.create(name=f"{name}-{what}") for what in ("notes", "rules")]
    for store in (notes, rules):
        await beta.memory_stores.memories.create(store.id, path="/known.md", content="known\n")
    skill = await beta.skills.create(
        files=[(f"{name}/SKILL.md", f"---\nname: {name}\ndescription: Says how.\n---\nLike so.\n".encode())]
    )
    session = await pool.session(
        resources=[
            {"type": "memory_store", "memory_store_id": notes.id},
            {"type": "memory_store", "memory_store_id": rules.id, "access": "read_only"},
        ],
        skills=[{"type": "custom", "skill_id": skill.id}],
    )
    mine, theirs = (resource.mount_path for resource in session.resources)
    write = f"echo learned > {mine}/new.md; echo no > {theirs}/no.md"
    look = f"cat {mine}/known.md skills/{name}/SKILL.md; {write}"
    stage.play(Reply.tools(bash(look)), Reply.text("Done."))
    worker = await pool.worker()
    await stage.send(session.id, text("Go."))
    events = await ended(stage, session.id)
    [result] = [event for event in events if event.type == "user.tool_result"]
    assert "known" in words(result) and "Like so." in words(result)
    await until(lambda: "/memories" in worker.log and "/stop" in worker.log, seconds=60)

    async def kept(store_id: str) -> dict[str, str]:
        listed = beta.memory_stores.memories.list(store_id, view="full")
        return {memory.path: memory.content async for memory in listed}

    assert await kept(notes.id) == {"/known.md": "known\n", "/new.md": "learned\n"}
    assert await kept(rules.id) == {"/known.md": "known\n"}, "what is read-only was not written back"
    versions = [each async for each in beta.memory_stores.memory_versions.list(notes.id)]
    [learned] = [each for each in versions if each.path == "/new.md"]
    assert (learned.created_by.type, learned.created_by.session_id) == ("session_actor", session.id)
    system = json.dumps(stage.requests[0].json["system"])
    assert mine in system and f"(skills/{name}/SKILL.md)" in system
