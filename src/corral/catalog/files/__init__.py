"""Files: bytes that a client uploads or an agent puts out, under a name, and copies of them for sessions.

    upload      Files.receive -> blob, nobody names it yet -> FileTable.add -> a row names it
    mount       SessionStore.create, SessionResources.add: a new row, scoped to the session, same blob
    output      Files.put_output: a row scoped to the session, in place of the one of the same path
    delete      the row goes; with the last row of a blob the blob is `going`, and the clean-up removes it

A blob is `coming` before its first byte is written, `kept` while rows name it, `going` before it is
deleted: so whatever dies, every blob is known to the database, and a row never names bytes that are not
there. A writer that died leaves a blob `coming`, which goes after UPLOAD_GIVEN_UP_SECONDS.

What a session has goes with it, in the transaction that deletes the session.
"""

from corral.catalog.files.keeping import Files, Received
from corral.catalog.files.records import (
    FileFilter,
    FileOrigin,
    FilePage,
    FileRecord,
    block_type,
    check_readable,
    file_view,
    guessed_type,
    mime_type_of,
    new_upload,
    output_key,
    output_name,
    uploaded_name,
)
from corral.catalog.files.table import FileTable, UnneededBlobs

__all__ = [
    "FileFilter",
    "FileOrigin",
    "FilePage",
    "FileRecord",
    "FileTable",
    "Files",
    "Received",
    "UnneededBlobs",
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
