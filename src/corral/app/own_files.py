"""A node that shares the database and keeps blobs to itself: its sessions' files would be lost with it.

One node alone may: it needs a PostgreSQL and nothing else. As soon as there are two, what one of them has
copied must be there for the other. So a second node does not start beside others without `blob_url`, and a
first one that was there before the others says in its readiness and its log what it lacks.
"""

import asyncio
import logging
from collections.abc import Sequence

from corral.api.dependencies import Check
from corral.app.part import Part
from corral.cluster.node import NodeStore, SeenNode
from corral.config import Config
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import NODE_BEAT_SECONDS, NODE_LOST_SECONDS
from corral.orchestrator.node import NodeDuty

__all__ = ["own_files_part", "refuse_own_files"]

log = logging.getLogger(__name__)

_REMEDY = (
    "set CORRAL_BLOB_URL=s3://bucket/prefix, or file:///directory that all nodes share, on each of them"
)


async def refuse_own_files(config: Config, nodes: NodeStore, *, node_id: str) -> None:
    """Raises InvalidRequest for a newcomer with blobs of its own beside live nodes. One that is listed is
    no newcomer: its server was replaced, and it must come back. A row of the dead is waited out. Raises
    StoreUnavailable."""
    if not _keeps_files(config):
        return
    for _ in range(int(NODE_LOST_SECONDS / NODE_BEAT_SECONDS) + 2):
        seen = await nodes.all()
        if any(each.node.node_id == node_id for each in seen):
            return
        others = _sharing(seen, node_id)
        if not others:
            return
        await asyncio.sleep(NODE_BEAT_SECONDS)
    raise InvalidRequest(
        f"other nodes share this database ({', '.join(others)}), and do not find files that this one keeps"
        f" in its data directory: {_REMEDY}"
    )


def own_files_part(config: Config, duty: NodeDuty, *, node_id: str) -> Part:
    if not _keeps_files(config):
        return Part()
    warned: list[str] = []

    async def look() -> Check:
        others = _sharing(duty.seen(), node_id)
        if not others:
            warned.clear()
            return Check(status="ok")
        reason = (
            f"this node keeps files in its data directory, where other nodes do not find them: {_REMEDY}"
        )
        if not warned:
            log.warning("other nodes share this database (%s): %s", ", ".join(others), reason)
            warned.extend(others)
        return Check(status="warning", reason=reason)

    return Part(looks_elsewhere={"files": look})


def _keeps_files(config: Config) -> bool:
    return config.is_postgres and config.blob_url is None and set(config.roles) != {"egress"}


def _sharing(seen: Sequence[SeenNode], node_id: str) -> list[str]:
    """Urls of the other live nodes that have to do with files."""
    return [
        each.node.url
        for each in seen
        if not each.is_lost and each.node.node_id != node_id and set(each.node.roles) != {"egress"}
    ]
