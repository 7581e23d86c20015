"""What sessions can have mounted, and what comes back from there: the sources of a brain, one for each
kind, and the collector of a hands node."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from corral.app.files import files_of
from corral.app.ground import Ground
from corral.app.hands import SessionHands
from corral.catalog.blobs import BlobStore
from corral.hands.client import HandsClient
from corral.hands.memory_sync import MemorySync
from corral.hands.mount_files import FileSource
from corral.hands.mount_skills import SkillSource
from corral.hands.mounting import Mounting
from corral.hands.providers.system import System
from corral.kernel.errors import NotFound
from corral.kernel.ids import SessionId, WorkspaceId
from corral.orchestrator.outputs import OutputsCollector
from corral.packages.layers import Layers
from corral.packages.source import PackageSource
from corral.repositories.mirrors import Mirrors
from corral.repositories.skills import SkillsOfRepositories
from corral.repositories.source import RepositorySource
from corral.session.content import Json
from corral.session.mounts import Attached, MountSource
from corral.store.memory.mounts import MemoryMountTable
from corral.store.session_resources import Resources
from corral.store.sessions import Sessions

__all__ = ["open_collector", "open_mounting", "open_repositories"]


def open_mounting(
    ground: Ground,
    hands: SessionHands,
    *,
    blobs: BlobStore,
    repositories: RepositorySource,
    layers: Layers,
) -> Mounting:
    """To add a kind: one line in `sources`."""
    sources: Mapping[str, MountSource] = {
        "file": FileSource(files_of(ground, blobs)),
        "skill": SkillSource(blobs),
        "repository": repositories,
        "packages": PackageSource(
            layers, workspace=_workspace(ground), system=System.at(ground.config.sandbox_root)
        ),
    }
    memory = MemorySync(hands, MemoryMountTable(ground.database, ground.ids))
    return Mounting(hands, resources=_resources(ground), sources=sources, memory=memory)


def open_repositories(ground: Ground, mirrors: Mirrors) -> tuple[RepositorySource, SkillsOfRepositories]:
    """One source for both: what a checkout was resolved to for the skills is what the copy gets."""
    source = RepositorySource(mirrors, resources=_resources(ground), workspace=_workspace(ground))
    return source, SkillsOfRepositories(source, resources=_resources(ground))


def open_collector(ground: Ground, hands: HandsClient, blobs: BlobStore) -> OutputsCollector:
    """Of what lies on this node's host."""
    resources = _resources(ground)
    memory = MemorySync(hands, MemoryMountTable(ground.database, ground.ids))

    async def save_memory(session_id: SessionId) -> None:
        attached = Attached(session_id=session_id, resources=await resources(session_id))
        if mounts := await memory.mounts(attached):
            await memory.push(session_id, mounts, tells=False)

    return OutputsCollector(files_of(ground, blobs), save_memory=save_memory)


def _workspace(ground: Ground) -> Callable[[SessionId], Awaitable[WorkspaceId]]:
    sessions = Sessions(ground.database, ground.bus, ground.clock)

    async def workspace(session_id: SessionId) -> WorkspaceId:
        owner = await sessions.owner_of(session_id)
        if owner is None:
            raise NotFound(f"Session {session_id!r} was not found.")
        return owner.workspace_id

    return workspace


def _resources(ground: Ground) -> Callable[[SessionId], Awaitable[Sequence[Mapping[str, Json]]]]:
    table = Resources(ground.database, ground.clock)

    async def resources(session_id: SessionId) -> Sequence[Mapping[str, Json]]:
        return [resource.known for resource in await table.of_session(session_id)]

    return resources
