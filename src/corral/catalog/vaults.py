"""Vaults: pure rules, and the ports of what keeps vaults, credentials and the keys that seal their secrets.

A vault is a set of credentials that sessions may use. What a credential is for is public and stands in its
record; its secrets are sealed before they reach a port, and no port gives any back.
Source: API docs, vaults.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import orjson

from corral.catalog.metadata import merged
from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.kernel.cursor import Page
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CredentialId, SessionId, VaultId, WorkspaceId

__all__ = [
    "CredentialStore",
    "KeyUse",
    "Place",
    "SealedCredential",
    "SealedSecret",
    "SecretPlace",
    "SessionCredentialStore",
    "StoredSecret",
    "VaultKey",
    "VaultKeyStore",
    "VaultStore",
    "changed_at",
    "new_vault",
    "updated_vault",
]

Fields = Mapping[str, Any]


def new_vault(given: Fields, *, vault_id: VaultId, now: datetime) -> Wire:
    return {
        "id": vault_id,
        "type": "vault",
        "display_name": given["display_name"],
        "metadata": merged({}, given.get("metadata")),
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
        "archived_at": None,
    }


def updated_vault(current: Wire, given: Fields, *, now: datetime) -> Wire:
    """The record after an update, or `current` itself if nothing changes. Null keeps the name.

    Raises InvalidRequest, also for an archived vault.
    """
    check_active(current)
    after = dict(current)
    if given.get("display_name") is not None:
        after["display_name"] = given["display_name"]
    after["metadata"] = merged(current["metadata"], given.get("metadata"))
    return current if after == current else {**after, "updated_at": rfc3339(now)}


def changed_at(current: Wire, now: datetime) -> str:
    """`updated_at` of a credential after a change: later than before also by the clock of a node that is
    behind another one's, for who has a copy tells by it which is newer."""
    return rfc3339(max(now, parse_rfc3339(current["updated_at"]) + timedelta(microseconds=1)))


