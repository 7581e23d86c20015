"""What a resource of each type is made of. To add one: its shape in `schema/resources.py`, its kind here.

`prepare` resolves what a request names, and says what the session gets. What can only be known under a lock
is the store's: copies of files, and whether the session still lives.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from pydantic import SecretStr

from corral.api.dependencies import Dependencies
from corral.api.schema.resources import FileMount, MemoryStoreMount, RepositoryMount
from corral.api.sealing import seal_token
from corral.catalog.files import check_readable
from corral.catalog.memory.attach import (
    MEMORY_ROOT,
    check_attachable,
    memory_resource,
    mount_paths,
)
from corral.catalog.memory.attach import check_together as check_stores
from corral.catalog.memory.ports import StoreKey
from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken, TokenPlace, repository_resource
from corral.catalog.resources import check_together, file_resource, upload_path
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import FILE, RESOURCE, FileId, MemoryStoreId, ResourceId, WorkspaceId
from corral.session.resources import FileCopy, NewResource, Resource

__all__ = ["ResourceKind", "ResourceKinds", "fits", "named_files", "with_token"]


class ResourceKind(Protocol):
    """One type of resource."""

    @property
    def is_removable(self) -> bool:
        """Whether it may be removed from a session that lives."""

    async def prepare(
        self, asked: Any, *, where: str, workspace_id: WorkspaceId, now: datetime
    ) -> NewResource:
        """asked: of this type's shape. where: what stands before its fields in messages.

        Raises NotFound (what it names is not there, or in another workspace), InvalidRequest.
        """

    async def sealed(
        self, current: Resource, token: SecretStr, *, workspace_id: WorkspaceId
    ) -> SealedToken:
        """Another token for it. Raises InvalidRequest (it has none), VaultUnavailable."""


class ResourceKinds:
    """All types that this server knows."""

    def __init__(self, deps: Dependencies) -> None:
        self._kinds: Mapping[str, ResourceKind] = {
            "file": _Files(deps),
            "github_repository": _Repositories(deps),
            "memory_store": _MemoryStores(deps),
        }

    async def prepare(
        self, asked: Sequence[Any], *, agent: Wire, workspace_id: WorkspaceId, now: datetime
    ) -> list[NewResource]:
        """What a new session of this agent gets. Raises as `ResourceKind.prepare`, naming the item."""
        fields = [f"resources.{number}." for number in range(len(asked))]
        new = [
            await self.of(each.type, where=where).prepare(
                each, where=where, workspace_id=workspace_id, now=now
            )
            for each, where in zip(asked, fields, strict=True)
        ]
        new = with_memory_paths(new, agent)
        check_together([each.resource.body for each in new], where=fields)
        return new

    def of(self, type_: str, *, where: str) -> ResourceKind:
        """Raises InvalidRequest: not on this server."""
        kind = self._kinds.get(type_)
        if kind is None:
            raise InvalidRequest(
                f"{where}type: {type_!r} resources are not available on this server yet; there are:"
                f" {', '.join(sorted(self._kinds))}"
            )
        return kind


def named_files(asked: Sequence[Any]) -> list[str]:
    """Ids of the files among what is to be mounted."""
    return [each.file_id for each in asked if isinstance(each, FileMount)]


def with_memory_paths(new: Sequence[NewResource], agent: Wire) -> list[NewResource]:
    """The same, memory stores with their places, which depend on each other. Raises InvalidRequest."""
    stores = [
        {"id": each.resource.body["memory_store_id"], "name": each.resource.body["name"]}
        for each in new
        if each.resource.type == "memory_store"
    ]
    check_stores(stores, agent)
    paths = iter(mount_paths(stores))
    return [
        replace(
            each,
            resource=replace(each.resource, body={**each.resource.body, "mount_path": next(paths)}),
        )
        if each.resource.type == "memory_store"
        else each
        for each in new
    ]


def with_token(current: Resource, *, now: datetime) -> Resource:
    """It has a token now, or another one, which stands elsewhere."""
    body = {**current.body, "updated_at": rfc3339(now)}
    return Resource(body=body, private={**current.private, "has_token": True})


def fits(new: NewResource) -> Callable[[Sequence[Resource]], None]:
    """`check` of `SessionResources.add`."""

    def check(there: Sequence[Resource]) -> None:
        bodies = [*(each.body for each in there), new.resource.body]
        check_together(bodies, where=[""] * len(bodies))

    return check


class _Files:
    """Files: the session gets a copy under an id of its own, which shares the bytes."""

    is_removable = True

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def prepare(
        self, asked: FileMount, *, where: str, workspace_id: WorkspaceId, now: datetime
    ) -> NewResource:
        file_id = FileId(asked.file_id)
        mount_path = upload_path(asked.mount_path, file_id=file_id, where=f"{where}mount_path")
        source = await self._deps.files.table.read(workspace_id, file_id)
        check_readable(source, now=now)
        copy_id = FileId(self._deps.ids.mint(FILE))
        body = file_resource(
            ResourceId(self._deps.ids.mint(RESOURCE)), file_id=copy_id, mount_path=mount_path, now=now
        )
        resource = Resource(body=body, private={"sha256": source.sha256, "size_bytes": source.size_bytes})
        return NewResource(resource=resource, copies=[FileCopy(file_id, copy_id)])

    async def sealed(
        self, current: Resource, token: SecretStr, *, workspace_id: WorkspaceId
    ) -> SealedToken:
        raise InvalidRequest(
            "authorization_token: a file has none; it can be changed of 'github_repository' resources"
        )


class _Repositories:
    """Repositories of git hosts that the operator allows. They are cloned when the session needs them."""

    is_removable = False

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def prepare(
        self, asked: RepositoryMount, *, where: str, workspace_id: WorkspaceId, now: datetime
    ) -> NewResource:
        body = repository_resource(
            asked.given(),
            resource_id=ResourceId(self._deps.ids.mint(RESOURCE)),
            hosts=self._deps.repository_hosts,
            where=where,
            now=now,
        )
        resource = Resource(body=body)
        if "authorization_token" not in asked.model_fields_set:
            return NewResource(resource=resource)
        token = await self.sealed(resource, asked.authorization_token, workspace_id=workspace_id)
        return NewResource(resource=with_token(resource, now=now), token=token)

    async def sealed(
        self, current: Resource, token: SecretStr, *, workspace_id: WorkspaceId
    ) -> SealedToken:
        assert current.resource_id is not None
        place = TokenPlace(
            workspace_id=workspace_id, resource_id=current.resource_id, url=current.body["url"]
        )
        return await seal_token(self._deps, token, place)


class _MemoryStores:
    """Memory stores: attached for as long as the session lives, as they are named now."""

    is_removable = False

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def prepare(
        self, asked: MemoryStoreMount, *, where: str, workspace_id: WorkspaceId, now: datetime
    ) -> NewResource:
        at = StoreKey(workspace_id, MemoryStoreId(asked.memory_store_id))
        store = await self._deps.memory_stores.read(at)
        check_attachable(store, where=where)
        body = memory_resource(
            store, access=asked.access, instructions=asked.instructions, mount_path=MEMORY_ROOT
        )
        return NewResource(resource=Resource(body=body, private={"workspace_id": workspace_id}))

    async def sealed(
        self, current: Resource, token: SecretStr, *, workspace_id: WorkspaceId
    ) -> SealedToken:
        raise InvalidRequest("authorization_token: a memory store has none, and cannot be changed")
