"""What of the skills that repositories bring their session's agent is told."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from corral.catalog.repositories import RESOURCE_TYPE, RepositorySkill
from corral.catalog.skills.manifest import read_foreign
from corral.kernel.errors import BlobUnavailable
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    REPOSITORY_LOOKS_MAX,
    REPOSITORY_SKILLS_WAIT_SECONDS,
    SKILLS_PER_SESSION_MAX,
)
from corral.session.content import Json
from corral.session.mounts import MountFailed

__all__ = ["Listing", "SkillsOfRepositories"]

log = logging.getLogger(__name__)

_Skills = Sequence[Mapping[str, Json]]


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
        wait_seconds: float = REPOSITORY_SKILLS_WAIT_SECONDS,
    ) -> None:
        """resources: what is attached to a session now, as the store keeps it; raises NotFound."""
        self._source = source
        self._resources = resources
        self._wait_seconds = wait_seconds
        # What nobody has asked for any more goes when there are too many.
        self._looks: OrderedDict[SessionId, asyncio.Task[_Skills]] = OrderedDict()

    async def of(self, session_id: SessionId, *, waits: bool) -> _Skills | None:
        look = self._looks.get(session_id)
        if look is None:
            look = self._looks[session_id] = asyncio.create_task(self._look(session_id))
            if len(self._looks) > REPOSITORY_LOOKS_MAX:
                self._looks.popitem(last=False)[1].cancel()
        await asyncio.wait([look], timeout=self._wait_seconds if waits else 0)
        if not look.done():
            return None
        if self._looks.get(session_id) is look:
            del self._looks[session_id]
        return None if look.cancelled() else look.result()

    async def aclose(self) -> None:
        """Repeat: safe."""
        looks = list(self._looks.values())
        self._looks.clear()
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _look(self, session_id: SessionId) -> _Skills:
        """In the order of the resources, and of the paths in each: names that clash are all there."""
        attached = [
            resource for resource in await self._resources(session_id) if resource["type"] == RESOURCE_TYPE
        ]
        # Side by side: the model is told of all when the slowest is there.
        found = await asyncio.gather(*(self._of_one(session_id, resource) for resource in attached))
        return [told for of_one in found for told in of_one][:SKILLS_PER_SESSION_MAX]

    async def _of_one(self, session_id: SessionId, resource: Mapping[str, Json]) -> _Skills:
        try:
            listed = await self._source.skills(session_id, resource)
        except (MountFailed, BlobUnavailable) as failed:  # whoever needs the repository is told
            log.warning("session %s: skills of %s: %s", session_id, resource["id"], failed)
            return ()
        return await asyncio.to_thread(_all_told, listed, resource)  # it parses what anybody wrote


def _all_told(listed: Sequence[RepositorySkill], resource: Mapping[str, Json]) -> _Skills:
    return [told for skill in listed if (told := _told(skill, resource)) is not None]


def _told(skill: RepositorySkill, resource: Mapping[str, Json]) -> Mapping[str, Json] | None:
    directory = PurePosixPath(resource["mount_path"]) / PurePosixPath(skill.path).parent
    manifest = read_foreign(skill.text, directory=skill.name)
    if manifest is None or not str(directory).isprintable():
        return None
    return {"name": manifest.name, "description": manifest.description, "path": str(directory)}
