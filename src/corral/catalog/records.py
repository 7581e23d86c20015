"""Ports of the catalog's stores. Implemented by `store/catalog.py`; each method is one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from corral.kernel.ids import AgentId, EnvironmentId

Wire = Mapping[str, Any]
"""A resource as the wire shows it: all fields present, timestamps already RFC 3339."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListPage:
    """`items` in list order (newest first), `next_cursor` opaque to all but the store; None at the end."""

    items: Sequence[Wire]
    next_cursor: str | None


class AgentStore(Protocol):
    async def create(self, agent: Wire) -> None:
        """Store version 1. An existing id is a bug."""

    async def read(self, agent_id: AgentId, *, version: int | None = None) -> Wire:
        """At that version, or the latest; `archived_at` is the agent's at every one. Raises NotFound."""

    async def update(self, agent_id: AgentId, change: Callable[[Wire], Wire]) -> Wire:
        """Read the latest under a lock, apply `change` (pure; may raise CallerError), and store the result
        as the next version. An equal result stores nothing and returns the existing version.
        Raises NotFound, whatever `change` raises."""

    async def archive(self, agent_id: AgentId, *, now: datetime) -> Wire:
        """Repeat: safe, the first time stays. Raises NotFound."""

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None,
        include_archived: bool,
        created_gte: datetime | None = None,
        created_lte: datetime | None = None,
    ) -> ListPage:
        """Latest versions, newest created first. Raises InvalidRequest for a cursor that is not ours."""

    async def versions(self, agent_id: AgentId, *, limit: int, cursor: str | None) -> ListPage:
        """One item per version, newest first. Raises NotFound, InvalidRequest."""


class EnvironmentStore(Protocol):
    async def create(self, environment: Wire) -> None:
        """An existing id is a bug."""

    async def read(self, environment_id: EnvironmentId) -> Wire:
        """Raises NotFound."""

    async def update(self, environment_id: EnvironmentId, change: Callable[[Wire], Wire]) -> Wire:
        """Read under a lock, apply `change`, store. Raises NotFound, whatever `change` raises."""

    async def archive(self, environment_id: EnvironmentId, *, now: datetime) -> Wire:
        """Repeat: safe. Raises NotFound."""

    async def delete(self, environment_id: EnvironmentId) -> None:
        """Raises NotFound; Conflict while a session that is neither archived nor deleted references it."""

    async def page(self, *, limit: int, cursor: str | None, include_archived: bool) -> ListPage:
        """Newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """An API key as it is kept: only its SHA-256. `hint` is its last four characters."""

    api_key_id: str
    name: str
    sha256: bytes
    hint: str
    created_at: datetime
    revoked_at: datetime | None = None


class ApiKeyStore(Protocol):
    async def add(self, key: ApiKey) -> None:
        """Repeat with the same hash: safe."""

    async def find(self, sha256: bytes) -> ApiKey | None:
        """None if unknown or revoked."""

    async def all(self) -> Sequence[ApiKey]: ...

    async def revoke(self, api_key_id: str, *, now: datetime) -> None:
        """Repeat: safe. Raises NotFound; Conflict for the last valid key."""
