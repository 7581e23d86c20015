"""Placements and checkpoints, on both engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.store.checkpoints import Checkpoints
from corral.store.placements import Placements
from corral.testing.contract_placements import CHECKS, PlacementCheck
from tests.opened import Opened


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    where = tmp_path / "corral.db" if request.param == "sqlite" else request.getfixturevalue("database_url")
    opened = await Opened.open(where)
    yield opened
    await opened.database.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: PlacementCheck, opened: Opened) -> None:
    await check(opened.stores, Placements(opened.database), Checkpoints(opened.database))
