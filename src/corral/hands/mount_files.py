"""Files as mounts: a session's own copy of a file, read-only in its uploads."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from corral.catalog.files import Files
from corral.kernel.errors import NotFound
from corral.kernel.ids import FileId, SessionId
from corral.session.call import Mount
from corral.session.mounts import Attached, MountFailed, file_archive

__all__ = ["FileSource"]


class FileSource:
    """`corral.session.mounts.MountSource` of kind "file". A file's bytes never change, so its id is the
    digest."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def mounts(self, attached: Attached) -> Sequence[Mount]:
        return [
            Mount(
                mount_id=each["id"],
                kind="file",
                path=each["mount_path"],
                digest=each["file_id"],
                mode="read_only",
            )
            for each in attached.resources
            if each["type"] == "file"
        ]

    async def open(self, session_id: SessionId, mount: Mount) -> AsyncGenerator[bytes, None]:
        try:
            record = await self._files.table.of_session(session_id, FileId(mount.digest))
            async with aclosing(self._files.read(record)) as content:
                async for chunk in file_archive(content, size_bytes=record.size_bytes):
                    yield chunk
        except NotFound as error:
            raise MountFailed.unknown(
                f"The file at {mount.path} cannot be mounted: {error.message}", mount_id=mount.mount_id
            ) from error
