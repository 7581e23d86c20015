"""What a session's own transactions do with its files. All of them hold the session's row."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, select

from corral.catalog.files import check_readable
from corral.kernel.errors import Conflict
from corral.kernel.ids import FileId, SessionId, WorkspaceId
from corral.session.resources import FileCopy
from corral.store.files.blobs import counted, name_more, release
from corral.store.files.rows import FILE, file_of, insert_file, no_file
from corral.store.locks import one_of
from corral.store.schema import files

__all__ = ["copy_to_session", "delete_of_session", "delete_session_files"]

_OF_SESSION = files.c.scope_id == bindparam("of_session_id")
_SOURCES = FILE.where(
    files.c.workspace_id == bindparam("of_workspace_id"), one_of(files.c.file_id, "of_ids")
)
_KEYS = select(files.c.blob_key).where(_OF_SESSION, files.c.blob_key.is_not(None))
_KEY = select(files.c.blob_key).where(_OF_SESSION, files.c.file_id == bindparam("of_id"))
_DELETE_ALL = delete(files).where(_OF_SESSION)
_DELETE = delete(files).where(_OF_SESSION, files.c.file_id == bindparam("of_id"))


def copy_to_session(
    connection: Connection,
    copies: Sequence[FileCopy],
    *,
    session_id: SessionId,
    workspace_id: WorkspaceId,
    now: datetime,
) -> None:
    """New files of the session, of the same bytes. Nothing is written when it raises NotFound: a file is
    gone, or its content is."""
    if not copies:
        return
    ids = sorted({copy.from_id for copy in copies})
    rows = connection.execute(_SOURCES, {"of_workspace_id": workspace_id, "of_ids": ids})
    sources = {record.file_id: record for record in map(file_of, rows)}
    for copy in copies:
        if copy.from_id not in sources:
            raise no_file(copy.from_id)
    keys = [check_readable(sources[copy.from_id], now=now) for copy in copies]
    if name_more(connection, counted(keys)):
        raise Conflict("A file was deleted at this very moment. Look again.", retryable=True)
    for copy, key in zip(copies, keys, strict=True):
        insert_file(
            connection,
            replace(
                sources[copy.from_id],
                file_id=copy.to_id,
                scope_id=session_id,
                origin="mount",
                created_at=now,
                expires_at=None,  # it goes with its session, or with its resource
                blob_key=key,
                output_path=None,
            ),
        )


def delete_of_session(connection: Connection, session_id: SessionId, file_id: FileId) -> None:
    """Repeat: safe."""
    values = {"of_session_id": session_id, "of_id": file_id}
    release(connection, counted(connection.scalars(_KEY, values).all()))
    connection.execute(_DELETE, values)


def delete_session_files(connection: Connection, session_id: SessionId) -> None:
    """All of them: the session goes. They are bounded (SESSION_RESOURCES_MAX, SESSION_OUTPUTS_MAX)."""
    values = {"of_session_id": session_id}
    release(connection, counted(connection.scalars(_KEYS, values).all()))
    connection.execute(_DELETE_ALL, values)
