"""What every store of memory stores must do. See contract_store."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from corral.catalog.memory.paths import content_sha256
from corral.catalog.memory.ports import (
    Actor,
    Change,
    Changes,
    Edit,
    Entry,
    Memory,
    MemoryVersion,
    Remove,
    Rename,
    StoreKey,
    VersionFilter,
    Write,
)
from corral.catalog.memory.stores import new_memory_store, updated_memory_store
from corral.kernel.clock import rfc3339
from corral.kernel.errors import (
    CallerError,
    InvalidRequest,
    MemoryPathConflict,
    MemoryPreconditionFailed,
    MemoryRefused,
    NotFound,
)
from corral.kernel.ids import (
    DEFAULT_WORKSPACE,
    MEMORY_STORE,
    MemoryId,
    MemoryStoreId,
    MemoryVersionId,
    WorkspaceId,
)
from corral.kernel.limits import (
    MEMORIES_PER_STORE_MAX,
    MEMORY_CHANGES_MAX,
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_EDITS_MAX,
    MEMORY_VERSION_DAYS,
    MEMORY_VERSIONS_KEPT,
)
from corral.testing.stores import Stores, error_of

KEY = Actor("api_actor", "apikey_1")
SESSION = Actor("session_actor", "sesn_1")
ELSEWHERE = WorkspaceId("wrkspc_other")


async def store(stores: Stores, *, workspace_id: WorkspaceId = DEFAULT_WORKSPACE) -> StoreKey:
    made = new_memory_store(
        {"name": "ä"},
        memory_store_id=MemoryStoreId(stores.ids.mint(MEMORY_STORE)),
        now=stores.clock.now(),
    )
    await stores.memory_stores.create(workspace_id, made)
    return StoreKey(workspace_id, made["id"])


async def create(stores: Stores, at: StoreKey, path: str, content: str = "x") -> Memory:
    return await stores.memories.create(at, path=path, content=content, actor=KEY)


async def update(
    stores: Stores,
    at: StoreKey,
    memory: Memory,
    *,
    path: str | None = None,
    content: str | None = None,
    expected_sha256: str | None = None,
    actor: Actor = KEY,
) -> Memory:
    return await stores.memories.update(
        at, memory.memory_id, path=path, content=content, expected_sha256=expected_sha256, actor=actor
    )


async def delete(stores: Stores, at: StoreKey, memory: Memory, expected_sha256: str | None = None) -> None:
    await stores.memories.delete(at, memory.memory_id, expected_sha256=expected_sha256, actor=KEY)


async def versions(
    stores: Stores, at: StoreKey, only: VersionFilter | None = None, *, limit: int = 100
) -> list[MemoryVersion]:
    """All of them, by pages."""
    found: list[MemoryVersion] = []
    cursor = None
    while True:
        page = await stores.memory_versions.page(
            at, only=only or VersionFilter(), limit=limit, cursor=cursor, has_content=True
        )
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def listed(
    stores: Stores, at: StoreKey, *, prefix: str = "/", depth: Literal[0, 1] = 0, limit: int = 100
) -> list[str]:
    """Paths and directories, by pages."""
    found: list[str] = []
    cursor = None
    while True:
        page = await stores.memories.page(
            at, prefix=prefix, depth=depth, limit=limit, cursor=cursor, has_content=False
        )
        assert len(page.items) <= limit
        found += [item if isinstance(item, str) else item.path for item in page.items]
        if (cursor := page.next_cursor) is None:
            return found


async def check_memory_store_life(stores: Stores) -> None:
    at = await store(stores)
    made = await stores.memory_stores.read(at)
    stores.clock.advance(1)
    now = stores.clock.now()

    def change(current: Any) -> Any:
        return updated_memory_store(current, {"description": "D"}, now=now)

    changed = await stores.memory_stores.update(at, change)
    assert changed == {**made, "description": "D", "updated_at": rfc3339(now)}
    stores.clock.advance(1)
    await create(stores, at, "/a")
    assert await stores.memory_stores.read(at) == changed  # changes of memories are not its own
    archived = await stores.memory_stores.archive(at, now=stores.clock.now())
    assert archived["archived_at"] == archived["updated_at"] == rfc3339(stores.clock.now())
    stores.clock.advance(1)
    assert await stores.memory_stores.archive(at, now=stores.clock.now()) == archived
    assert isinstance(await error_of(stores.memory_stores.update(at, change)), MemoryRefused)


async def check_memory_store_list(stores: Stores) -> None:
    made = []
    for _ in range(5):
        stores.clock.advance(1)
        made.append(await store(stores))
    moment = stores.clock.now()
    await store(stores, workspace_id=ELSEWHERE)
    await stores.memory_stores.archive(made[1], now=moment)

    async def all_of(include_archived: bool, **times: Any) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            page = await stores.memory_stores.page(
                DEFAULT_WORKSPACE, limit=2, cursor=cursor, include_archived=include_archived, **times
            )
            found += [item["id"] for item in page.items]
            if (cursor := page.next_cursor) is None:
                return found

    newest_first = [at.memory_store_id for at in reversed(made)]
    assert await all_of(True) == newest_first
    assert await all_of(False) == [each for each in newest_first if each != made[1].memory_store_id]
    since = moment - timedelta(seconds=2)
    assert await all_of(True, created_gte=since, created_lte=moment) == newest_first[:3]


async def check_memory_life(stores: Stores) -> None:
    at = await store(stores)
    made = await create(stores, at, "/notes/ä.md", "é\n")
    assert (made.content_size_bytes, made.content_sha256) == (3, content_sha256("é\n".encode()))
    assert made.created_at == made.updated_at == stores.clock.now()
    assert await stores.memories.read(at, made.memory_id, has_content=True) == made
    assert (await stores.memories.read(at, made.memory_id, has_content=False)).content is None
    stores.clock.advance(1)
    renamed = await update(stores, at, made, path="/b", actor=SESSION)
    assert (renamed.memory_id, renamed.content, renamed.created_at) == (
        made.memory_id,
        made.content,
        made.created_at,
    )
    assert renamed.updated_at == stores.clock.now()
    assert await stores.memories.read(at, made.memory_id, has_content=True) == renamed
    changed = await update(stores, at, made, content="")
    assert (changed.content, changed.content_size_bytes) == ("", 0)
    await delete(stores, at, made)
    assert isinstance(await error_of(stores.memories.read(at, made.memory_id, has_content=True)), NotFound)
    assert isinstance(await error_of(delete(stores, at, made)), NotFound)

    deleted, emptied, moved, first = await versions(stores, at, limit=1)
    assert [each.operation for each in (first, moved, emptied, deleted)] == [
        "created",
        "modified",
        "modified",
        "deleted",
    ]
    assert [each.content for each in (first, moved, emptied, deleted)] == ["é\n", "é\n", "", None]
    assert [each.path for each in (first, moved, emptied, deleted)] == ["/notes/ä.md", "/b", "/b", "/b"]
    assert (deleted.content_sha256, deleted.content_size_bytes) == (None, None)
    assert (first.memory_version_id, moved.memory_version_id) == (
        made.memory_version_id,
        renamed.memory_version_id,
    )
    assert (first.created_by, moved.created_by, first.redacted_by) == (KEY, SESSION, None)
    assert (
        await stores.memory_versions.read(at, first.memory_version_id, has_content=True),
        (await stores.memory_versions.read(at, first.memory_version_id, has_content=False)).content,
    ) == (first, None)


async def check_memory_update_that_changes_nothing(stores: Stores) -> None:
    at = await store(stores)
    made = await create(stores, at, "/a", "one")
    stores.clock.advance(1)
    other = content_sha256(b"other")
    assert await update(stores, at, made, path="/a", content="one", expected_sha256=other) == made
    assert len(await versions(stores, at)) == 1


async def check_memory_preconditions(stores: Stores) -> None:
    at = await store(stores)
    made = await create(stores, at, "/a", "one")
    other = content_sha256(b"other")
    for refused in (
        update(stores, at, made, content="two", expected_sha256=other),
        update(stores, at, made, path="/b", expected_sha256=other),
        delete(stores, at, made, other),
    ):
        assert isinstance(await error_of(refused), MemoryPreconditionFailed)
    assert await stores.memories.read(at, made.memory_id, has_content=True) == made
    two = await update(stores, at, made, path="/b", content="two", expected_sha256=made.content_sha256)
    assert (two.path, two.content) == ("/b", "two")
    await delete(stores, at, two, two.content_sha256)
    assert await listed(stores, at) == []


async def check_memory_paths_exclude_each_other(stores: Stores) -> None:
    """A path at, above or below another: stores are directories."""
    at = await store(stores)
    inner = await create(stores, at, "/a/b/c")
    other = await create(stores, at, "/a/bb")
    for path in ("/a/b/c", "/a/b", "/a", "/a/b/c/d"):
        for action in (create(stores, at, path), update(stores, at, other, path=path)):
            error = await error_of(action)
            assert isinstance(error, MemoryPathConflict), path
            # of those in the way, one
            assert error.members["conflicting_memory_id"] in (inner.memory_id, other.memory_id)
            if path != "/a":
                assert error.members == {
                    "conflicting_memory_id": inner.memory_id,
                    "conflicting_path": "/a/b/c",
                }
    # its own place is not in its way
    assert (await update(stores, at, inner, path="/a/b")).path == "/a/b"
    assert (await update(stores, at, inner, path="/a/b/c/d")).path == "/a/b/c/d"
    assert (await create(stores, at, "/A/b")).path == "/A/b"
    assert await listed(stores, at) == ["/A/b", "/a/b/c/d", "/a/bb"]


async def check_memory_paths_are_raced_for_fairly(stores: Stores) -> None:
    at = await store(stores)
    tries = [error_of(create(stores, at, path)) for path in ["/a", "/a/b", "/a"] * 4]
    errors = await asyncio.gather(*tries)
    assert [type(error) for error in errors if error is not None] == [MemoryPathConflict] * 11
    assert len(await listed(stores, at)) == 1
    one, two = await create(stores, at, "/one"), await create(stores, at, "/two")
    to_new = await asyncio.gather(
        error_of(update(stores, at, one, path="/new")), error_of(update(stores, at, two, path="/new"))
    )
    assert [type(error) for error in to_new if error] == [MemoryPathConflict]
    memory = one if to_new[0] is None else two
    sha = memory.content_sha256
    errors = await asyncio.gather(
        *(error_of(update(stores, at, memory, content=f"{n}", expected_sha256=sha)) for n in range(5))
    )
    assert [type(error) for error in errors if error] == [MemoryPreconditionFailed] * 4


async def check_memory_lists(stores: Stores) -> None:
    at = await store(stores)
    paths = ["/A", "/a-b/c", "/a/b/c", "/a/b/d", "/a/bb", "/a/ä/z", "/a0", "/z", "/é", "/\U0001f402/x"]
    assert paths == sorted(paths, key=lambda path: path.encode())
    for path in reversed(paths):
        await create(stores, at, path, path)
    await create(stores, await store(stores), "/elsewhere")
    for limit in (1, 2, 3, 100):
        assert await listed(stores, at, limit=limit) == paths
        assert await listed(stores, at, prefix="/a/", limit=limit) == paths[2:6]
        assert await listed(stores, at, prefix="/a/b/", depth=1, limit=limit) == ["/a/b/c", "/a/b/d"]
        assert await listed(stores, at, prefix="/a/", depth=1, limit=limit) == ["/a/b/", "/a/bb", "/a/ä/"]
        assert await listed(stores, at, depth=1, limit=limit) == [
            "/A",
            "/a-b/",
            "/a/",
            "/a0",
            "/z",
            "/é",
            "/\U0001f402/",
        ]
        for nothing in ("/b/", "/A/", "/a/b/c/"):
            assert await listed(stores, at, prefix=nothing, depth=1, limit=limit) == []
    for depth in (0, 1):
        page = await stores.memories.page(
            at, prefix="/", depth=depth, limit=1, cursor=None, has_content=True
        )
        [first] = page.items
        assert isinstance(first, Memory)
        assert (first.path, first.content) == ("/A", "/A")
        other_depth: Literal[0, 1] = 0 if depth else 1
        for foreign in (
            stores.memories.page(
                at, prefix="/", depth=other_depth, limit=1, cursor=page.next_cursor, has_content=False
            ),
            stores.memories.page(
                at, prefix="/a/", depth=depth, limit=1, cursor=page.next_cursor, has_content=False
            ),
        ):
            assert isinstance(await error_of(foreign), InvalidRequest)


async def check_memory_limit(stores: Stores) -> None:
    """Of a store, whoever writes at the same time."""
    at = await store(stores)
    left = 3
    edits: list[Edit] = [Write(f"/{n:04}", b"") for n in range(MEMORIES_PER_STORE_MAX - left)]
    for start in range(0, len(edits), MEMORY_EDITS_MAX):
        await stores.memory_mounts.apply(at, edits[start : start + MEMORY_EDITS_MAX], actor=SESSION)
    errors = await asyncio.gather(*(error_of(create(stores, at, f"/new-{n}")) for n in range(left + 4)))
    refused = [error for error in errors if error is not None]
    assert [type(error) for error in refused] == [MemoryRefused] * 4
    assert refused[0].errno == "ENOSPC" if isinstance(refused[0], MemoryRefused) else False
    listing = await stores.memory_mounts.listing(at)
    assert len(listing.entries) == MEMORIES_PER_STORE_MAX
    first = listing.entries[0]
    await stores.memory_mounts.apply(at, [Remove(first.path)], actor=SESSION)
    assert await error_of(create(stores, at, "/last")) is None


async def check_archived_memory_store(stores: Stores) -> None:
    at = await store(stores)
    made, other = await create(stores, at, "/a", "one"), await create(stores, at, "/b")
    await update(stores, at, made, content="two")
    await stores.memory_stores.archive(at, now=stores.clock.now())
    for refused in (
        create(stores, at, "/c"),
        update(stores, at, made, content="three"),
        update(stores, at, made, content="two"),
    ):
        error = await error_of(refused)
        assert isinstance(error, MemoryRefused)
        assert error.errno == "EROFS"
    assert (await stores.memories.read(at, made.memory_id, has_content=True)).content == "two"
    assert await listed(stores, at) == ["/a", "/b"]
    await delete(stores, at, other)
    redacted = await stores.memory_versions.redact(at, made.memory_version_id, actor=KEY)
    assert redacted.redacted_at == stores.clock.now()
    await stores.memory_stores.delete(at)


async def check_memory_version_filters(stores: Stores) -> None:
    at = await store(stores)
    one = await create(stores, at, "/1", "a")
    started = stores.clock.now()
    stores.clock.advance(10)
    two = await create(stores, at, "/2", "b")
    await update(stores, at, one, content="c", actor=SESSION)
    stores.clock.advance(10)
    await delete(stores, at, two)
    ended = stores.clock.now()
    everything = await versions(stores, at, limit=2)
    assert [each.operation for each in everything] == ["deleted", "modified", "created", "created"]

    async def found(**only: Any) -> list[MemoryVersion]:
        return await versions(stores, at, VersionFilter(**only), limit=1)

    assert await found(memory_id=two.memory_id) == [everything[0], everything[2]]
    assert await found(operation="created") == everything[2:]
    assert await found(actors=[SESSION]) == [everything[1]]
    assert await found(actors=[KEY]) == [everything[0], *everything[2:]]
    assert await found(actors=[KEY, SESSION]) == []
    assert await found(actors=[Actor("session_actor", KEY.id)]) == []
    between = {"created_gte": started + timedelta(seconds=1), "created_lte": ended - timedelta(seconds=1)}
    assert await found(**between) == everything[1:3]
    assert await found(created_gte=ended, created_lte=ended) == everything[:1]
    assert await found(created_lte=started - timedelta(seconds=1)) == []
    assert await found(created_gte=ended + timedelta(seconds=1)) == []
    page = await stores.memory_versions.page(
        at, only=VersionFilter(), limit=1, cursor=None, has_content=False
    )
    assert [each.content for each in page.items] == [None]
    elsewhere = await store(stores)
    foreign = stores.memory_versions.page(
        elsewhere, only=VersionFilter(), limit=1, cursor=page.next_cursor, has_content=False
    )
    assert isinstance(await error_of(foreign), InvalidRequest)


async def check_redaction(stores: Stores) -> None:
    at = await store(stores)
    made = await create(stores, at, "/secret", "s3cret")
    first = made.memory_version_id
    head = await error_of(stores.memory_versions.redact(at, first, actor=KEY))
    assert isinstance(head, InvalidRequest)
    await update(stores, at, made, content="clean", path="/clean")
    stores.clock.advance(1)
    before = await stores.memory_versions.read(at, first, has_content=True)
    redacted = await stores.memory_versions.redact(at, first, actor=KEY)
    assert [redacted.path, redacted.content, redacted.content_sha256, redacted.content_size_bytes] == [
        None
    ] * 4
    assert (redacted.redacted_at, redacted.redacted_by) == (stores.clock.now(), KEY)
    assert (redacted.created_at, redacted.created_by, redacted.operation) == (
        before.created_at,
        before.created_by,
        before.operation,
    )
    stores.clock.advance(1)
    again = await stores.memory_versions.redact(at, first, actor=Actor("user_actor", "user_1"))
    assert again == redacted
    assert await stores.memory_versions.read(at, first, has_content=True) == redacted
    await delete(stores, at, made)
    for version in await versions(stores, at):
        await stores.memory_versions.redact(at, version.memory_version_id, actor=KEY)
    assert {version.path for version in await versions(stores, at)} == {None}


async def check_memory_stores_are_apart(stores: Stores) -> None:
    """What is in another store, or in another workspace, is not there."""
    at = await store(stores)
    memory = await create(stores, at, "/a", "one")
    await update(stores, at, memory, content="two")
    strangers = [
        StoreKey(ELSEWHERE, at.memory_store_id),
        await store(stores),
        StoreKey(DEFAULT_WORKSPACE, MemoryStoreId("memstore_none")),
    ]
    for key in strangers:
        actions: list[Any] = [
            stores.memories.read(key, memory.memory_id, has_content=True),
            stores.memories.read(key, memory.memory_id, has_content=False),
            update(stores, key, memory, content="x"),
            delete(stores, key, memory),
            stores.memory_versions.read(key, memory.memory_version_id, has_content=True),
            stores.memory_versions.redact(key, memory.memory_version_id, actor=KEY),
        ]
        if key is not strangers[1]:
            actions += [
                create(stores, key, "/new"),
                listed(stores, key),
                versions(stores, key),
                stores.memory_mounts.listing(key),
                stores.memory_mounts.contents(key, [memory.memory_id]),
                stores.memory_mounts.apply(key, [Remove("/a")], actor=SESSION),
                stores.memory_mounts.changes(key, after=0),
                stores.memory_stores.read(key),
                stores.memory_stores.archive(key, now=stores.clock.now()),
                stores.memory_stores.delete(key),
            ]
        for action in actions:
            assert isinstance(await error_of(action), NotFound)
    assert await stores.memory_mounts.contents(strangers[1], [memory.memory_id]) == {}
    assert await stores.memory_mounts.positions([at, *strangers]) == {
        at.memory_store_id: 2,
        strangers[1].memory_store_id: 0,
    }
    assert (await stores.memories.read(at, memory.memory_id, has_content=True)).content == "two"


async def check_deleted_memory_store(stores: Stores) -> None:
    at = await store(stores)
    memory = await create(stores, at, "/a", "one")
    await stores.memory_stores.delete(at)
    for action in (
        stores.memory_stores.delete(at),
        stores.memories.read(at, memory.memory_id, has_content=True),
        stores.memory_versions.read(at, memory.memory_version_id, has_content=True),
        create(stores, at, "/b"),
    ):
        assert isinstance(await error_of(action), NotFound)
    assert await stores.memory_forgetting.forget()
    assert not await stores.memory_forgetting.forget()


async def check_old_memory_versions_are_forgotten(stores: Stores) -> None:
    """Each stays for MEMORY_VERSION_DAYS; the last MEMORY_VERSIONS_KEPT of a memory that lives stay."""
    at = await store(stores)
    memory = await create(stores, at, "/a", "0")
    short = await create(stores, at, "/short", "0")
    gone = await create(stores, at, "/gone", "0")
    for number in range(1, MEMORY_VERSIONS_KEPT + 5):
        await update(stores, at, memory, content=f"{number}")
    kept = timedelta(days=MEMORY_VERSION_DAYS).total_seconds()

    async def forgotten() -> None:
        while await stores.memory_forgetting.forget():
            pass

    async def contents(of: Memory) -> list[str | None]:
        return [each.content for each in await versions(stores, at, VersionFilter(memory_id=of.memory_id))]

    stores.clock.advance(kept - 1)
    await forgotten()
    assert len(await contents(memory)) == MEMORY_VERSIONS_KEPT + 5
    await delete(stores, at, gone)
    stores.clock.advance(2)
    await forgotten()
    newest = [f"{number}" for number in range(MEMORY_VERSIONS_KEPT + 4, 4, -1)]
    assert await contents(memory) == newest
    assert await contents(short) == ["0"]
    assert await contents(gone) == [None, "0"]  # the last one can be put back for as long
    stores.clock.advance(kept)
    await forgotten()
    assert await contents(memory) == newest
    assert await contents(short) == ["0"]
    assert await contents(gone) == []
    assert await listed(stores, at) == ["/a", "/short"]


# -- mounts ---------------------------------------------------------------------------------------------


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


async def check_unknown_memory_version(stores: Stores) -> None:
    at = await store(stores)
    unknown = MemoryVersionId("memver_none")
    for action in (
        stores.memory_versions.read(at, unknown, has_content=False),
        stores.memory_versions.redact(at, unknown, actor=KEY),
    ):
        assert isinstance(await error_of(action), NotFound)


CHECKS = (
    check_memory_store_life,
    check_memory_store_list,
    check_memory_life,
    check_memory_update_that_changes_nothing,
    check_memory_preconditions,
    check_memory_paths_exclude_each_other,
    check_memory_paths_are_raced_for_fairly,
    check_memory_lists,
    check_memory_limit,
    check_archived_memory_store,
    check_memory_version_filters,
    check_redaction,
    check_memory_stores_are_apart,
    check_deleted_memory_store,
    check_old_memory_versions_are_forgotten,
    check_mounted_edits,
    check_mounts_follow_changes,
    check_a_follower_misses_nothing,
    check_unknown_memory_version,
)
