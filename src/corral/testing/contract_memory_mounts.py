"""What every store of memory stores must do for those who mount one. See contract_store."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from corral.catalog.memory.paths import content_sha256
from corral.catalog.memory.ports import (
    Change,
    Changes,
    Edit,
    Entry,
    Remove,
    Rename,
    Write,
)
from corral.kernel.errors import (
    CallerError,
    MemoryRefused,
)
from corral.kernel.ids import (
    MemoryId,
)
from corral.kernel.limits import (
    MEMORY_CHANGES_MAX,
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_EDITS_MAX,
    MEMORY_VERSION_DAYS,
)
from corral.testing.contract_memory import (
    SESSION,
    create,
    delete,
    store,
    update,
    versions,
)
from corral.testing.stores import Stores


async def check_mounted_edits(stores: Stores) -> None:
    at = await store(stores)
    apply, sha = stores.memory_mounts.apply, content_sha256

    async def edited(*edits: Edit) -> Sequence[Entry | CallerError | None]:
        return (await apply(at, edits, actor=SESSION)).results

    one, two = await edited(Write("/one", b"1"), Write("/dir/two", b"2"))
    assert isinstance(one, Entry)
    assert isinstance(two, Entry)
    assert one[1:] == ("/one", sha(b"1"), 1)
    assert (await stores.memory_mounts.listing(at)).entries == [two, one]
    ids = [one.memory_id, two.memory_id, MemoryId("mem_none")]
    assert await stores.memory_mounts.contents(at, ids) == {one.memory_id: b"1", two.memory_id: b"2"}
    # a mistake stands alone
    results = await edited(
        Write("/one", b"changed"),
        Write("/one/below", b""),
        Write("/big", b"." * (MEMORY_CONTENT_BYTES_MAX + 1)),
        Write("/binary", b"\xff"),
        Write("/nul", b"\0"),
        Write("no", b""),
        Remove("/none"),
        Rename("/none", "/some"),
        Write("/one", b"other", expected_sha256=sha(b"1")),
        Write("/none", b"other", expected_sha256=sha(b"1")),
        Remove("/dir/two", expected_sha256=sha(b"1")),
        Write("/last", b"3"),
    )
    kinds = [type(result).__name__ for result in results]
    assert kinds == [
        "Entry",
        "MemoryPathConflict",
        *["MemoryRefused"] * 4,
        *["NotFound"] * 2,
        *["MemoryPreconditionFailed"] * 3,
        "Entry",
    ]
    refused = [result.errno for result in results if isinstance(result, MemoryRefused)]
    assert refused == ["EFBIG", "EINVAL", "EINVAL", "EINVAL"]
    # rename(2): what was there is deleted, and the memory stays itself
    [renamed] = await edited(Rename("/one", "/last"))
    assert isinstance(renamed, Entry)
    assert renamed[:2] == (one.memory_id, "/last")
    assert await edited(Remove("/dir/two"), Rename("/last", "/last")) == [None, renamed]
    before = len(await versions(stores, at))
    assert await edited(Write("/last", b"changed"), Rename("/last", "/last")) == [renamed, renamed]
    found = await versions(stores, at)
    assert len(found) == before
    assert {version.created_by for version in found} == {SESSION}
    assert [version.operation for version in found[:3]] == ["deleted", "modified", "deleted"]
    await stores.memory_stores.archive(at, now=stores.clock.now())
    [refusal, removed] = await edited(Write("/new", b""), Remove("/last"))
    assert isinstance(refusal, MemoryRefused)
    assert removed is None
    assert (await stores.memory_mounts.listing(at)).is_archived


async def check_mounts_follow_changes(stores: Stores) -> None:
    at = await store(stores)
    mounts = stores.memory_mounts
    assert await mounts.changes(at, after=0) == Changes(0, [])
    one = await create(stores, at, "/one", "1")
    start = (await mounts.listing(at)).change
    assert await mounts.positions([at]) == {at.memory_store_id: start} == {at.memory_store_id: 1}
    two = await create(stores, at, "/two", "2")
    await update(stores, at, two, content="2b")
    moved = await update(stores, at, one, path="/moved")
    brief = await create(stores, at, "/brief")
    await delete(stores, at, brief)
    told = await mounts.changes(at, after=start)
    assert told.change == 6
    assert told.changes is not None
    [of_two, of_one, of_brief] = told.changes
    assert of_two.entry is not None
    assert of_two.entry[1:] == ("/two", content_sha256(b"2b"), 2)
    assert of_one.entry == Entry(one.memory_id, "/moved", moved.content_sha256, 1)
    assert of_brief == Change(brief.memory_id, None)
    assert await mounts.changes(at, after=told.change) == Changes(told.change, [])
    # one that has seen more than there is (a restored backup), or much less, lists anew
    assert await mounts.changes(at, after=told.change + 1) == Changes(told.change, None)
    edits: list[Edit] = [
        Write("/moved", f"{number}".encode()) for number in range(MEMORY_CHANGES_MAX + 1 - told.change)
    ]
    for first in range(0, len(edits), MEMORY_EDITS_MAX):
        await mounts.apply(at, edits[first : first + MEMORY_EDITS_MAX], actor=SESSION)
    told = await mounts.changes(at, after=0)
    assert told == Changes(MEMORY_CHANGES_MAX + 1, None)
    assert (await mounts.changes(at, after=1)).changes is not None
    # and so does one that missed what is forgotten
    stores.clock.advance(timedelta(days=MEMORY_VERSION_DAYS).total_seconds() + 1)
    while await stores.memory_forgetting.forget():
        pass
    assert await mounts.changes(at, after=1) == Changes(MEMORY_CHANGES_MAX + 1, None)


async def check_a_follower_misses_nothing(stores: Stores) -> None:
    """While others write: a change is seen with its number, or later."""
    at = await store(stores)
    seen: dict[MemoryId, Entry] = {}
    is_over = asyncio.Event()

    async def write(writer: int) -> None:
        for number in range(8):
            memory = await create(stores, at, f"/{writer}/{number}")
            await update(stores, at, memory, content=f"{number}")
            if number % 2:
                await delete(stores, at, memory)

    async def follow() -> None:
        position = 0
        while True:
            is_last = is_over.is_set()
            told = await stores.memory_mounts.changes(at, after=position)
            assert told.changes is not None
            position = told.change
            for memory_id, entry in told.changes:
                if entry is None:
                    seen.pop(memory_id, None)
                else:
                    seen[memory_id] = entry
            if is_last:
                return

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(writer) for writer in range(3)))
    is_over.set()
    await following
    entries = (await stores.memory_mounts.listing(at)).entries
    assert sorted(seen.values()) == sorted(entries)
    assert len(entries) == 12


CHECKS = (
    check_mounted_edits,
    check_mounts_follow_changes,
    check_a_follower_misses_nothing,
)
