"""Workspaces of sessions: files in before the work, files out after it. Implemented by the hands."""

from collections.abc import AsyncIterator
from typing import Protocol

from corral.kernel.ids import SessionId


class Workspaces(Protocol):
    """Whole workspaces as tar streams of at most WORKSPACE_ARCHIVE_BYTES_MAX bytes."""

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar over the workspace. The caller has checked that the session is idle.

        Raises InvalidRequest (not a tar, or one that leaves the workspace), RequestTooLarge,
        HandsUnavailable. After an error some files may have been written.
        """

    def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """The workspace as an uncompressed tar. Raises NotFound (there is none yet), HandsUnavailable,
        also in its middle: then it is not whole."""
