"""Repositories as mounts: each is a copy below /workspace, made once, of a checkout that is resolved when
it is first needed."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from corral.catalog.repositories import (
    RESOURCE_TYPE,
    Branch,
    Checkout,
    Commit,
    Holder,
    Repository,
    RepositorySkill,
    repository_url,
)
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import SessionId, WorkspaceId
from corral.kernel.limits import REPOSITORIES_RESOLVED_MAX, REPOSITORY_RESOLVED_SECONDS
from corral.repositories.failures import RepositoryFailed
from corral.repositories.mirrors import Mirrors, Resolved
from corral.session.call import Mount
from corral.session.content import Json
from corral.session.mounts import Attached, MountFailed

__all__ = ["RepositorySource"]


class RepositorySource:
    """`corral.session.mounts.MountSource` of kind "repository"; and the skills that repositories bring."""

    def __init__(
        self,
        mirrors: Mirrors,
        *,
        resources: Callable[[SessionId], Awaitable[Sequence[Mapping[str, Json]]]],
        workspace: Callable[[SessionId], Awaitable[WorkspaceId]],
    ) -> None:
        """resources: what is attached to a session now, as the store keeps it. workspace: whose it is. Both
        raise NotFound."""
        self._mirrors = mirrors
        self._resources = resources
        self._workspace = workspace
        self._resolved: OrderedDict[tuple[SessionId, str], tuple[float, Resolved]] = OrderedDict()

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return [_mount(each) for each in attached.resources if each["type"] == RESOURCE_TYPE]

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncGenerator[bytes, None]:
        resource, whose = await self._resource(session_id, mount), await self._workspace(session_id)
        repository = _repository(resource, Holder(workspace_id=whose, session_id=session_id))

        def archive_of(resolved: Resolved) -> AsyncGenerator[bytes, None]:
            return self._mirrors.archive(repository, resolved, workspace_id=whose)

        try:
            resolved, is_fresh = await self._resolve(session_id, mount.mount_id, repository)
            has_begun = False
            try:
                async with aclosing(archive_of(resolved)) as archive:
                    async for chunk in archive:
                        has_begun = True
                        yield chunk
                return
            except RepositoryFailed:
                if is_fresh or has_begun:
                    raise
            # What it was resolved to a while ago is gone from the mirror, or the mirror is.
            resolved, _ = await self._resolve(session_id, mount.mount_id, repository, again=True)
            async with aclosing(archive_of(resolved)) as archive:
                async for chunk in archive:
                    yield chunk
        except RepositoryFailed as failed:
            raise _mount_failed(failed, repository, mount.mount_id) from failed

    async def skills(
        self, session_id: SessionId, resource: Mapping[str, Json]
    ) -> Sequence[RepositorySkill]:
        """The files `.claude/skills/<name>/SKILL.md` of a repository of the session, at the commit that its
        copy will have, in order of their names.

        resource: as the store keeps it, of type RESOURCE_TYPE. In the sandbox such a file lies at
        `{resource["mount_path"]}/{skill.path}`. The text is read from our bare mirror, as a blob of that
        commit: no working tree, no link is followed, and the repository of a skill may be anybody's, so
        treat the text (names and front matter too) as untrusted. At most REPOSITORY_SKILLS_MAX, each of at
        most REPOSITORY_SKILL_BYTES_MAX; longer ones, links and submodules are passed over.

        This is the session's clone: it may take as long as one (REPOSITORY_SECONDS_MAX), and the copy made
        soon after costs no further fetch. Repeat: safe; it scans anew, so call it once, when a session
        starts, and keep the outcome in the log. Raises MountFailed, as `open` does: go on without.
        """
        whose = await self._workspace(session_id)
        repository = _repository(resource, Holder(workspace_id=whose, session_id=session_id))
        mount_id = str(resource["id"])
        try:
            resolved, _ = await self._resolve(session_id, mount_id, repository)
            return await self._mirrors.skills(repository, resolved, workspace_id=whose)
        except RepositoryFailed as failed:
            raise _mount_failed(failed, repository, mount_id) from failed

    async def _resource(self, session_id: SessionId, mount: Mount) -> Mapping[str, Json]:
        for resource in await self._resources(session_id):
            if resource["type"] == RESOURCE_TYPE and resource["id"] == mount.mount_id:
                return resource
        raise MountFailed.unknown("The repository is not a resource of this session any more.")

    async def _resolve(
        self, session_id: SessionId, mount_id: str, repository: Repository, *, again: bool = False
    ) -> tuple[Resolved, bool]:
        """What the checkout comes to, and whether it was asked just now."""
        key, now = (session_id, mount_id), time.monotonic()
        known = self._resolved.pop(key, None)
        if known is not None and now - known[0] < REPOSITORY_RESOLVED_SECONDS and not again:
            self._resolved[key] = known
            return known[1], False
        whose = await self._workspace(session_id)
        resolved = await self._mirrors.fetch(repository, session_id=session_id, workspace_id=whose)
        self._resolved[key] = (now, resolved)
        if len(self._resolved) > REPOSITORIES_RESOLVED_MAX:
            self._resolved.popitem(last=False)
        return resolved, True


def _mount(resource: Mapping[str, Json]) -> Mount:
    content = repr((resource["url"], resource.get("checkout")))
    return Mount(
        mount_id=resource["id"],
        kind="repository",
        path=resource["mount_path"],
        digest=hashlib.sha256(content.encode()).hexdigest()[:32],
        mode="copy",
        has_token=resource.get("has_token") is True,
    )


def _repository(resource: Mapping[str, Json], session: Holder) -> Repository:
    """Raises MountFailed for one that an older version took and this one does not."""
    try:
        url = repository_url(resource["url"])
    except InvalidRequest as error:
        raise MountFailed.unknown(f"The repository cannot be cloned: {error.message}") from error
    holder = session if resource.get("has_token") is True else None
    checkout: Checkout = None
    match resource.get("checkout"):
        case {"type": "branch", "name": str(name)}:
            checkout = Branch(name)
        case {"type": "commit", "sha": str(sha)}:
            checkout = Commit(sha)
    return Repository(url=url, checkout=checkout, holder=holder)


def _mount_failed(failed: RepositoryFailed, repository: Repository, mount_id: str) -> MountFailed:
    return MountFailed(failed.wire(repository.url.text), mount_id=mount_id, detail=failed.detail)
