"""What is written down of each request that a session makes."""

from typing import Protocol

from corral.catalog.audit import Decision, Ended
from corral.egress.target import Target
from corral.kernel.ids import CredentialId, SessionId

__all__ = ["Book", "BookFull"]


class BookFull(Exception):
    """Nothing more can be written down, so nothing more is done."""


class Book(Protocol):
    """Of this process."""

    def begin(
        self,
        session_id: SessionId,
        target: Target,
        method: str,
        decision: Decision,
        *,
        reason: str = "",
        detail: str = "",
        credential_id: CredentialId | None = None,
    ) -> str:
        """Write a decision down; it survives the end of this process. Returns the entry's id. See
        `catalog.audit.Begun`. Raises BookFull: then nothing may be done."""

    def end(self, ended: Ended) -> None:
        """Never raises: what cannot be written down of an end is lost."""
