"""Mounts and outputs when processes die: each file of an agent is there once, each memory is saved once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from corral.testing.messages_reply import Reply
from tests.served import WAIT_SECONDS, text, until
from tests.stage import Stage, Stages, staged, words

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages() -> AsyncIterator[Stages]:
    async with staged(crashing=True) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


def script(stage: Stage, *commands: str) -> None:
    """By the number of assistant turns in the request: a repeated request gets the same reply."""
    replies = [Reply.tools((f"toolu_{n}", "bash", {"command": c})) for n, c in enumerate(commands)]
    stage.script = lambda request: [*replies, Reply.text("Done.")][request.turns]


async def outputs(stage: Stage, session_id: str, expected: set[str]) -> dict[str, Any]:
    """By name, once exactly these are there."""
    found: dict[str, Any] = {}

    async def look() -> bool:
        with suppress(anthropic.APIConnectionError, anthropic.InternalServerError):
            listed = await stage.client.beta.files.list(
                scope_id=session_id, betas=["managed-agents-2026-04-01"]
            )
            found.clear()
            found.update({each.filename: each for each in listed.data})
            assert len(listed.data) == len(found), "one of them is there twice"
        return set(found) == expected

    async with asyncio.timeout(WAIT_SECONDS):
        while not await look():  # noqa: ASYNC110  (a list sends no events)
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("point", ["outputs.after_file", "outputs.before_note"])
async def test_outputs_survive_the_collector_each_once(stage: Stage, point: str) -> None:
    script(stage, "cd /mnt/session/outputs; for i in 1 2 3; do echo $i > $i.txt; done")
    stage.server.crash_at(point)
    session = await stage.session()
    await stage.send_surely(session.id, text("Go."))
    await until(stage.server.has_crashed)
    found = await outputs(stage, session.id, {"1.txt", "2.txt", "3.txt"})
    for name, each in found.items():
        assert await (await stage.client.beta.files.download(each.id)).read() == f"{name[0]}\n".encode()
    await stage.rests(session.id)
    # The one that was made before the crash is the one that stays.
    assert await outputs(stage, session.id, set(found)) == found


async def test_memory_is_saved_once_when_the_brain_or_the_hands_die(stage: Stage) -> None:
    store = await stage.client.beta.memory_stores.create(name="Notes")
    await stage.client.beta.memory_stores.memories.create(store.id, path="/old", content="old")
    note = "/mnt/memory/notes"
    script(stage, f"cat {note}/old; echo 1 > {note}/a", f"echo 2 >> {note}/a; cat {note}/*")
    session = await stage.session(resources=[{"type": "memory_store", "memory_store_id": store.id}])
    stage.server.crash_at("brain.after_tool")  # saved, and the result is in no log yet
    await stage.send_surely(session.id, text("Go."))
    await until(stage.server.has_crashed)
    await stage.rests(session.id)
    results = [each for each in await stage.history(session.id) if each.type == "agent.tool_result"]
    assert [words(each).split() for each in results] == [["old"], ["1", "2", "old"]]
    versions = [each async for each in stage.client.beta.memory_stores.memory_versions.list(store.id)]
    assert [(each.operation, each.path) for each in versions if each.path == "/a"] == [
        ("modified", "/a"),
        ("created", "/a"),
    ]
    await stage.server.kill("hands")
    script(stage, "true", "true", "true", f"cat {note}/a; echo 3 >> {note}/a")
    await stage.send_surely(session.id, text("Again."))

    def answered() -> bool:
        return stage.requests[-1].turns == 4

    await until(answered)
    await stage.rests(session.id)
    (kept,) = [
        each
        async for each in stage.client.beta.memory_stores.memories.list(store.id, view="full")
        if each.path == "/a"
    ]
    assert kept.content == "1\n2\n3\n"
