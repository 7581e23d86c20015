"""Keys of self-hosted environments: what workers poll with. Shown once, kept as SHA-256.

Source: API docs, self-hosted "Credentials".
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from corral.kernel.ids import (
    ENVIRONMENT_KEY,
    ENVIRONMENT_KEY_PREFIX,
    EnvironmentId,
    EnvironmentKeyId,
    Ids,
    WorkspaceId,
)

__all__ = ["EnvironmentKey", "EnvironmentKeyStore", "environment_key", "new_environment_secret"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentKey:
    """`hint` is its last four characters."""

    environment_key_id: EnvironmentKeyId
    workspace_id: WorkspaceId
    environment_id: EnvironmentId
    name: str
    sha256: bytes
    hint: str
    created_at: datetime
    revoked_at: datetime | None = None


class EnvironmentKeyStore(Protocol):
    """Each method is one transaction. Raises NotFound for an environment that is not in the workspace."""

    async def add(self, key: EnvironmentKey) -> None:
        """Raises InvalidRequest: the environment is not self-hosted, or has too many."""

    async def find(self, sha256: bytes) -> EnvironmentKey | None:
        """None if unknown or revoked."""

    async def of_environment(
        self, environment_id: EnvironmentId, *, workspace_id: WorkspaceId
    ) -> Sequence[EnvironmentKey]:
        """Oldest first, revoked ones too."""

    async def revoke(
        self,
        environment_id: EnvironmentId,
        environment_key_id: EnvironmentKeyId,
        *,
        workspace_id: WorkspaceId,
        now: datetime,
    ) -> None:
        """From the next request on. Repeat: safe. Raises NotFound."""


def new_environment_secret() -> str:
    return ENVIRONMENT_KEY_PREFIX + secrets.token_urlsafe(32)


def environment_key(
    secret: str,
    *,
    workspace_id: WorkspaceId,
    environment_id: EnvironmentId,
    name: str,
    ids: Ids,
    now: datetime,
) -> EnvironmentKey:
    """What is kept of a key."""
    return EnvironmentKey(
        environment_key_id=EnvironmentKeyId(ids.mint(ENVIRONMENT_KEY)),
        workspace_id=workspace_id,
        environment_id=environment_id,
        name=name,
        sha256=sha256(secret.encode()).digest(),
        hint=secret[-4:],
        created_at=now,
    )
