"""What a session has mounted, through the official SDK: files in, outputs out, memory stores between."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import anthropic
import pytest

from corral.kernel.limits import MEMORY_CONTENT_BYTES_MAX
from corral.testing.messages_reply import Reply
from tests.served import WAIT_SECONDS, text
from tests.stage import LOOKUP, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOTES = "/mnt/memory/user-preferences"


_numbers = count(1)


def bash(command: str) -> tuple[str, str, dict[str, object]]:
    return f"toolu_{next(_numbers)}", "bash", {"command": command}


async def say(stage: Stage, session_id: str, command: str) -> Any:
    """One turn with one command; its result."""
    stage.play(Reply.tools(bash(command)), Reply.text("Done."))
    async with stage.watch(session_id) as tail:
        await stage.send(session_id, text("Go on."))
        await tail.idle()
        return await tail.until("agent.tool_result")


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await fact():  # noqa: ASYNC110  (a list of files sends no events)
            await asyncio.sleep(0.05)


async def test_files_go_in_and_outputs_come_out(stage: Stage) -> None:
    files = stage.client.beta.files
    source = await files.upload(file=("data.csv", b"1,2\n", "text/csv"))
    given = [{"type": "file", "file_id": source.id, "mount_path": "/in/data.csv"}]
    session = await stage.session(resources=given)
    (mounted,) = session.resources
    assert mounted.mount_path == "/mnt/session/uploads/in/data.csv" and mounted.file_id != source.id
    put_out = (
        "cat /mnt/session/uploads/in/data.csv | tee /mnt/session/outputs/sum.csv; ls /mnt/session/uploads"
    )
    assert words(await say(stage, session.id, put_out)) == "1,2\nin"

    async def outputs() -> dict[str, Any]:
        listed = await files.list(scope_id=session.id, betas=["managed-agents-2026-04-01"])
        return {each.filename: each for each in listed.data if each.id != mounted.file_id}

    async def is_there() -> bool:
        return "sum.csv" in await outputs()

    await until(is_there)
    first = (await outputs())["sum.csv"]
    assert first.downloadable and (await (await files.download(first.id)).read()) == b"1,2\n"
    late = await stage.client.beta.sessions.resources.add(session.id, type="file", file_id=source.id)
    await stage.client.beta.sessions.resources.delete(mounted.id, session_id=session.id)
    look = f"cat {late.mount_path}; ls /mnt/session/uploads; cd /mnt/session/outputs; mv sum.csv total.csv"
    assert words(await say(stage, session.id, look)) == f"1,2\n{late.mount_path.rpartition('/')[2]}"

    async def is_renamed() -> bool:
        return set(await outputs()) >= {"total.csv"} and "sum.csv" not in await outputs()

    await until(is_renamed)
    total = (await outputs())["total.csv"]
    await stage.client.beta.sessions.delete(session.id)
    stage.forget(session.id)
    for gone in (total.id, late.file_id):
        with pytest.raises(anthropic.NotFoundError):
            await files.retrieve_metadata(gone)
    assert (await files.retrieve_metadata(source.id)).id == source.id


async def test_memory_is_a_directory_of_two_sessions(stage: Stage) -> None:
    stores = stage.client.beta.memory_stores
    notes = await stores.create(name="User Preferences", description="What they like.")
    law = await stores.create(name="Law")
    await stores.memories.create(notes.id, path="/a/first.md", content="one")
    await stores.memories.create(law.id, path="/rule", content="be kind")
    given = [
        {"type": "memory_store", "memory_store_id": notes.id, "instructions": "Keep it short."},
        {"type": "memory_store", "memory_store_id": law.id, "access": "read_only"},
    ]
    here = await stage.session(resources=given)
    there = await stage.session(resources=given)
    mine, theirs = here.resources
    assert (mine.mount_path, mine.name, mine.access) == (NOTES, "User Preferences", "read_write")
    assert (mine.description, mine.instructions, theirs.access) == (
        "What they like.",
        "Keep it short.",
        "read_only",
    )
    await stores.update(notes.id, name="Renamed")
    listed = await stage.client.beta.sessions.list(memory_store_id=law.id)
    assert {each.id for each in listed.data} == {here.id, there.id}
    assert (await stage.client.beta.sessions.retrieve(here.id)).resources == here.resources

    seen = await say(
        stage, here.id, f"cat {NOTES}/a/first.md; echo; ls -R /mnt/memory; cat /mnt/memory/law/rule"
    )
    assert words(seen).startswith("one\n") and words(seen).endswith("be kind")
    system = stage.requests[0].json["system"]
    told = next(block["text"] for block in system if NOTES in block["text"])
    assert (
        "(read-write): User Preferences" in told and "Keep it short." in told and "(read-only): Law" in told
    )
    refused = await say(stage, here.id, "echo x > /mnt/memory/law/rule || touch /mnt/memory/new")
    assert refused.is_error and "Read-only file system" in words(refused)

    async def memories() -> dict[str, str]:
        return {
            each.path: each.content
            async for each in stores.memories.list(notes.id, view="full")
            if each.type == "memory"
        }

    # Saved before its result is there; each change is a version, with the session as its actor.
    await say(
        stage, here.id, f"cd {NOTES}; echo two > b.md; echo more >> a/first.md; mkdir d; echo 3 > d/c"
    )
    assert await memories() == {"/a/first.md": "onemore\n", "/b.md": "two\n", "/d/c": "3\n"}
    versions = [each async for each in stores.memory_versions.list(notes.id, session_id=here.id)]
    assert sorted(each.operation for each in versions) == ["created", "created", "modified"]
    assert {(each.created_by.type, each.created_by.session_id) for each in versions} == {
        ("session_actor", here.id)
    }

    # The other session sees it, and is seen.
    assert (
        words(await say(stage, there.id, f"cd {NOTES}; cat a/first.md b.md; mv b.md c.md; rm -r d"))
        == "onemore\ntwo"
    )
    kept = {each.path: each.id async for each in stores.memories.list(notes.id) if each.type == "memory"}
    assert set(kept) == {"/a/first.md", "/c.md"}
    await stores.memories.update(kept["/c.md"], memory_store_id=notes.id, content="by hand")
    await stores.memories.delete(kept["/a/first.md"], memory_store_id=notes.id)
    assert words(await say(stage, here.id, f"cd {NOTES}; ls -A; cat c.md")) == "c.md\nby hand"

    # What the store does not take is said, once.
    large = MEMORY_CONTENT_BYTES_MAX + 1
    hostile = (
        f"cd {NOTES}; head -c {large} /dev/zero | tr '\\0' x > big.txt; printf '\\377' > binary;"
        " ln -s /etc/passwd link; mkfifo pipe; echo ok > good"
    )
    said = await say(stage, here.id, hostile)
    problems = said.content[-1].text
    assert (
        f"{NOTES}/big.txt was not saved" in problems and f"at most {MEMORY_CONTENT_BYTES_MAX}" in problems
    )
    assert f"{NOTES}/binary was not saved" in problems and "UTF-8" in problems and "passwd" not in problems
    assert await memories() == {"/c.md": "by hand", "/good": "ok\n"}
    assert "not saved" not in words(await say(stage, here.id, f"rm {NOTES}/big.txt; echo fine"))

    # What a process writes on its own is saved, too.
    await say(stage, here.id, f"(sleep 0.5; echo late > {NOTES}/late; sleep 60) > /dev/null 2>&1 &")

    async def is_saved() -> bool:
        return "/late" in await memories()

    await until(is_saved)


async def test_what_cannot_be_attached(stage: Stage) -> None:
    stores = stage.client.beta.memory_stores
    store = await stores.create(name="!?")
    twin = await stores.create(name="!?")
    plain = await stage.session(resources=[{"type": "memory_store", "memory_store_id": store.id}])
    assert plain.resources[0].mount_path == f"/mnt/memory/{store.id}"
    same = [await stores.create(name=name) for name in ("My Notes", "my_notes", "MY--NOTES")]
    session = await stage.session(
        resources=[{"type": "memory_store", "memory_store_id": each.id} for each in same]
    )
    paths = [each.mount_path for each in session.resources]
    assert paths == ["/mnt/memory/my-notes", "/mnt/memory/my-notes-2", "/mnt/memory/my-notes-3"]
    await stores.archive(twin.id)
    nine = [await stores.create(name=f"n{number}") for number in range(9)]
    for ids, tools, message in (
        ([store.id, store.id], (), "attached twice"),
        ([each.id for each in nine], (), "at most 8"),
        ([twin.id], (), "archived"),
        ([store.id], (LOOKUP,), "toolset"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=message):
            await stage.session(
                *tools, resources=[{"type": "memory_store", "memory_store_id": each} for each in ids]
            )
    with pytest.raises(anthropic.NotFoundError):
        await stage.session(resources=[{"type": "memory_store", "memory_store_id": "memstore_none"}])
    with pytest.raises(anthropic.BadRequestError):
        await stage.client.beta.sessions.resources.add(
            session.id,
            type="file",
            file_id="file_none",
            extra_body={"type": "memory_store", "memory_store_id": store.id},
        )