def check_active(record: Wire) -> None:
    """Of a vault or a credential. Raises InvalidRequest."""
    if record["archived_at"] is not None:
        noun = "Vault" if record["type"] == "vault" else "Credential"
        raise InvalidRequest(f"{noun} {record['id']} is archived and cannot be changed")


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretPlace:
    """Where a secret belongs. It is sealed together with this, and opens nowhere else.

    destination: the URL it is sent to, if that can never change, else what it is called; so whoever can
                 write rows of the database cannot have a secret sent elsewhere.
    """

    workspace_id: str
    vault_id: str
    credential_id: str
    name: str
    destination: str

    def encode(self) -> bytes:
        return orjson.dumps(
            [
                "corral vault 1",
                self.workspace_id,
                self.vault_id,
                self.credential_id,
                self.name,
                self.destination,
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedSecret:
    """`sealed` opens with the private part of the key `key_id` alone."""

    name: str
    key_id: str
    sealed: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedCredential:
    """An active credential as a session has it. record: as the wire shows it."""

    workspace_id: WorkspaceId
    record: Wire
    secrets: Sequence[SealedSecret]


class Place(Protocol):
    """`SecretPlace`, and what else something may be sealed for. (credential_id, name) is its own."""

    @property
    def credential_id(self) -> str: ...

    @property
    def name(self) -> str: ...

    def encode(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSecret:
    place: Place
    key_id: str
    sealed: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultKey:
    """The public part. `key_id` is derived from it. `public_key`: 32 bytes, X25519."""

    key_id: str
    public_key: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyUse:
    """A key, and how many secrets are sealed with it. An old one is forgotten when there are none."""

    key: VaultKey
    is_current: bool
    created_at: datetime
    rotation_asked_at: datetime | None
    secrets: int


class VaultStore(Protocol):
    """A vault of another workspace is not found. Each method is one transaction."""

    async def create(self, vault: Wire, *, workspace_id: WorkspaceId) -> None:
        """An existing id is a bug."""

    async def read(self, vault_id: VaultId, *, workspace_id: WorkspaceId) -> Wire:
        """Raises NotFound."""

    async def update(
        self, vault_id: VaultId, change: Callable[[Wire], Wire], *, workspace_id: WorkspaceId
    ) -> Wire:
        """Read under a lock, apply `change`, store. Raises NotFound, whatever `change` raises."""

    async def archive(self, vault_id: VaultId, *, workspace_id: WorkspaceId, now: datetime) -> Wire:
        """Archive its credentials too, and purge their secrets. Repeat: safe. Raises NotFound."""

    async def delete(self, vault_id: VaultId, *, workspace_id: WorkspaceId) -> None:
        """With everything in it. Raises NotFound."""

    async def page(
        self, *, workspace_id: WorkspaceId, limit: int, cursor: str | None, include_archived: bool
    ) -> Page[Wire]:
        """Newest first. Raises InvalidRequest for a cursor that is not ours."""

    async def contents(
        self, vault_ids: Sequence[VaultId], *, workspace_id: WorkspaceId
    ) -> Sequence[tuple[Wire, Sequence[Wire]]]:
        """Each vault, in the order asked, with its active credentials. Raises NotFound."""


class CredentialStore(Protocol):
    """A credential of another vault or workspace is not found. Each method is one transaction."""

    async def create(
        self, credential: Wire, secrets: Sequence[SealedSecret], *, workspace_id: WorkspaceId
    ) -> None:
        """Raises NotFound (the vault), InvalidRequest (it is archived, or full), Conflict (an active
        credential of the vault is for the same), VaultUnavailable (the key is no longer in use)."""

    async def read(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId
    ) -> Wire:
        """Raises NotFound."""

    async def update(
        self,
        vault_id: VaultId,
        credential_id: CredentialId,
        change: Callable[[Wire], Wire],
        secrets: Sequence[SealedSecret],
        *,
        workspace_id: WorkspaceId,
    ) -> Wire:
        """Read under a lock, apply `change`, store; `secrets` replace those of the same names. `change`
        keeps what the credential is for. Raises NotFound, VaultUnavailable, whatever `change` raises."""

    async def archive(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId, now: datetime
    ) -> Wire:
        """Purge its secrets and free what it is for. Repeat: safe. Raises NotFound."""

    async def delete(
        self, vault_id: VaultId, credential_id: CredentialId, *, workspace_id: WorkspaceId
    ) -> None:
        """Raises NotFound."""

    async def page(
        self,
        vault_id: VaultId,
        *,
        workspace_id: WorkspaceId,
        limit: int,
        cursor: str | None,
        include_archived: bool,
    ) -> Page[Wire]:
        """Newest first. Raises NotFound (the vault), InvalidRequest (the cursor)."""


class SessionCredentialStore(Protocol):
    async def of_session(self, session_id: SessionId) -> Sequence[SealedCredential]:
        """All active credentials of its vaults, in the order of the vaults, and by age in each; none of a
        session that is gone. One transaction."""

    async def tokens_of_session(self, session_id: SessionId) -> Sequence[SealedToken]:
        """Those of its repositories, in the order of their ids; none of a session that is gone or has
        ended."""


class VaultKeyStore(Protocol):
    """The public parts of the keys, one of them current, and the secrets that each has sealed."""

    async def current(self) -> VaultKey | None:
        """What to seal with; None until an egress process has made a key."""

    async def all(self) -> Sequence[KeyUse]:
        """The current one first."""

    async def add_first(self, key: VaultKey, *, now: datetime) -> None:
        """Make it current, unless there is a current one. Repeat: safe."""

    async def ask_rotation(self, *, now: datetime) -> None:
        """Ask an egress node for a new key. Repeat: safe. Raises VaultUnavailable: there is none yet."""

    async def replace(self, old_key_id: str, new: VaultKey, *, now: datetime) -> bool:
        """Make `new` current instead of the old one. False, and no effect: that is not current, or nobody
        asked."""

    async def sealed_otherwise(
        self, key_ids: Sequence[str], *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[StoredSecret]:
        """Secrets sealed with one of these keys, ordered by (credential id, name), after a position."""

    async def seal_anew(self, old: Sequence[StoredSecret], new: Sequence[SealedSecret]) -> int:
        """Replace each that is still as it was; returns how many. Raises VaultUnavailable."""

    async def forget_unused(self) -> Sequence[str]:
        """Remove old keys that seal nothing; returns their ids."""
