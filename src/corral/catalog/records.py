"""Ports of the catalog's stores. Implemented by `store/catalog.py`; each method is one transaction.

`workspace_id`: the caller's. What belongs to another workspace does not exist: NotFound, in no list.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from corral.catalog.roles import Role
from corral.kernel.cursor import Page
from corral.kernel.ids import DEFAULT_WORKSPACE, AgentId, EnvironmentId, WorkspaceId

Wire = Mapping[str, Any]
"""A resource as the wire shows it: all fields present, timestamps already RFC 3339."""


class AgentStore(Protocol):
    async def create(self, agent: Wire, *, workspace_id: WorkspaceId) -> None:
        """Store version 1. An existing id is a bug."""

    async def read(
        self, agent_id: AgentId, *, workspace_id: WorkspaceId, version: int | None = None
    ) -> Wire:
        """At that version, or the latest; `archived_at` is the agent's at every one. Raises NotFound."""

    async def update(
        self, agent_id: AgentId, change: Callable[[Wire], Wire], *, workspace_id: WorkspaceId
    ) -> Wire:
        """Read the latest under a lock, apply `change` (pure; may raise CallerError), and store the result
        as the next version. An equal result stores nothing and returns the existing version.
        Raises NotFound, whatever `change` raises."""

    async def archive(self, agent_id: AgentId, *, workspace_id: WorkspaceId, now: datetime) -> Wire:
        """Repeat: safe, the first time stays. Raises NotFound."""

    async def page(
        self,
        *,
        workspace_id: WorkspaceId,
        limit: int,
        cursor: str | None,
        include_archived: bool,
        created_gte: datetime | None = None,
        created_lte: datetime | None = None,
    ) -> Page[Wire]:
        """Latest versions, newest created first. Raises InvalidRequest for a cursor that is not ours."""

    async def versions(
        self, agent_id: AgentId, *, workspace_id: WorkspaceId, limit: int, cursor: str | None
    ) -> Page[Wire]:
        """One item per version, newest first. Raises NotFound, InvalidRequest."""


class EnvironmentStore(Protocol):
    async def create(self, environment: Wire, *, workspace_id: WorkspaceId) -> None:
        """An existing id is a bug."""

    async def read(self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId) -> Wire:
        """Raises NotFound."""

    async def update(
        self,
        environment_id: EnvironmentId,
        change: Callable[[Wire], Wire],
        *,
        workspace_id: WorkspaceId,
    ) -> Wire:
        """Read under a lock, apply `change`, store. Raises NotFound, whatever `change` raises."""

    async def archive(
        self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId, now: datetime
    ) -> Wire:
        """Repeat: safe. Raises NotFound."""

    async def delete(self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId) -> None:
        """Raises NotFound; Conflict while a session that is neither archived nor deleted references it."""

    async def page(
        self, *, workspace_id: WorkspaceId, limit: int, cursor: str | None, include_archived: bool
    ) -> Page[Wire]:
        """Newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """An API key as it is kept: only its SHA-256. `hint` is its last four characters.

    workspace_id: nothing outside of it exists for this key; see `roles.is_operator` for the exception.
    last_used_at: when it last let somebody in, at most API_KEY_USE_SECONDS ago more; None: never.
    """

    api_key_id: str
    name: str
    sha256: bytes
    hint: str
    created_at: datetime
    revoked_at: datetime | None = None
    workspace_id: WorkspaceId = DEFAULT_WORKSPACE
    role: Role = "admin"
    last_used_at: datetime | None = None


class ApiKeyStore(Protocol):
    async def add(self, key: ApiKey) -> None:
        """Repeat with the same hash: safe. Raises NotFound for a workspace that is not there, Conflict for
        an archived one."""

    async def find(self, sha256: bytes) -> ApiKey | None:
        """None if unknown or revoked, or its workspace is archived."""

    async def all(self, *, workspace_id: WorkspaceId | None) -> Sequence[ApiKey]:
        """Of a workspace, or (None) of all. Oldest first, revoked ones too."""

    async def revoke(self, api_key_id: str, *, workspace_id: WorkspaceId | None, now: datetime) -> None:
        """Of that workspace, or (None) of any. Repeat: safe. Raises NotFound; Conflict for the last valid
        operator's key: nobody could manage the server any more."""

    async def used(self, at: Mapping[str, datetime]) -> None:
        """Note when keys (by id) were last used; never goes back. Unknown ids are ignored."""
