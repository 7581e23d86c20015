"""Places that many share: some are always left for whoever comes next."""

import asyncio
from contextlib import ExitStack

from corral.kernel.shares import Shares


def taken(shares: Shares, who: str, stack: ExitStack) -> int:
    """How many places it gets, as it asks again and again."""
    count = 0
    while stack.enter_context(shares.now(who)):
        count += 1
    return count


def test_who_is_alone_gets_half_and_who_comes_gets_of_the_rest() -> None:
    shares = Shares(64)
    with ExitStack() as stack:
        assert [taken(shares, who, stack) for who in "abc"] == [32, 16, 8]
    with ExitStack() as stack:
        assert taken(shares, "c", stack) == 32, "all were given back"
    with Shares(0).now("a") as has_one:
        assert not has_one
    with Shares(1).now("a") as has_one:
        assert has_one


async def test_who_waits_gets_what_another_may_not_have() -> None:
    shares, order = Shares(4), []
    ends = {name: asyncio.Event() for name in ("a1", "a2", "a3", "b1", "b2")}

    async def work(name: str) -> None:
        async with shares.one(name[0]):
            order.append(name)
            await ends[name].wait()

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(work(name)) for name in ends}
        await asyncio.sleep(0)
        assert order == ["a1", "a2", "b1"], "a3 waits for a, b2 leaves one for others"
        ends["a1"].set()
        await tasks["a1"]
        await asyncio.sleep(0)
        assert order == ["a1", "a2", "b1", "a3"]
        for name in ends:
            ends[name].set()
    assert sorted(order) == sorted(ends)


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    shares = Shares(1)
    for gives_up_late in (False, True):
        async with shares.one("a"):
            waiting = asyncio.create_task(_hold(shares, "b"))
            await asyncio.sleep(0)
            if not gives_up_late:
                waiting.cancel()
                await asyncio.wait([waiting])
        waiting.cancel()  # late: it has been given a place, and does not know yet
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        with shares.now("c") as has_one:
            assert has_one


async def _hold(shares: Shares, who: str) -> None:
    async with shares.one(who):
        await asyncio.Event().wait()
