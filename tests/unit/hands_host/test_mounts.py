"""Mounts from the source to the sandbox: a real host on its socket, the brain's side before it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from corral.brain.dispatch import Dispatch
from corral.hands.client import HandsClient
from corral.hands.mounting import Mounting
from corral.hands.wire import Restored, decode_recipe
from corral.kernel.clock import SystemClock
from corral.kernel.errors import BlobUnavailable
from corral.kernel.ids import EventId, Ids
from corral.session.call import INTERRUPTED, Mount, Recipe, ToolCall
from corral.session.content import Json, ToolResult
from corral.session.mounts import Attached, MountFailed, MountsMissing, file_archive
from corral.session.state import PendingCall, State, begin
from corral.testing.lab import archive_of, in_chunks, member, text_of
from corral.testing.sessions import new_session
from tests.host import host_of

UPLOADS = "/mnt/session/uploads"


def a_file(name: str, digest: str = "1") -> Mount:
    return Mount(mount_id=name, kind="file", path=f"{UPLOADS}/{name}", digest=digest, mode="read_only")


def a_copy(name: str, digest: str = "1") -> Mount:
    return Mount(mount_id=name, kind="skill", path=f"/workspace/{name}", digest=digest, mode="copy")


class Source:
    """Says of every mount its id and digest; what it is told to refuse, it refuses."""

    def __init__(self) -> None:
        self.has: list[Mount] = []
        self.opened: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.asked, self.blocks = asyncio.Event(), asyncio.Event()
        self.blocks.set()

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return self.has

    async def open(self, session_id: str, mount: Mount) -> AsyncIterator[bytes]:
        self.opened.append(mount.mount_id)
        self.asked.set()
        await self.blocks.wait()
        if error := self.fails.get(mount.mount_id):
            raise error
        said = f"{mount.mount_id} {mount.digest}\n".encode() * 50_000  # more than one read
        if mount.mode == "copy":
            async for chunk in in_chunks(archive_of((member("SKILL.md"), said)), 60_000):
                yield chunk
        else:
            async for chunk in file_archive(in_chunks(said, 60_000), size_bytes=len(said)):
                yield chunk


class Bench:
    """One session, and what it takes to run a call of it."""

    def __init__(self, client: HandsClient) -> None:
        self.client = client
        self.source = Source()
        self.state: State = begin(new_session(Ids(), SystemClock().now()))
        self.mounting = Mounting(
            client, resources=self._resources, sources={"file": self.source, "skill": Skills(self.source)}
        )
        self.dispatch = Dispatch(client, self.mounting)
        self.stop = asyncio.Event()
        self._count = 0

    async def _resources(self, session_id: str) -> Sequence[Mapping[str, Json]]:
        return ()

    async def run(self, command: str) -> ToolResult:
        self._count += 1
        pending = PendingCall(
            call_id=EventId(f"sevt_{self._count}"),
            thread_id=self.state.primary_thread_id,
            name="bash",
            input={"command": command},
            is_custom=False,
            permission="allow",
            model_tool_use_id="toolu_1",
            placement=await self.client.placement(self.state.session_id),
            epoch=1,
        )
        return await self.dispatch.run(self.state, pending, epoch=1, attach=False, stop=self.stop)

    async def say(self, command: str) -> str:
        result = await self.run(command)
        assert not result.is_error, text_of(result)
        return text_of(result)


class Skills:
    """The same source under another kind."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.open = source.open

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return ()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with host_of(tmp_path) as client:
        yield Bench(client)


async def test_files_and_copies_come_before_the_call_and_once(bench: Bench) -> None:
    source = bench.source
    source.has = [a_file("data.csv"), a_file("deep/er.txt"), a_copy("skills/pdf")]
    look = f"head -1 {UPLOADS}/data.csv skills/pdf/SKILL.md; wc -l < {UPLOADS}/deep/er.txt"
    said = await bench.say(look)
    assert "data.csv 1" in said and "skills/pdf 1" in said and said.endswith("50000")
    assert sorted(source.opened) == ["data.csv", "deep/er.txt", "skills/pdf"]
    assert "data.csv 1" in await bench.say(look)
    assert len(source.opened) == 3, "what is there is not asked for again"
    source.has = [a_file("data.csv", "2"), a_copy("skills/pdf")]
    assert await bench.say("echo mine > /workspace/skills/pdf/SKILL.md; ls -R /mnt/session/uploads") == (
        "/mnt/session/uploads:\ndata.csv"
    )
    assert "data.csv 2" in await bench.say(look.split(";")[0]) and source.opened[3:] == ["data.csv"]
    assert await bench.say("cat /workspace/skills/pdf/SKILL.md") == "mine"
    source.has.append(a_file("late.txt"))
    assert await bench.say("head -1 /mnt/session/uploads/late.txt; echo $$") != ""
    shell = await bench.say("echo $$")
    source.has.append(a_file("later.txt"))
    assert await bench.say("echo $$") == shell, "a file that comes does not end the sandbox"


