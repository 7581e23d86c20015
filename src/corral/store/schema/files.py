"""Files, and the blobs that they name. No foreign keys: who deletes one counts the other."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table

from corral.store.schema.types import Moment, metadata

__all__ = ["file_blobs", "file_usage", "files"]

files = Table(
    "files",
    metadata,
    Column("file_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("scope_id", String),  # the session that it goes with
    Column("origin", String, nullable=False),  # upload, mount, output
    Column("downloadable", Boolean, nullable=False),
    Column("filename", String, nullable=False),
    Column("mime_type", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("blob_key", String),  # null: its bytes are gone for good
    Column("output_path", String),
    Column("output_hash", String),  # of that, which no index takes whole: rows of B-trees are short
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("due_at", Moment),  # when the clean-up has to look at it next
    Index("files_by_creation", "workspace_id", "created_at", "file_id"),
)
Index(  # of no session: the whole list of who sees no other's sessions
    "files_uploaded",
    files.c.workspace_id,
    files.c.created_at,
    files.c.file_id,
    sqlite_where=files.c.scope_id.is_(None),
    postgresql_where=files.c.scope_id.is_(None),
)
Index(
    "files_by_scope",
    files.c.scope_id,
    files.c.created_at,
    files.c.file_id,
    sqlite_where=files.c.scope_id.is_not(None),
    postgresql_where=files.c.scope_id.is_not(None),
)
Index(
    "files_by_output",
    files.c.scope_id,
    files.c.output_hash,
    unique=True,
    sqlite_where=files.c.output_hash.is_not(None),
    postgresql_where=files.c.output_hash.is_not(None),
)
Index(
    "files_due",
    files.c.due_at,
    sqlite_where=files.c.due_at.is_not(None),
    postgresql_where=files.c.due_at.is_not(None),
)

file_blobs = Table(
    "file_blobs",
    metadata,
    Column("blob_key", String, primary_key=True),
    Column("state", String, nullable=False),  # coming, kept, going
    Column("files", Integer, nullable=False),  # that name it: whoever adds or removes one holds this row
    Column("give_up_at", Moment),  # of what is coming
)
Index(
    "file_blobs_unneeded",
    file_blobs.c.state,
    file_blobs.c.give_up_at,
    file_blobs.c.blob_key,
    sqlite_where=file_blobs.c.state != "kept",
    postgresql_where=file_blobs.c.state != "kept",
)

file_usage = Table(
    "file_usage",
    metadata,
    Column("workspace_id", String, primary_key=True),
    Column("bytes", BigInteger, nullable=False),  # of its uploads whose bytes are there
)
