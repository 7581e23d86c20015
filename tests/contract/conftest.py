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


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox boots in a moment, but not on a machine that does a dozen other things."""
    for module in ("kernel.limits", "hands.providers.process", "hands.providers.engine"):
        monkeypatch.setattr(f"corral.{module}.SANDBOX_BOOT_SECONDS_MAX", 60.0)
