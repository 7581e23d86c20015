import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.kernel.clock import SystemClock
from corral.store.blobs import LocalBlobs
from corral.store.bus import LocalBus
from corral.store.checkpoints import Checkpoints
from corral.store.database import Database
from corral.store.log import Log
from corral.store.placements import Placements
from corral.store.sessions import Sessions
from tests.crash.hosts import HandsCluster


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "corral.db")
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def cluster(tmp_path: Path, database: Database) -> AsyncIterator[HandsCluster]:
    async with contextlib.AsyncExitStack() as stack:
        yield HandsCluster(
            directory=tmp_path,
            sessions=Sessions(database, LocalBus(), SystemClock()),
            log=Log(database, LocalBus()),
            placements=Placements(database),
            checkpoints=Checkpoints(database),
            blobs=await LocalBlobs.open(tmp_path / "blobs"),
            stack=stack,
        )
