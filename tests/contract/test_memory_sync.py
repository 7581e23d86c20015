"""Memory stores in a real sandbox, changed on both sides at once: nothing is lost without a version."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.catalog.memory.ports import Actor, StoreKey
from corral.catalog.memory.stores import new_memory_store
from corral.hands.client import HandsClient
from corral.hands.memory_sync import MemorySync
from corral.kernel.ids import DEFAULT_WORKSPACE, MEMORY_STORE, EventId, MemoryStoreId
from corral.kernel.limits import MEMORIES_PER_STORE_MAX, MEMORY_PROBLEMS_MAX
from corral.session.call import Mount, Recipe, ToolCall
from corral.session.mounts import MountFailed, MountsMissing
from corral.testing.lab import text_of
from corral.testing.sessions import new_session
from tests.host import host_of
from tests.opened import Opened

API = Actor("api_actor", "key_1")
PLACE = "/mnt/memory/notes"


class Bench:
    def __init__(self, opened: Opened, client: HandsClient) -> None:
        self.stores, self.client = opened.stores, client
        self.sync = self.another()
        self._count = 0

    def another(self) -> MemorySync:
        """Of a brain that knows nothing yet."""
        return MemorySync(self.client, self.stores.memory_mounts)

    async def begin(self) -> None:
        record = new_session(self.stores.ids, self.stores.clock.now())
        self.session_id, self._thread_id = record.session_id, record.primary_thread_id
        store_id = MemoryStoreId(self.stores.ids.mint(MEMORY_STORE))
        store = new_memory_store({"name": "Notes"}, memory_store_id=store_id, now=self.stores.clock.now())
        await self.stores.memory_stores.create(DEFAULT_WORKSPACE, store)
        self.at = StoreKey(DEFAULT_WORKSPACE, store_id)
        self.mount = Mount(
            mount_id=store_id, kind="memory", path=PLACE, digest=DEFAULT_WORKSPACE, mode="read_write"
        )

    async def bash(self, command: str) -> str:
        self._count += 1
        call = ToolCall(
            session_id=self.session_id,
            thread_id=self._thread_id,
            call_id=EventId(f"sevt_{self._count}"),
            name="bash",
            input={"command": f"cd {PLACE}; {command}"},
            recipe=Recipe(mounts=(self.mount,)),
            placement=await self.client.placement(self.session_id),
        )
        result = await self.client.execute(call, epoch=1)
        assert not result.is_error, result.content
        return text_of(result)

    async def fill(self) -> None:
        await self.sync.fill(self.session_id, self.mount, epoch=1)

    async def push(self) -> list[str]:
        return await self.sync.push(self.session_id, [self.mount])

    async def pull(self) -> None:
        await self.sync.pull(self.session_id, [self.mount], epoch=1)

    async def write(self, path: str, content: str) -> None:
        """As a client of the API."""
        listed = {each.path: each for each in (await self.stores.memory_mounts.listing(self.at)).entries}
        if path in listed:
            await self.stores.memories.update(
                self.at, listed[path].memory_id, path=None, content=content, expected_sha256=None, actor=API
            )
        else:
            await self.stores.memories.create(self.at, path=path, content=content, actor=API)

    async def remove(self, path: str) -> None:
        listed = {each.path: each for each in (await self.stores.memory_mounts.listing(self.at)).entries}
        await self.stores.memories.delete(self.at, listed[path].memory_id, expected_sha256=None, actor=API)

    async def stored_paths(self) -> list[str]:
        return [each.path for each in (await self.stores.memory_mounts.listing(self.at)).entries]

    async def stored(self) -> dict[str, str]:
        entries = (await self.stores.memory_mounts.listing(self.at)).entries
        contents = await self.stores.memory_mounts.contents(self.at, [each.memory_id for each in entries])
        return {each.path: contents[each.memory_id].decode() for each in entries}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    opened = await Opened.open(tmp_path / "corral.db")
    (tmp_path / "h").mkdir()
    async with host_of(tmp_path / "h") as client:
        bench = Bench(opened, client)
        await bench.begin()
        yield bench
    await opened.database.close()


async def test_both_sides_change_the_same_and_nothing_is_lost(bench: Bench) -> None:
    for path in ("/both", "/theirs", "/mine", "/dir/a", "/gone", "/kept"):
        await bench.write(path, f"first {path}")
    with pytest.raises(MountsMissing):
        await bench.bash("true")
    await bench.fill()
    assert await bench.bash("cat dir/a; echo; ls") == "first /dir/a\nboth\ndir\ngone\nkept\nmine\ntheirs"
    # Both change before anybody looks.
    await bench.bash(
        "echo mine > both; echo mine > mine; rm kept; rm -r dir; echo now a file > dir; echo x > gone"
    )
    await bench.write("/both", "theirs")
    await bench.write("/theirs", "theirs")
    await bench.write("/kept", "theirs")
    await bench.remove("/gone")
    await bench.pull()
    assert await bench.bash("cat both theirs") == "mine\ntheirs", (
        "what the agent changed is not overwritten"
    )
    assert await bench.push() == []
    await bench.pull()
    expected = {
        "/both": "mine\n",
        "/dir": "now a file\n",
        "/gone": "x\n",
        "/kept": "theirs",
        "/mine": "mine\n",
        "/theirs": "theirs",
    }
    assert await bench.stored() == expected
    assert await bench.bash("cat kept") == "theirs", "a change outlives a removal that did not know of it"
    before = (await bench.stores.memory_mounts.listing(bench.at)).change
    other = bench.another()
    assert await other.push(bench.session_id, [bench.mount]) == []
    await other.pull(bench.session_id, [bench.mount], epoch=1)
    assert (await bench.stores.memory_mounts.listing(bench.at)).change == before, "nothing was dirty"


async def test_renames_keep_the_memory_and_places_are_exchanged(bench: Bench) -> None:
    await bench.write("/a/b", "one")
    await bench.write("/c", "two")
    await bench.fill()
    ids = {
        each.path: each.memory_id for each in (await bench.stores.memory_mounts.listing(bench.at)).entries
    }
    await bench.bash("mv a/b moved; touch moved; mkdir -p x/y; mv c x/y/c")
    assert await bench.push() == []
    after = {
        each.path: each.memory_id for each in (await bench.stores.memory_mounts.listing(bench.at)).entries
    }
    assert after == {"/moved": ids["/a/b"], "/x/y/c": ids["/c"]}
    # A file of others where the agent has a directory: it waits until there is room.
    await bench.remove("/x/y/c")
    await bench.bash("echo new > x/y/d")
    await bench.write("/x", "in the way")
    await bench.pull()
    (problem,) = await bench.push()
    assert f"{PLACE}/x/y/d was not saved" in problem and "is taken" in problem
    assert await bench.push() == [], "it is said once"
    await bench.bash("rm -r x")
    await bench.push()
    await bench.another().pull(bench.session_id, [bench.mount], epoch=1)
    assert await bench.bash("cat x") == "in the way"


async def test_half_a_fill_is_none_and_a_store_that_is_gone_is_said(bench: Bench) -> None:
    for number in range(3):
        await bench.write(f"/{number}", str(number))
    await bench.client.apply_tree(
        bench.session_id, "memory/notes", {"puts": [["9", None, "eA=="]]}, epoch=1
    )
    with pytest.raises(MountsMissing):
        await bench.bash("true")
    await bench.fill()
    assert await bench.bash("cat *") == "012", "what an earlier fill has left is gone"
    await bench.bash("echo late > late")
    await bench.stores.memory_stores.delete(bench.at)
    (problem,) = await bench.push()
    assert "its memory store is gone" in problem
    other = Mount(
        mount_id=bench.mount.mount_id,
        kind="memory",
        path="/mnt/memory/other",
        digest=DEFAULT_WORKSPACE,
        mode="read_write",
    )
    with pytest.raises(MountFailed, match="is gone"):
        await bench.sync.fill(bench.session_id, other, epoch=1)


async def test_a_flood_of_files_is_saved_as_far_as_the_store_takes_it(bench: Bench) -> None:
    """More than a store holds, and each is saved and noted as it comes."""
    await bench.write("/first", "1")
    await bench.fill()
    count = MEMORIES_PER_STORE_MAX + 60
    await bench.bash(f"python3 -c \"for i in range({count}): open(f'n{{i}}', 'w').write(str(i))\"")
    problems = await bench.push()
    assert 0 < len(problems) <= MEMORY_PROBLEMS_MAX and "which is the most" in problems[0]
    assert len(await bench.stored_paths()) == MEMORIES_PER_STORE_MAX
    assert await bench.push() == []
    await bench.bash("rm -f n*")
    assert await bench.push() == []
    assert await bench.stored_paths() == ["/first"]


async def test_what_is_known_of_files_that_are_gone_is_forgotten(bench: Bench) -> None:
    await bench.fill()
    for number in range(3):
        await bench.bash(f"rm -f large*; truncate -s 200K large{number}")
        assert len(await bench.push()) == 1 and await bench.push() == [], "each is said once"
    news = await bench.client.tree(bench.session_id, "memory/notes")
    assert len(news.note["problems"]) == 1
    await bench.bash("echo small > large2")
    assert await bench.push() == [] and await bench.stored() == {"/large2": "small\n"}


async def test_a_tree_that_was_cut_off_by_a_power_cut_is_not_saved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.write("/a", "whole")
    await bench.fill()
    await bench.bash(": > a")  # as a disk may have it
    for module in ("mounted", "tree_access"):
        monkeypatch.setattr(f"corral.hands.{module}.boot_id", lambda: "another boot")
    assert await bench.push() == []
    with pytest.raises(MountsMissing):
        await bench.bash("true")
    await bench.fill()
    assert await bench.bash("cat a") == "whole" and await bench.stored() == {"/a": "whole"}


async def test_several_that_save_at_once_make_one_version_each(bench: Bench) -> None:
    """The brain after a call, and the collector of the host's node."""
    await bench.fill()
    await bench.bash("for i in $(seq 150); do echo $i > f$i; done")
    brain, collector = bench.another(), bench.another()
    saved = await asyncio.gather(
        brain.push(bench.session_id, [bench.mount]),
        collector.push(bench.session_id, [bench.mount], tells=False),
    )
    assert saved == [[], []]
    listing = await bench.stores.memory_mounts.listing(bench.at)
    assert (len(listing.entries), listing.change) == (150, 150)
    assert await bench.push() == [] and (await bench.stores.memory_mounts.listing(bench.at)).change == 150
