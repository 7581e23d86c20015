from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "corral.db")
    yield database
    await database.close()
