"""Content blocks that name a file: looked up when they are sent, so that no model is asked in vain.

Their content is put in when a model is asked (`brain/models/files.py`), so the log stays small.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from corral.api.caller import Caller
from corral.api.schema.events import FileSource
from corral.api.visible_files import VisibleFiles
from corral.catalog.files import FileRecord, block_type, check_readable
from corral.kernel.clock import Clock
from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.ids import FileId
from corral.kernel.limits import FILE_BLOCKS_BYTES_MAX, FILE_DOCUMENTS_MAX

__all__ = ["check_file_blocks"]


class _Named(NamedTuple):
    """A file that a block names. where: the field, for messages."""

    file_id: FileId
    block: str
    where: str


async def check_file_blocks(
    shapes: Sequence[Any], visible: VisibleFiles, who: Caller, *, field: str, clock: Clock
) -> None:
    """field: of the list of events, for messages.

    Raises NotFound (there is none, or its content is gone), InvalidRequest (it cannot be such a block).
    """
    named = list(_named(shapes, field))
    if not named:
        return
    documents = sum(each.block == "document" for each in named)
    if documents > FILE_DOCUMENTS_MAX:
        raise InvalidRequest(f"{field}: at most {FILE_DOCUMENTS_MAX} documents may be files")
    found = await visible.read_all(who, sorted({each.file_id for each in named}))
    now, size = clock.now(), 0
    for each in named:
        record = found.get(each.file_id)
        if record is None:
            raise NotFound(f"{each.where}: File {each.file_id!r} was not found.")
        check_readable(record, now=now)
        _check_kind(each, record)
        size += record.size_bytes
    if size > FILE_BLOCKS_BYTES_MAX:
        raise InvalidRequest(
            f"{field}: files in content blocks come to {size} bytes, of at most {FILE_BLOCKS_BYTES_MAX}."
            " Mount larger ones as resources of the session."
        )


def _check_kind(named: _Named, record: FileRecord) -> None:
    kind = block_type(record.mime_type)
    if kind != named.block:
        hint = f"it can be in a block of type {kind!r}" if kind else "mount it as a resource of the session"
        raise InvalidRequest(
            f"{named.where}: file {named.file_id!r} is {record.mime_type}, which no {named.block!r} block"
            f" takes; {hint}"
        )
    if record.size_bytes == 0:
        raise InvalidRequest(f"{named.where}: file {named.file_id!r} is empty")


def _named(shapes: Sequence[Any], field: str) -> Iterator[_Named]:
    for number, shape in enumerate(shapes):
        for position, block in enumerate(getattr(shape, "content", None) or ()):
            source = getattr(block, "source", None)
            if isinstance(source, FileSource):
                where = f"{field}.{number}.content.{position}.source.file_id"
                yield _Named(FileId(source.file_id), block.type, where)
