"""Workspaces: each has agents, environments, sessions, stores, vaults and keys of its own.

The default one is always there and has no record in the store. Source: docs/how-to/keep-teams-apart.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from corral.kernel.ids import WorkspaceId

__all__ = ["Workspace", "WorkspaceStore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    workspace_id: WorkspaceId
    name: str
    created_at: datetime
    archived_at: datetime | None = None


class WorkspaceStore(Protocol):
    async def create(self, workspace: Workspace) -> None:
        """An existing id is a bug. Raises InvalidRequest: WORKSPACES_MAX there are already."""

    async def read(self, workspace_id: WorkspaceId) -> Workspace:
        """Raises NotFound, also for the default one, which has no record."""

    async def all(self) -> Sequence[Workspace]:
        """Oldest first, archived ones too, at most WORKSPACES_MAX; without the default one."""

    async def archive(self, workspace_id: WorkspaceId, *, now: datetime) -> Workspace:
        """From now on none of its keys lets anybody in, and none can be made. What runs goes on until it is
        stopped. Repeat: safe, the first time stays. Raises NotFound."""
