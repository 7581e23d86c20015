"""Resources: what is mounted in a session. The rules of each type are in `catalog/resources.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from corral.catalog.repositories import SealedToken
from corral.kernel.ids import FileId, ResourceId, SessionId
from corral.session.content import Json

__all__ = ["FileCopy", "NewResource", "Resource", "SessionResources"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """body: as the wire shows it, `type` always and `id` for most. private: what only brains need; never a
    secret, sealed or not, no name that `body` has (of a file: `sha256`, `size_bytes`; of a repository
    `has_token`)."""

    body: Mapping[str, Json]
    private: Mapping[str, Json] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return str(self.body["type"])

    @property
    def known(self) -> Mapping[str, Json]:
        """All of it in one."""
        return {**self.body, **self.private}

    @property
    def resource_id(self) -> ResourceId | None:
        """None of a memory store, which has no id of its own."""
        return self.body.get("id")


class FileCopy(NamedTuple):
    """A session gets a file of its own, of the same bytes."""

    from_id: FileId
    to_id: FileId


@dataclass(frozen=True, kw_only=True, slots=True)
class NewResource:
    """A resource, and what comes into being together with it."""

    resource: Resource
    copies: Sequence[FileCopy] = ()
    token: SealedToken | None = None


class SessionResources(Protocol):
    """The resources of a session, in the order in which they were added. All methods raise NotFound: the
    session is gone; StoreUnavailable."""

    async def of_session(self, session_id: SessionId) -> Sequence[Resource]:
        """One look at one row: cheap enough before every tool call."""

    async def add(
        self,
        session_id: SessionId,
        new: NewResource,
        check: Callable[[Sequence[Resource]], None],
    ) -> Resource:
        """check: called under the session's row lock with what is there, and refuses by raising.

        Raises Conflict (the session has ended), NotFound (the file), what `check` raises.
        """

    async def update(
        self,
        session_id: SessionId,
        resource_id: ResourceId,
        change: Callable[[Resource], Resource],
        *,
        token: SealedToken | None = None,
    ) -> Resource:
        """Under the session's row lock. token: takes the place of the one that the resource has.

        Raises NotFound (the resource), Conflict, VaultUnavailable (the token's key is no longer in use),
        what `change` raises."""

    async def remove(
        self,
        session_id: SessionId,
        resource_id: ResourceId,
        check: Callable[[Resource], None],
    ) -> None:
        """With its copied file. Raises as `update`."""
