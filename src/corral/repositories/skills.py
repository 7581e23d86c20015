"""What of the skills that repositories bring their session's agent is told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from corral.catalog.repositories import RESOURCE_TYPE, RepositorySkill
from corral.catalog.skills.manifest import read_foreign
from corral.kernel.errors import BlobUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import SKILLS_PER_SESSION_MAX
from corral.session.content import Json
from corral.session.mounts import MountFailed

__all__ = ["Listing", "SkillsOfRepositories"]

log = logging.getLogger(__name__)


class Listing(Protocol):
    """`RepositorySource`."""

    async def skills(
        self, session_id: SessionId, resource: Mapping[str, Json]
    ) -> Sequence[RepositorySkill]: ...


class SkillsOfRepositories:
    """`corral.brain.ports.RepositorySkills`."""

    def __init__(
        self,
        source: Listing,
        *,
        resources: Callable[[SessionId], Awaitable[Sequence[Mapping[str, Json]]]],
    ) -> None:
        """resources: what is attached to a session now, as the store keeps it; raises NotFound."""
        self._source = source
        self._resources = resources

    async def of(self, session_id: SessionId) -> Sequence[Mapping[str, Json]]:
        """In the order of the resources, and of the paths in each: names that clash are all there."""
        attached = [
            resource for resource in await self._resources(session_id) if resource["type"] == RESOURCE_TYPE
        ]
        # Side by side: the first request to the model waits for the slowest of them.
        found = await asyncio.gather(*(self._of_one(session_id, resource) for resource in attached))
        return [told for of_one in found for told in of_one][:SKILLS_PER_SESSION_MAX]

    async def _of_one(
        self, session_id: SessionId, resource: Mapping[str, Json]
    ) -> Sequence[Mapping[str, Json]]:
        try:
            listed = await self._source.skills(session_id, resource)
        except (MountFailed, BlobUnavailable) as failed:  # whoever needs the repository is told
            log.warning("session %s: skills of %s: %s", session_id, resource["id"], failed)
            return ()
        return await asyncio.to_thread(_all_told, listed, resource)  # it parses what anybody wrote


def _all_told(
    listed: Sequence[RepositorySkill], resource: Mapping[str, Json]
) -> Sequence[Mapping[str, Json]]:
    return [told for skill in listed if (told := _told(skill, resource)) is not None]


def _told(skill: RepositorySkill, resource: Mapping[str, Json]) -> Mapping[str, Json] | None:
    directory = PurePosixPath(resource["mount_path"]) / PurePosixPath(skill.path).parent
    manifest = read_foreign(skill.text, directory=skill.name)
    if manifest is None or not str(directory).isprintable():
        return None
    return {"name": manifest.name, "description": manifest.description, "path": str(directory)}
