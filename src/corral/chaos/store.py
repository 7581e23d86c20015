"""The end of a run as the store has it, read through its ports when no server is left."""

from collections.abc import AsyncIterator, Sequence

from corral.chaos.cluster import Cluster
from corral.chaos.driver import Dialogue
from corral.kernel.ids import SessionId
from corral.session.log import Snapshot
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.log import Log

__all__ = ["snapshots"]


async def snapshots(
    cluster: Cluster, dialogues: Sequence[Dialogue]
) -> AsyncIterator[tuple[Dialogue, Snapshot]]:
    """Record, log and inbox of each session, private payloads and all."""
    database = await Database.open(cluster.database_url or cluster.database_path)
    try:
        log = Log(database, LocalBus())
        for dialogue in dialogues:
            yield dialogue, await log.snapshot(SessionId(dialogue.session_id))
    finally:
        await database.close()
