"""What a file is, and the rules of its name, its type and its life. Pure."""

import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import FileId, SessionId, WorkspaceId
from corral.kernel.limits import FILE_METADATA_DAYS, FILE_NAME_CHARS_MAX, FILE_TYPE_CHARS_MAX

__all__ = [
    "FileFilter",
    "FileOrigin",
    "FilePage",
    "FileRecord",
    "block_type",
    "check_readable",
    "file_view",
    "guessed_type",
    "mime_type_of",
    "new_upload",
    "output_key",
    "output_name",
    "uploaded_name",
]

FileOrigin = Literal["upload", "mount", "output"]

_UNKNOWN: Final = "application/octet-stream"
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
# Of Python's own table only: what the machine's files say differs from node to node.
_TYPES: Final = mimetypes.MimeTypes()
for _extension, _type in {
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}.items():
    _TYPES.add_type(_type, _extension)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """A file.

    scope_id:    the session that it belongs to and goes with; None for an upload.
    origin:      upload: by a client. mount: a session's copy of another file. output: an agent made it.
    sha256:      lower-case hex, of the content.
    blob_key:    where its bytes are; None once they are gone for good.
    output_path: of an output: `output_key` of its path below the outputs directory.
    """

    file_id: FileId
    workspace_id: WorkspaceId
    filename: str
    mime_type: str
    size_bytes: int
    sha256: str
    origin: FileOrigin
    downloadable: bool
    created_at: datetime
    expires_at: datetime | None = None
    scope_id: SessionId | None = None
    blob_key: str | None = None
    output_path: str | None = None

    @property
    def forget_at(self) -> datetime | None:
        """When what is known of it goes, too."""
        return None if self.expires_at is None else self.expires_at + timedelta(days=FILE_METADATA_DAYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFilter:
    """scope_id: None, any. unscoped_only: of no session."""

    scope_id: str | None = None
    unscoped_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePage:
    """Newest first; `has_more` beyond its end, in the direction that was asked for."""

    files: Sequence[FileRecord]
    has_more: bool


def new_upload(
    *,
    file_id: FileId,
    workspace_id: WorkspaceId,
    filename: str | None,
    mime_type: str | None,
    size_bytes: int,
    sha256: str,
    blob_key: str,
    expires_in_seconds: int | None,
    now: datetime,
) -> FileRecord:
    """What a client has sent. Raises InvalidRequest (its name)."""
    kind = mime_type_of(mime_type, filename)
    return FileRecord(
        file_id=file_id,
        workspace_id=workspace_id,
        filename=uploaded_name(filename, kind),
        mime_type=kind,
        size_bytes=size_bytes,
        sha256=sha256,
        origin="upload",
        downloadable=False,  # only what a tool has made is
        created_at=now,
        expires_at=None if expires_in_seconds is None else now + timedelta(seconds=expires_in_seconds),
        blob_key=blob_key,
    )


def uploaded_name(sent: str | None, mime_type: str) -> str:
    """The last component of what was sent; without one `unnamed` and the extension of its type.

    Raises InvalidRequest: too long, or characters that no file system takes.
    """
    name = re.split(r"[/\\]", sent or "")[-1]
    if not name:
        return "unnamed" + ("" if mime_type == _UNKNOWN else _TYPES.guess_extension(mime_type) or "")
    if len(name) > FILE_NAME_CHARS_MAX:
        raise InvalidRequest(f"file: its filename has more than {FILE_NAME_CHARS_MAX} characters")
    if name in (".", "..") or _FORBIDDEN.search(name):
        raise InvalidRequest(
            f"file: its filename {name!r} is '.' or '..', or contains a control character or one of"
            ' <>:"|?*'
        )
    return name


def mime_type_of(sent: str | None, filename: str | None) -> str:
    """`type/subtype`: what was sent if that says anything, else what the extension of the name says."""
    kind = (sent or "").partition(";")[0].strip().lower()
    if kind != _UNKNOWN and len(kind) <= FILE_TYPE_CHARS_MAX and _TYPE.fullmatch(kind):
        return kind
    return guessed_type(filename or "")


def guessed_type(filename: str) -> str:
    kind, encoding = _TYPES.guess_type(f"file:{filename}")
    return _UNKNOWN if kind is None or encoding is not None else kind


def block_type(mime_type: str) -> Literal["image", "document"] | None:
    """The content block that a model takes such a file in; None if there is none."""
    if mime_type in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        return "image"
    return "document" if mime_type in ("application/pdf", "text/plain") else None


def output_key(path: str) -> str:
    """A path as `os.fsdecode` gives it, in a form that is text everywhere: what of it is not UTF-8 is
    written out as `\\xNN`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def output_name(path: str) -> str:
    """The filename of an output: the last component of its path, made fit for every file system."""
    name = _FORBIDDEN.sub("_", output_key(path).rpartition("/")[2])
    stem, dot, extension = name.rpartition(".")
    if len(name) > FILE_NAME_CHARS_MAX and dot and len(extension) < FILE_NAME_CHARS_MAX // 2:
        return stem[: FILE_NAME_CHARS_MAX - 1 - len(extension)] + dot + extension
    return name[:FILE_NAME_CHARS_MAX] or "unnamed"


def check_readable(record: FileRecord, *, now: datetime) -> str:
    """The key of its bytes. Raises NotFound once they are gone."""
    if record.expires_at is not None and record.expires_at <= now:
        raise NotFound(
            f"File {record.file_id!r} expired at {rfc3339(record.expires_at)}; its content is gone.",
            error_code="file_expired",
        )
    if record.blob_key is None:
        raise NotFound(f"The content of file {record.file_id!r} is gone. Upload it again.")
    return record.blob_key


def file_view(record: FileRecord) -> Wire:
    """As the wire shows it."""
    return {
        "id": record.file_id,
        "type": "file",
        "filename": record.filename,
        "mime_type": record.mime_type,
        "size_bytes": record.size_bytes,
        "created_at": rfc3339(record.created_at),
        "downloadable": record.downloadable,
        "expires_at": None if record.expires_at is None else rfc3339(record.expires_at),
        "scope": None if record.scope_id is None else {"type": "session", "id": record.scope_id},
    }
