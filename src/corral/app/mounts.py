"""What sessions can have mounted: the sources of a brain, one for each kind."""

from collections.abc import Mapping, Sequence

from corral.app.files import files_of
from corral.app.ground import Ground
from corral.app.hands import SessionHands
from corral.catalog.blobs import BlobStore
from corral.hands.memory_sync import MemorySync
from corral.hands.mount_files import FileSource
from corral.hands.mounting import Mounting
from corral.kernel.ids import SessionId
from corral.repositories.mirrors import Mirrors
from corral.repositories.source import RepositorySource
from corral.session.content import Json
from corral.session.mounts import MountSource
from corral.store.memory.mounts import MemoryMountTable
from corral.store.session_resources import Resources

__all__ = ["open_mounting"]


def open_mounting(ground: Ground, hands: SessionHands, *, blobs: BlobStore, mirrors: Mirrors) -> Mounting:
    """To add a kind: one line in `sources`."""
    table = Resources(ground.database, ground.clock)

    async def resources(session_id: SessionId) -> Sequence[Mapping[str, Json]]:
        return [resource.known for resource in await table.of_session(session_id)]

    sources: Mapping[str, MountSource] = {
        "file": FileSource(files_of(ground, blobs)),
        "repository": RepositorySource(mirrors, resources=resources),
    }
    memory = MemorySync(hands, MemoryMountTable(ground.database, ground.ids))
    return Mounting(hands, resources=resources, sources=sources, memory=memory)
