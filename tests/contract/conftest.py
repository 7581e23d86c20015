from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.opened import Opened


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """An empty store of each engine, under a manual clock."""
    where = tmp_path / "corral.db" if request.param == "sqlite" else request.getfixturevalue("database_url")
    opened = await Opened.open(where)
    yield opened
    await opened.database.close()
