"""What every store of memory stores must do. See contract_store."""

import asyncio
from datetime import timedelta
from typing import Any, Literal

from corral.catalog.memory.paths import content_sha256
from corral.catalog.memory.ports import (
    Actor,
    Edit,
    Memory,
    MemoryVersion,
    Remove,
    StoreKey,
    VersionFilter,
    Write,
)
from corral.catalog.memory.stores import new_memory_store, updated_memory_store
from corral.kernel.clock import rfc3339
from corral.kernel.errors import (
    InvalidRequest,
    MemoryPathConflict,
    MemoryPreconditionFailed,
    MemoryRefused,
    NotFound,
)
from corral.kernel.ids import (
    DEFAULT_WORKSPACE,
    MEMORY_STORE,
    MemoryStoreId,
    WorkspaceId,
)
from corral.kernel.limits import (
    MEMORIES_PER_STORE_MAX,
    MEMORY_EDITS_MAX,
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
    check_memory_stores_are_apart,
    check_deleted_memory_store,
)
