"""Placements and checkpoints, on both engines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.store.bus import LocalBus
from corral.store.catalog import Agents, Environments
from corral.store.checkpoints import Checkpoints
from corral.store.cleanup import Cleanup
from corral.store.database import Database
from corral.store.idempotency import Idempotency
from corral.store.keys import ApiKeys
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.placements import Placements
from corral.store.sessions import Sessions
from corral.testing.clock import ManualClock
from corral.testing.contract_placements import CHECKS, PlacementCheck
from corral.testing.stores import Stores


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    where = tmp_path / "corral.db" if request.param == "sqlite" else request.getfixturevalue("database_url")
    database = await Database.open(where, clock=ManualClock())
    yield database
    await database.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: PlacementCheck, database: Database) -> None:
    bus, clock = LocalBus(), database.clock
    assert isinstance(clock, ManualClock)
    stores = Stores(
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
    await check(stores, Placements(database), Checkpoints(database))
