"""What every server process stands on, whatever its roles: store, bus, and the name of its leases."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.config import Config
from corral.kernel.clock import Clock, SystemClock
from corral.kernel.ids import Ids, SessionId
from corral.process import Start
from corral.session.bus import Bus
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases

if TYPE_CHECKING:  # its driver is needed by nodes that share a database only
    from corral.store.bus_postgres import PostgresBus

__all__ = ["Ground", "open_ground"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """
    shared_bus: the bus, where nodes share it.
    owner:   of the leases of this process, `{node}.{incarnation}`.
    orphans: sessions whose brain was an earlier incarnation of this node; they may be claimed now.
    """

    start: Start
    database: Database
    bus: Bus
    shared_bus: "PostgresBus | None"
    leases: Leases
    orphans: Sequence[SessionId]
    clock: Clock
    ids: Ids

    @property
    def config(self) -> Config:
        return self.start.config

    @property
    def owner(self) -> str:
        return self.start.owner


async def open_ground(start: Start, stack: AsyncExitStack) -> Ground:
    """Open store and bus, and end the leases of this node's dead. Closed with the stack.

    Raises StoreUnavailable.
    """
    config = start.config
    url = config.database_url.reveal() if config.database_url else None
    database = await Database.open(url or config.data_dir / "corral.db")
    stack.push_async_callback(database.close)
    bus: Bus = LocalBus()
    shared_bus = None
    if url is not None and config.is_postgres:
        from corral.store.bus_postgres import PostgresBus

        bus = shared_bus = await stack.enter_async_context(PostgresBus.open(url, node_id=start.node))
    leases = Leases(database)
    # Only one supervisor holds the data directory: whatever ran here before us is dead.
    orphans = await leases.end(owner_prefix=f"{start.node}.", except_owner=start.owner)
    return Ground(
        start=start,
        database=database,
        bus=bus,
        shared_bus=shared_bus,
        leases=leases,
        orphans=orphans,
        clock=SystemClock(),
        ids=Ids(),
    )
