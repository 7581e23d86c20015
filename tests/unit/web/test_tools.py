"""`WebTools`: calls of many sessions side by side."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from corral.catalog.web.rules import WebRules
from corral.kernel.clock import SystemClock
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.kernel.limits import WEB_CALLS_AT_ONCE
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall
from corral.session.content import ToolResult
from corral.web.fetch import Fetcher
from corral.web.results import Found
from corral.web.tools import WebTools


class Engine:
    """A search engine that answers once it is told to; `asked` counts who waits for it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.news = asyncio.Condition()

    async def search(self, query: str, rules: WebRules) -> Sequence[Found]:
        async with self.news:
            self.asked.append(query)
            self.news.notify_all()
        await self.go.wait()
        return []

    async def aclose(self) -> None: ...


def search(session_id: str, query: str) -> ToolCall:
    return ToolCall(
        session_id=SessionId(session_id),
        thread_id=ThreadId("sthr_1"),
        call_id=EventId(f"sevt_{session_id}_{query}"),
        name="web_search",
        input={"query": query},
        recipe=Recipe(),
        placement=Placement(host_id="host", journal_id="journal"),
        web=WebRules(),
    )


async def in_turn(tools: WebTools, call: ToolCall) -> ToolResult:
    async with tools.place(call.session_id):
        return await tools.run(call)


async def test_no_session_takes_all_places(tmp_path: Path) -> None:
    engine = Engine()
    tools = WebTools(Fetcher(tmp_path, None), engine, clock=SystemClock())
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        for number in range(2 * WEB_CALLS_AT_ONCE):
            group.create_task(in_turn(tools, search("many", f"a{number}")))
        one = group.create_task(in_turn(tools, search("one", "b")))
        async with engine.news:
            await engine.news.wait_for(lambda: "b" in engine.asked)
        waiting = [query for query in engine.asked if query != "b"]
        assert 1 < len(waiting) < WEB_CALLS_AT_ONCE
        engine.go.set()
    assert not one.result().is_error
    assert len(engine.asked) == 2 * WEB_CALLS_AT_ONCE + 1
    await tools.aclose()


async def test_without_rules_nothing_is_reached(tmp_path: Path) -> None:
    engine = Engine()
    engine.go.set()
    tools = WebTools(Fetcher(tmp_path, None), engine, clock=SystemClock())
    with pytest.raises(AssertionError, match="what it may reach"):
        await tools.run(replace(search("one", "a"), web=None))
    assert engine.asked == []
    await tools.aclose()


async def test_each_call_can_be_cancelled_and_all_end_at_the_end(tmp_path: Path) -> None:
    engine = Engine()
    tools = WebTools(Fetcher(tmp_path, None), engine, clock=SystemClock())
    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        calls = [search("one", "a"), search("one", "b")]
        runs = [group.create_task(tools.run(call)) for call in calls]
        async with engine.news:
            await engine.news.wait_for(lambda: len(engine.asked) == 2)
        await tools.cancel(calls[0].call_id)
        result = await runs[0]
        assert result.is_error and result.content[0]["text"] == INTERRUPTED
        assert not runs[1].done()
        await tools.aclose()
        assert (await runs[1]).is_error
