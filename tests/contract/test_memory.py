"""What becomes of the rows of memory stores, on each engine."""

import asyncio

from sqlalchemy import func, select

from corral.catalog.memory.ports import StoreKey, Write
from corral.kernel.errors import CorralError, NotFound
from corral.kernel.limits import MEMORY_EDITS_MAX, MEMORY_FORGET_BATCH_MAX
from corral.orchestrator.memory import forget_memories
from corral.store.schema import memories, memory_stores, memory_stores_deleted, memory_versions
from corral.testing.contract_memory import SESSION, create, store
from corral.testing.stores import error_of
from tests.opened import Opened

DEADLINE_SECONDS = 60.0


async def rows(opened: Opened, at: StoreKey) -> list[int]:
    """How many of the store, in each table."""
    tables = (memory_stores, memories, memory_versions, memory_stores_deleted)

    def count(connection) -> list[int]:
        counts = [
            select(func.count()).where(each.c.memory_store_id == at.memory_store_id) for each in tables
        ]
        return [connection.scalar(each) for each in counts]

    return await opened.database.read(count)


async def test_a_deleted_store_leaves_nothing(opened: Opened) -> None:
    """Batch by batch, in the background, while another store is left alone."""
    stores = opened.stores
    at, other = await store(stores), await store(stores)
    await create(stores, other, "/kept")
    edits = [Write("/a", f"{number}".encode()) for number in range(MEMORY_EDITS_MAX)]
    for number in range(MEMORY_FORGET_BATCH_MAX // MEMORY_EDITS_MAX + 1):
        await stores.memory_mounts.apply(at, [Write(f"/{number}", b""), *edits[1:]], actor=SESSION)
    assert (await rows(opened, at))[2] > MEMORY_FORGET_BATCH_MAX
    await stores.memory_stores.delete(at)
    assert (await rows(opened, at))[0] == 0
    assert await stores.memory_forgetting.forget()
    assert (await rows(opened, at))[1:] != [0, 0, 0], "a bounded batch at a time"
    duty = asyncio.create_task(forget_memories(stores.memory_forgetting))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await rows(opened, at) != [0, 0, 0, 0]:
                pass
    finally:
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
    assert await rows(opened, other) == [1, 1, 1, 0]


async def test_who_writes_while_the_store_is_deleted(opened: Opened) -> None:
    """Is before it or gets a 404; no memory is left that nobody would remove."""
    stores = opened.stores
    at = await store(stores)

    async def delete() -> CorralError | None:
        return await error_of(stores.memory_stores.delete(at))

    writes = [error_of(create(stores, at, f"/{number}")) for number in range(12)]
    results = await asyncio.gather(*writes[:6], delete(), *writes[6:])
    assert {type(result) for result in results} <= {type(None), NotFound}
    while await stores.memory_forgetting.forget():
        pass
    assert await rows(opened, at) == [0, 0, 0, 0]
