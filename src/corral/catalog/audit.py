"""The audit: what each session asked for from the network, and what was decided. Kept for AUDIT_DAYS.

An entry is written in two halves: how it begins, before anything is done, and how it ended, if anybody was
left to say so. Secrets are in none; of a credential that was put into a request there is the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from corral.kernel.cursor import Page
from corral.kernel.ids import AgentId, ApiKeyId, CredentialId, SessionId, WorkspaceId

__all__ = ["AuditEntry", "AuditFilter", "AuditStore", "Begun", "Decision", "Ended"]

Decision = Literal["allowed", "denied"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """One request, or one connection that is passed through unread.

    entry_id: unique for ever. host: canonical. method: as sent; CONNECT for a connection. reason: of a
    refusal. detail: for operators: it may tell of our network. credential_id: what was put into it.
    """

    entry_id: str
    session_id: SessionId
    created_at: datetime
    host: str
    port: int
    method: str
    decision: Decision
    reason: str = ""
    detail: str = ""
    credential_id: CredentialId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """sent, received: bytes, as the session sees it. failed: what went wrong, if anything did."""

    entry_id: str
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0
    failed: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """ended: None while it goes on, and for ever if its egress process was killed. The rest: whose session
    it was; None, of a session that nobody knew when it was written down."""

    begun: Begun
    ended: Ended | None
    workspace_id: WorkspaceId | None
    agent_id: AgentId | None
    api_key_id: ApiKeyId | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditFilter:
    """workspace_id: None for all of them."""

    workspace_id: WorkspaceId | None
    session_id: SessionId | None = None
    agent_id: AgentId | None = None
    api_key_id: ApiKeyId | None = None
    credential_id: CredentialId | None = None
    host: str | None = None
    decision: Decision | None = None
    created_gte: datetime | None = None
    created_lt: datetime | None = None


class AuditStore(Protocol):
    async def add(self, begun: Sequence[Begun], ended: Sequence[Ended]) -> None:
        """Keep these. Repeat: safe; an entry that is there stays as it is, and so does one that has ended.
        An end without a beginning is dropped. One transaction. Raises StoreUnavailable."""

    async def page(self, where: AuditFilter, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        """Newest first. Raises InvalidRequest for a cursor that is not of this list."""

    async def prune(self, *, before: datetime, keep: int) -> int:
        """Forget some entries that began before, or are older than the `keep` newest; returns how many.
        Call it again until it returns 0."""
