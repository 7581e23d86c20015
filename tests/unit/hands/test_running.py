"""Calls that are carried out outside of a sandbox, and how each of them ends."""

import asyncio

import pytest

from corral.hands.running import RunningCalls
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import INTERRUPTED
from corral.session.content import ToolResult


class Held:
    """Work that goes on until it is released, and tells how it ended."""

    def __init__(self) -> None:
        self.began, self.ended, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(self) -> ToolResult:
        self.began.set()
        try:
            await self.go.wait()
            return ToolResult.text("done")
        finally:
            self.ended.set()


async def test_each_is_cancelled_by_its_own_id() -> None:
    calls, one, other = RunningCalls(), Held(), Held()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
        first = tasks.create_task(calls.run("one", one.work()))
        second = tasks.create_task(calls.run("other", other.work()))
        await one.began.wait()
        await other.began.wait()
        calls.cancel("nobody")
        calls.cancel("one")
        assert await first == ToolResult.text(INTERRUPTED, is_error=True)
        calls.cancel("one")
        assert one.ended.is_set() and not other.ended.is_set()
        other.go.set()
        assert await second == ToolResult.text("done")


async def test_all_are_ended_at_the_end() -> None:
    calls, held = RunningCalls(), [Held(), Held()]
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
        runs = [tasks.create_task(calls.run(str(n), each.work())) for n, each in enumerate(held)]
        for each in held:
            await each.began.wait()
        await calls.aclose()
        assert all(each.ended.is_set() for each in held)
        assert all([(await run).is_error for run in runs])
    await calls.aclose()


async def test_nothing_runs_on_when_whoever_asked_is_gone() -> None:
    calls, held = RunningCalls(), Held()
    async with asyncio.timeout(30):
        run = asyncio.ensure_future(calls.run("one", held.work()))
        await held.began.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert held.ended.is_set()


async def test_what_the_work_raises_is_raised() -> None:
    async def fail() -> ToolResult:
        raise SandboxUnavailable("there is none")

    with pytest.raises(SandboxUnavailable):
        await RunningCalls().run("one", fail())
