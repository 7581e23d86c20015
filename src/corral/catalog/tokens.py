"""Refreshed OAuth tokens: who may refresh a credential now, and the port of what keeps the new ones.

A refresh token may be used once: who uses it has to hold the credential's claim, of which there is one in
the whole cluster, and what comes of it is stored for what the credential was when it was claimed. If it has
been changed meanwhile, nothing is stored, and who refreshed it sees the change and decides.
Source: RFC 6749, 6; RFC 9700, 4.14.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from corral.catalog.records import Wire
from corral.catalog.vaults import SealedCredential, SealedSecret, changed_at
from corral.kernel.ids import CredentialId, VaultId, WorkspaceId

__all__ = [
    "ClaimOutcome",
    "CredentialValidation",
    "KeepOutcome",
    "TokenStore",
    "ValidationQueue",
    "Where",
    "refreshed",
]

ClaimOutcome = Literal["claimed", "busy", "changed", "gone"]
KeepOutcome = Literal["kept", "changed", "gone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Of a credential."""

    workspace_id: WorkspaceId
    vault_id: VaultId
    credential_id: CredentialId


class TokenStore(Protocol):
    """Each method is one transaction. A credential that is archived is gone."""

    async def claim(
        self, where: Where, *, updated_at: str, claim_id: str, seconds: float
    ) -> tuple[ClaimOutcome, SealedCredential | None]:
        """Claim the right to refresh it, for so long by the store's clock.

        changed: it is not what it was at `updated_at` any more; the credential as it is now. busy: another
        claim holds. Repeat: safe with the same claim_id, and prolongs it."""

    async def keep(
        self,
        where: Where,
        secrets: Sequence[SealedSecret],
        *,
        updated_at: str,
        claim_id: str,
        expires_at: str | None,
        now: datetime,
    ) -> tuple[KeepOutcome, SealedCredential | None]:
        """Store new tokens instead of those of the same names, and end the claim. The credential as it is
        now, if it was kept or changed since `updated_at`; nothing is written of what changed.

        Raises VaultUnavailable: the key they are sealed with is no longer in use."""

    async def release(self, where: Where, *, claim_id: str) -> None:
        """End a claim without new tokens. Repeat: safe."""

    async def sealed(self, where: Where) -> SealedCredential:
        """Raises NotFound."""


class ValidationQueue(Protocol):
    """Validations that one node asks for and another one makes: not every node can open secrets. Each
    method is one transaction; a validation that nobody waits for any more is forgotten."""

    async def ask(self, validation_id: str, where: Where) -> None:
        """Raises NotFound: there is no such credential."""

    async def take(self, *, seconds: float) -> tuple[str, Where] | None:
        """The oldest that nobody has taken within so many seconds; None if there is none."""

    async def tell(self, validation_id: str, answer: Wire) -> None:
        """Nothing happens if nobody waits for it."""

    async def answer(self, validation_id: str) -> Wire | None:
        """None until it is told."""

    async def forget(self, validation_id: str) -> None:
        """Repeat: safe."""


class CredentialValidation(Protocol):
    async def validate(self, where: Where) -> Wire:
        """`status`, `has_refresh_token`, `mcp_probe` and `refresh`, as the wire has them, of an active
        `mcp_oauth` credential. Raises NotFound, VaultUnavailable: no egress process answers."""


def refreshed(current: Wire, *, expires_at: str | None, now: datetime) -> Wire:
    """The record of an `mcp_oauth` credential with new tokens. expires_at: as the wire has it."""
    auth = {**current["auth"], "expires_at": expires_at}
    return {**current, "auth": auth, "updated_at": changed_at(current, now)}
