"""The store contract on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from corral.testing.contract_store import CHECKS
from corral.testing.stores import Check, Stores
from tests.opened import Opened


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    opened = await Opened.open(database_url)
    yield opened.stores
    await opened.database.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check, stores: Stores) -> None:
    await check(stores)
