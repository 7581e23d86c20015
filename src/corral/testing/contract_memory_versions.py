"""What every store of memory stores must do with versions. See contract_store."""

from datetime import timedelta
from typing import Any

from corral.catalog.memory.ports import (
    Actor,
    Memory,
    MemoryVersion,
    VersionFilter,
)
from corral.kernel.errors import (
    InvalidRequest,
    NotFound,
)
from corral.kernel.ids import (
    MemoryVersionId,
)
from corral.kernel.limits import (
    MEMORY_VERSION_DAYS,
    MEMORY_VERSIONS_KEPT,
)
from corral.testing.contract_memory import KEY, SESSION, create, delete, listed, store, update, versions
from corral.testing.stores import Stores, error_of


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


async def check_unknown_memory_version(stores: Stores) -> None:
    at = await store(stores)
    unknown = MemoryVersionId("memver_none")
    for action in (
        stores.memory_versions.read(at, unknown, has_content=False),
        stores.memory_versions.redact(at, unknown, actor=KEY),
    ):
        assert isinstance(await error_of(action), NotFound)


CHECKS = (
    check_memory_version_filters,
    check_redaction,
    check_old_memory_versions_are_forgotten,
    check_unknown_memory_version,
)
