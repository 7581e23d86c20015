"""Which files a caller may name: those of its workspace; of the role user, none of a session of others."""

from collections.abc import Iterable, Mapping, Sequence

from corral.api.caller import Caller
from corral.api.dependencies import Dependencies
from corral.api.guard import SessionOwners
from corral.catalog.files import FileRecord
from corral.kernel.errors import NotFound
from corral.kernel.ids import FileId

__all__ = ["VisibleFiles"]


class VisibleFiles:
    """What a caller does not see does not exist for it."""

    def __init__(self, deps: Dependencies, owners: SessionOwners) -> None:
        self._deps = deps
        self._owners = owners

    async def read(self, who: Caller, file_id: FileId) -> FileRecord:
        """Raises NotFound."""
        record = await self._deps.files.table.read(who.workspace_id, file_id)
        if not await self._is_seen(who, record):
            raise _no_file(file_id)
        return record

    async def read_all(self, who: Caller, file_ids: Sequence[FileId]) -> Mapping[FileId, FileRecord]:
        """Those that are there."""
        found = await self._deps.files.table.read_all(who.workspace_id, file_ids)
        return {file_id: record for file_id, record in found.items() if await self._is_seen(who, record)}

    async def check(self, who: Caller, file_ids: Iterable[str]) -> None:
        """For whoever looks for them in the workspace by itself. Raises NotFound."""
        if who.role == "user":
            asked = [FileId(file_id) for file_id in file_ids]
            found = await self.read_all(who, asked)
            for file_id in asked:
                if file_id not in found:
                    raise _no_file(file_id)

    async def sees_session(self, who: Caller, session_id: str) -> bool:
        """Whether files of a session are the caller's, if there is such a session in its workspace."""
        if who.role != "user":
            return True
        return await self._owners.of(session_id) == (who.workspace_id, who.api_key_id)

    async def _is_seen(self, who: Caller, record: FileRecord) -> bool:
        return record.scope_id is None or await self.sees_session(who, record.scope_id)


def _no_file(file_id: str) -> NotFound:
    return NotFound(f"File {file_id!r} was not found.")
