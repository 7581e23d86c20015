"""The store contract on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.cleanup import Cleanup
from corral.store.database import Database
from corral.store.idempotency import Idempotency
from corral.store.keys import ApiKeys
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.contract_store import CHECKS
from corral.testing.stores import Check, Stores


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    clock = ManualClock()
    database = await Database.open(database_url, clock=clock)
    bus = LocalBus()
    yield Stores(
        clock=clock,
        bus=bus,
        log=Log(database, bus),
        leases=Leases(database),
        sessions=Sessions(database, bus, clock),
        agents=Agents(database),
        environments=Environments(database),
        keys=ApiKeys(database),
        idempotency=Idempotency(database),
        cleanup=Cleanup(database),
    )
    await database.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check, stores: Stores) -> None:
    await check(stores)
