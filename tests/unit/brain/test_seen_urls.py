"""Which URLs a log has shown: asked of a real one, in as few pages as it takes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.brain.web import Misses, refuse_unseen
from corral.catalog.toolset import resolve_tools
from corral.kernel.ids import EventId
from corral.kernel.limits import LOG_EVENTS_AT_ONCE
from corral.session.events import AgentToolResult, AgentToolUse, Event
from corral.session.log import EventPage, SessionLog
from corral.session.state import PendingCall, begin
from corral.testing.sessions import Draft, agent_message, user_message
from corral.testing.stores import Stores
from tests.opened import Opened

SEEN, OLD, UNSEEN = (f"https://example.com/{name}" for name in ("seen", "old", "unseen"))


class Counted:
    """The log, counting pages."""

    def __init__(self, log: SessionLog) -> None:
        self._log, self.pages = log, 0

    async def page(self, *args: Any, **options: Any) -> EventPage:
        self.pages += 1
        return await self._log.page(*args, **options)


class Asked:
    """One session whose agent fetches what was shown, and no more."""

    def __init__(self, stores: Stores) -> None:
        self.stores, self.log, self.misses = stores, Counted(stores.log), Misses()

    async def begin(self) -> None:
        self.lease = await self.stores.leased()
        self.session_id = self.lease.session_id

    async def append(self, *events: Event) -> None:
        seen = await self.stores.log.snapshot(self.session_id)
        draft = Draft(seen=seen, lease=self.lease, now=self.stores.clock.now())
        await self.stores.log.append(draft.append(events))

    async def fetched(
        self, url: str, *, text: str, is_error: bool = False, name: str = "web_fetch"
    ) -> None:
        ids = self.stores.ids
        use = AgentToolUse(id=ids.event(), type=AgentToolUse.TYPE, name=name, input={"url": url})
        content = [{"type": "text", "text": text}]
        await self.append(use)
        await self.append(
            AgentToolResult(
                id=ids.event(),
                type=AgentToolResult.TYPE,
                tool_use_id=use.id,
                content=content,
                is_error=is_error,
            )
        )

    async def may(self, url: str) -> tuple[bool, int]:
        """Whether it may be fetched, and the pages of the log that were read for that."""
        toolset = {
            "type": "agent_toolset_20260401",
            "configs": [{"name": "web_fetch", "url_sources": {"user_input": "all"}}],
        }
        record = (await self.stores.log.snapshot(self.session_id)).record
        agent = {**record.agent, "tools": resolve_tools([toolset], [], has_search=True)}
        state = begin(replace(record, agent=agent, threads=()))
        state.threads[record.primary_thread_id].agent = agent
        call = PendingCall(
            call_id=EventId("sevt_call"),
            thread_id=record.primary_thread_id,
            name="web_fetch",
            input={"url": url},
            is_custom=False,
            permission="allow",
            model_tool_use_id="toolu_1",
            placement=None,
            epoch=1,
        )
        before = self.log.pages
        refused = await refuse_unseen(self.log, state, call, self.misses)  # type: ignore[arg-type]
        return refused is None, self.log.pages - before


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    opened = await Opened.open(tmp_path / "corral.db")
    asked = Asked(opened.stores)
    await asked.begin()
    yield asked
    await opened.database.close()


async def test_what_was_shown_lately_is_found_in_the_newest_page(asked: Asked) -> None:
    ids = asked.stores.ids
    await asked.append(user_message(ids, f"Read {OLD}"))
    await asked.fetched(OLD, text=f"a link to {SEEN}")
    assert await asked.may(SEEN) == (True, 1) and await asked.may(OLD) == (True, 1)
    await asked.append(*(agent_message(ids, f"{UNSEEN} {n}") for n in range(3 * LOG_EVENTS_AT_ONCE)))
    await asked.append(user_message(ids, f"And {SEEN}"))
    assert await asked.may(SEEN) == (True, 1), "the newest page has it"
    assert await asked.may(OLD) == (True, 4), "the oldest has it"


async def test_a_log_is_read_once_for_a_url_that_it_does_not_have(asked: Asked) -> None:
    ids = asked.stores.ids
    await asked.append(*(agent_message(ids, f"{UNSEEN} {n}") for n in range(3 * LOG_EVENTS_AT_ONCE)))
    assert await asked.may(UNSEEN) == (False, 3)
    for number in range(3):
        await asked.fetched(UNSEEN, text=f"{UNSEEN} is in no source {number}", is_error=True)
        await asked.fetched(UNSEEN, text=f"{UNSEEN} {number}", name="bash")
        assert await asked.may(UNSEEN) == (False, 1), "only what is new is read"
    use = AgentToolUse(id=ids.event(), type=AgentToolUse.TYPE, name="web_fetch", input={})
    await asked.append(use)
    assert await asked.may(UNSEEN) == (False, 1)
    content = [{"type": "text", "text": UNSEEN}]
    await asked.append(
        AgentToolResult(id=ids.event(), type=AgentToolResult.TYPE, tool_use_id=use.id, content=content)
    )
    assert await asked.may(UNSEEN) == (True, 1), "though its call was there before"


def test_the_urls_asked_for_last_are_remembered() -> None:
    misses = Misses(kept_max=2)
    for seq, key in enumerate(("a", "b", "a", "c"), start=1):
        misses.remember(key, seq)
    assert [misses.up_to(key) for key in "abc"] == [3, 0, 4]
