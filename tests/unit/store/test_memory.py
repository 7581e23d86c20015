"""Changes of memories when clocks do what they like."""

from datetime import timedelta
from pathlib import Path

from corral.catalog.memory.ports import VersionFilter
from corral.kernel.ids import Ids
from corral.store.database import Database
from corral.store.memory.memories import MemoryTable
from corral.store.memory.versions import MemoryVersionTable
from corral.testing.clock import ManualClock
from corral.testing.contract_memory import KEY, store
from tests.opened import Opened


async def test_times_of_changes_never_go_back(tmp_path: Path) -> None:
    """Another node may have another time: bounds on times are bounds on changes, so these agree."""
    path = tmp_path / "corral.db"
    opened = await Opened.open(path)
    at = await store(opened.stores)
    opened.stores.clock.advance(60)
    first = await opened.stores.memories.create(at, path="/1", content="", actor=KEY)
    await opened.database.close()
    behind = ManualClock(start=first.created_at - timedelta(seconds=30))
    database = await Database.open(path, clock=behind)
    second = await MemoryTable(database, Ids()).create(at, path="/2", content="", actor=KEY)
    behind.advance(60)
    third = await MemoryTable(database, Ids()).create(at, path="/3", content="", actor=KEY)
    assert first.created_at == second.created_at < third.created_at
    only = VersionFilter(created_lte=first.created_at)
    page = await MemoryVersionTable(database).page(at, only=only, limit=9, cursor=None, has_content=False)
    assert [version.path for version in page.items] == ["/2", "/1"]
    await database.close()