async def test_a_mount_that_fails_keeps_the_call_from_starting_until_that_is_said(bench: Bench) -> None:
    bench.source.has = [a_file("good"), a_file("bad")]
    error = {"type": "repository_clone_error", "message": "no", "repository_url": None}
    bench.source.fails["bad"] = MountFailed(error)
    with pytest.raises(MountFailed) as caught:
        await bench.run("touch /workspace/ran")
    assert (caught.value.mount_id, caught.value.error) == ("bad", error)
    bench.state = replace(bench.state, failed_mounts=frozenset({"bad"}))
    assert (
        await bench.say("ls /workspace /mnt/session/uploads")
        == "/mnt/session/uploads:\ngood\n\n/workspace:"
    )
    bench.source.fails["bad"] = BlobUnavailable("not now", detail="/srv/secret")
    bench.state = replace(bench.state, failed_mounts=frozenset())
    with pytest.raises(MountFailed) as caught:
        await bench.run("true")
    assert caught.value.error["type"] == "unknown_error" and "secret" not in caught.value.message
    assert bench.source.opened.count("bad") == 4, "a store that is away is asked a few times"
    bench.source.fails.clear()
    assert await bench.say("ls /mnt/session/uploads") == "bad\ngood"


async def test_an_interrupt_does_not_wait_for_a_mount(bench: Bench) -> None:
    bench.source.has = [a_copy("huge")]
    bench.source.blocks.clear()
    running = asyncio.create_task(bench.run("touch ran"))
    await bench.source.asked.wait()
    bench.stop.set()
    async with asyncio.timeout(60):
        assert text_of(await running) == INTERRUPTED
    bench.source.blocks.set()
    bench.stop.clear()
    assert await bench.say("ls /workspace") == "huge"
    assert bench.source.opened == ["huge"], "it was on its way all the time"


async def test_hostile_paths_and_what_is_no_file_are_refused(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("safe")
    await bench.say("true")
    for mount in (
        replace(a_file("a"), path="/etc/passwd"),
        replace(a_file("a"), path=f"{UPLOADS}/../x"),
        replace(a_file("a"), path=UPLOADS),
        replace(a_copy("a"), path="/workspace"),
        replace(a_copy("a"), path="/workspace/../x"),
        Mount(mount_id="a", kind="memory", path="/mnt/memory/../x", digest="", mode="read_write"),
    ):
        bench.source.has = [mount]
        with pytest.raises(MountFailed):
            await bench.run("true")
    bench.source.has = [a_file("a"), a_file("a/b")]
    with pytest.raises(MountFailed) as caught:
        await bench.run("true")
    assert "in the way" in caught.value.message or "directory" in caught.value.message
    put = bench.client.put_mount
    for bad in (b"no tar", archive_of((member("x", b"2", link="/etc/passwd"), b"")), archive_of()):
        with pytest.raises(Exception, match=r"archive"):
            await put(bench.state.session_id, a_file("z"), in_chunks(bad), epoch=1)
    assert outside.read_text() == "safe"


async def test_copies_are_remembered_where_the_workspace_goes_and_files_are_brought_anew(
    bench: Bench, tmp_path: Path
) -> None:
    bench.source.has = [a_copy("skills/pdf"), a_file("data.csv")]
    await bench.say("echo mine > skills/pdf/SKILL.md; head -c 3000000 /dev/urandom > big")
    session_id = bench.state.session_id
    packed = b"".join([chunk async for chunk in bench.client.pack(session_id)])
    there_dir = tmp_path / "there"
    there_dir.mkdir()
    async with host_of(there_dir) as there:
        found = Restored(what="checkpoint", taken_at="2026-01-01T00:00:00Z", host_id="h")
        await there.restore(session_id, in_chunks(packed, 70_000), placed_at=5, restored=found)
        other = Bench(there)
        other.state, other.source.has = replace(bench.state), bench.source.has
        result = await other.run("cat skills/pdf/SKILL.md; ls /mnt/session/uploads; wc -c < big")
        assert [block["text"] for block in result.content][1:] == ["mine\ndata.csv\n3000000"]
        assert other.source.opened == ["data.csv"]
        await there.release(session_id, delete_workspace=True)
        assert not list((there_dir / "hands" / "workspaces").iterdir())


async def test_hosts_and_brains_of_other_versions(bench: Bench) -> None:
    assert decode_recipe({"environment": {}}) == Recipe()
    newer = {"environment": {}, "gpu": 1, "mounts": [{**_said(a_file("a")), "owner": "x"}]}
    assert decode_recipe(newer) == Recipe(mounts=(a_file("a"),))
    with pytest.raises(MountsMissing) as caught:
        await bench.client.execute(await _call(bench, Recipe(mounts=(a_file("a"), a_copy("b")))), epoch=1)
    assert caught.value.missing == ["a", "b"]


def _said(mount: Mount) -> dict[str, Json]:
    return {name: getattr(mount, name) for name in ("mount_id", "kind", "path", "digest", "mode")}


async def _call(bench: Bench, recipe: Recipe):

    return ToolCall(
        session_id=bench.state.session_id,
        thread_id=bench.state.primary_thread_id,
        call_id=EventId("sevt_x"),
        name="bash",
        input={"command": "true"},
        recipe=recipe,
        placement=await bench.client.placement(bench.state.session_id),
    )


async def test_what_may_not_have_reached_the_disk_is_brought_anew_after_a_boot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, but no copies: what the agent did to those is in the workspace."""
    bench.source.has = [a_file("data.csv"), a_copy("skills/pdf")]
    await bench.say("echo mine > skills/pdf/SKILL.md")
    monkeypatch.setattr("corral.hands.mounted.boot_id", lambda: "another boot")
    assert await bench.say(f"cat skills/pdf/SKILL.md; ls {UPLOADS}") == "mine\ndata.csv"
    assert sorted(bench.source.opened) == ["data.csv", "data.csv", "skills/pdf"]
