"""The store contract on SQLite, on disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.testing.contract_store import CHECKS
from corral.testing.stores import Check, Stores
from tests.opened import Opened


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    opened = await Opened.open(tmp_path / "corral.db")
    yield opened.stores
    await opened.database.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check, stores: Stores) -> None:
    await check(stores)
