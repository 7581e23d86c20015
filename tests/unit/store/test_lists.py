"""Lists are read from an index of their workspace, from where the page begins: no scan, no sorting."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from corral.catalog.files import FileFilter
from corral.kernel.ids import DEFAULT_WORKSPACE as HERE
from corral.session.record import SessionFilter, Status
from corral.testing.contract_catalog import agent
from corral.testing.sessions import new_session
from tests.opened import Opened

LISTS: dict[str, tuple[str, Callable[[Opened, Any], Awaitable[Any]]]] = {
    "agents": (
        "agents_in_use",
        lambda opened, cursor: opened.stores.agents.page(
            workspace_id=HERE, limit=1, cursor=cursor, include_archived=False
        ),
    ),
    "agents, archived too": (
        "agents_by_creation",
        lambda opened, cursor: opened.stores.agents.page(
            workspace_id=HERE, limit=1, cursor=cursor, include_archived=True
        ),
    ),
    "environments": (
        "environments_in_use",
        lambda opened, cursor: opened.stores.environments.page(
            workspace_id=HERE, limit=1, cursor=cursor, include_archived=False
        ),
    ),
    "sessions": ("sessions_in_use", lambda opened, after: sessions(opened, after)),
    "sessions, archived too": (
        "sessions_by_creation",
        lambda opened, after: sessions(opened, after, include_archived=True),
    ),
    "sessions of an agent": (
        "sessions_by_agent",
        lambda opened, after: sessions(opened, after, include_archived=True, agent_id="agent_test"),
    ),
    "sessions of a key": (
        "sessions_by_api_key",
        lambda opened, after: sessions(opened, after, include_archived=True, api_key_id="apikey_1"),
    ),
}


async def test_files_of_no_session_are_found_without_looking_at_those_of_sessions(sqlite: Opened) -> None:
    for place in (None, (sqlite.stores.clock.now(), "file_1")):
        with plans() as found:
            await sqlite.stores.files.page(HERE, FileFilter(unscoped_only=True), limit=1, after=place)
        assert found and all("files_uploaded" in plan and "TEMP B-TREE" not in plan for plan in found), (
            found
        )


async def sessions(opened: Opened, after: Any, **fields: Any) -> Any:
    where = SessionFilter(workspace_id=HERE, **fields)
    return await opened.stores.sessions.page(where, descending=True, limit=1, after=after)


@contextmanager
def plans() -> Iterator[list[str]]:
    """How SQLite answers each query of a list that is made meanwhile."""
    found: list[str] = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement:
            rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.append("\n".join(row[3] for row in rows))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Opened]:
    opened = await Opened.open(tmp_path / "corral.db")
    yield opened
    await opened.database.close()


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_costs_what_is_on_it(sqlite: Opened, name: str) -> None:
    index, page = LISTS[name]
    stores = sqlite.stores
    for _ in range(3):
        stores.clock.advance(1)
        await stores.agents.create(agent(stores), workspace_id=HERE)
        made = agent(stores, id=stores.ids.mint("env"))
        await stores.environments.create(made, workspace_id=HERE)
        await stores.sessions.create(new_session(stores.ids, stores.clock.now()))
    first = await page(sqlite, None)
    begun = stores.clock.now() - timedelta(seconds=1)
    place = (begun, "sesn_") if "sessions" in name else first.next_cursor
    assert place is not None
    for after in (None, place):
        with plans() as found:
            await page(sqlite, after)
        assert found
        for plan in found:
            assert index in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan
            assert after is None or "created_at<" in plan or "created_at>" in plan, plan


@pytest.mark.parametrize("statuses", [("running",), ("running", "rescheduling"), ("terminated",)])
async def test_what_is_not_idle_is_found_without_looking_at_what_is(
    sqlite: Opened, statuses: tuple[Status, ...]
) -> None:
    with plans() as found:
        await sessions(sqlite, None, statuses=statuses)
        await sessions(sqlite, (sqlite.stores.clock.now(), "sesn_"), statuses=statuses)
    assert found
    for plan in found:
        assert "sessions_not_idle (workspace_id=? AND status=?" in plan, plan
