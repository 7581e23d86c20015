"""Fair slots: keys take turns, and none is lost to a caller that gave up."""

import asyncio

from corral.brain.fair import FairSlots


async def _hold(slots: FairSlots, key: str, order: list[str], until: asyncio.Event) -> None:
    async with slots.slot(key):
        order.append(key)
        await until.wait()


async def test_keys_take_turns() -> None:
    slots, order, go = FairSlots(1), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for key in ("many", *["many"] * 5, "few", "few", "one"):
            group.create_task(_hold(slots, key, order, go))
        await asyncio.sleep(0)
        assert (order, slots.waiting) == (["many"], 8)
        go.set()
    assert order == ["many", "many", "few", "one", "many", "few", "many", "many", "many"]
    assert slots.waiting == 0


async def test_a_place_in_the_queue_can_be_given_up() -> None:
    """Before its turn, and in the very moment of it: the slot goes on to the next."""
    slots, order, go = FairSlots(1), list[str](), asyncio.Event()
    first = asyncio.create_task(_hold(slots, "a", order, go))
    queued = [asyncio.create_task(_hold(slots, key, order, go)) for key in ("b", "c", "d")]
    await asyncio.sleep(0)
    queued[0].cancel()
    first.cancel()  # its slot goes to c, which is cancelled before it runs
    await asyncio.sleep(0)
    queued[1].cancel()
    go.set()
    await asyncio.gather(first, *queued, return_exceptions=True)
    assert order == ["a", "d"]
    async with asyncio.timeout(30), slots.slot("e"):
        pass


async def test_a_slot_that_ends_in_the_moment_a_waiter_is_cancelled_is_not_lost() -> None:
    """The waiter's turn is cancelled already, and its task has not heard of it."""
    slots, order, go = FairSlots(1), list[str](), asyncio.Event()
    first = asyncio.create_task(_hold(slots, "a", order, go))
    queued = [asyncio.create_task(_hold(slots, key, order, go)) for key in ("b", "c", "c")]
    await asyncio.sleep(0)
    go.set()  # the first ends before the cancelled ones run
    queued[0].cancel()
    queued[1].cancel()
    ends = await asyncio.gather(first, *queued, return_exceptions=True)
    assert [type(end) for end in ends] == [
        type(None), asyncio.CancelledError, asyncio.CancelledError, type(None)
    ]  # fmt: skip
    assert (order, slots.waiting) == (["a", "c"], 0)
    async with asyncio.timeout(30), slots.slot("e"):
        pass
