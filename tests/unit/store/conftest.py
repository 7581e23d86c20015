from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.store.database import Database
from tests.opened import Opened


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "corral.db")
    yield database
    await database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """An empty store of each engine."""
    where = tmp_path / "corral.db" if request.param == "sqlite" else request.getfixturevalue("database_url")
    opened = await Opened.open(where)
    yield opened
    await opened.database.close()
