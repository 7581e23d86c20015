"""Rows to records and back."""

from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from corral.catalog.files import FileRecord
from corral.kernel.errors import NotFound
from corral.kernel.ids import FileId, SessionId, WorkspaceId
from corral.store.rows import AnyRow, AnySelect
from corral.store.schema import files

__all__ = ["FILE", "file_of", "insert_file", "no_file", "output_hash"]

FILE: AnySelect = select(files)
"""Of `file_of`'s rows."""

_INSERT = insert(files).values(
    {column.name: bindparam(column.name, type_=column.type) for column in files.columns}
)


def file_of(row: AnyRow) -> FileRecord:
    return FileRecord(
        file_id=FileId(row.file_id),
        workspace_id=WorkspaceId(row.workspace_id),
        filename=row.filename,
        mime_type=row.mime_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        origin=row.origin,
        downloadable=row.downloadable,
        created_at=row.created_at,
        expires_at=row.expires_at,
        scope_id=None if row.scope_id is None else SessionId(row.scope_id),
        blob_key=row.blob_key,
        output_path=row.output_path,
    )


def insert_file(connection: Connection, record: FileRecord) -> None:
    connection.execute(_INSERT, _row(record))


def output_hash(output_path: str) -> str:
    """What an output is found by."""
    return sha256(output_path.encode()).hexdigest()


def no_file(file_id: str) -> NotFound:
    return NotFound(f"File {file_id!r} was not found.")


def _row(record: FileRecord) -> dict[str, Any]:
    return {
        "file_id": record.file_id,
        "workspace_id": record.workspace_id,
        "scope_id": record.scope_id,
        "origin": record.origin,
        "downloadable": record.downloadable,
        "filename": record.filename,
        "mime_type": record.mime_type,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "blob_key": record.blob_key,
        "output_path": record.output_path,
        "output_hash": None if record.output_path is None else output_hash(record.output_path),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "due_at": record.expires_at,
    }
