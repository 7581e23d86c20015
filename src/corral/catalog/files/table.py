"""Ports of what the database knows of files. Implemented by `store/files`; each method is one transaction.

All raise StoreUnavailable. A file of another workspace is not found.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from corral.catalog.files.records import FileFilter, FilePage, FileRecord
from corral.kernel.ids import FileId, SessionId, WorkspaceId

__all__ = ["FileTable", "UnneededBlobs"]


class FileTable(Protocol):
    async def expect(self, blob_key: str) -> None:
        """Bytes will be written under this key, which nobody has used before: it is `coming`. Before the
        first of them."""

    async def unexpect(self, blob_key: str) -> None:
        """No file will name these bytes: they are `going`. Nothing if one does. Repeat: safe."""

    async def add(self, record: FileRecord) -> FileRecord:
        """An upload: its bytes are there, and now it names them.

        Raises InvalidRequest (`storage_quota_exceeded`); Conflict: the bytes have been given up meanwhile.
        """

    async def put_output(self, record: FileRecord) -> FileRecord:
        """A file of the session `scope_id`, in place of an earlier one at its `output_path`, whose id is
        then gone. If that has the same content it stays, and is returned; nobody names the new bytes then.

        The workspace is the session's, whatever `record` says. Raises NotFound: the session is gone;
        InvalidRequest: it has SESSION_OUTPUTS_MAX; Conflict as `add`.
        """

    async def remove_outputs(self, session_id: SessionId, output_paths: Sequence[str]) -> None:
        """Those that are not there are ignored."""

    async def outputs(self, session_id: SessionId) -> Mapping[str, FileRecord]:
        """By `output_path`."""

    async def read(self, workspace_id: WorkspaceId, file_id: FileId) -> FileRecord:
        """Raises NotFound."""

    async def read_all(
        self, workspace_id: WorkspaceId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        """Those that are there."""

    async def for_session(
        self, session_id: SessionId, file_ids: Sequence[FileId]
    ) -> Mapping[FileId, FileRecord]:
        """Those of the session's workspace that are there."""

    async def of_session(self, session_id: SessionId, file_id: FileId) -> FileRecord:
        """A file that belongs to the session. Raises NotFound."""

    async def page(
        self,
        workspace_id: WorkspaceId,
        where: FileFilter,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> FilePage:
        """One page, behind a place or in front of one."""

    async def delete(self, workspace_id: WorkspaceId, file_id: FileId) -> None:
        """Raises NotFound; Conflict: it is mounted in its session."""


class UnneededBlobs(Protocol):
    """For the clean-up. Any number of nodes may do it at once."""

    async def expire(self) -> bool:
        """Files whose time is over have no bytes from now on, and what is known of them goes
        FILE_METADATA_DAYS later; what is `coming` for too long is `going`. A batch; True if there
        is more."""

    async def going(self, *, limit: int) -> Sequence[str]:
        """Keys of blobs that no file will ever name again. They stay until they are `gone`."""

    async def gone(self, blob_keys: Sequence[str]) -> None:
        """Repeat: safe."""
