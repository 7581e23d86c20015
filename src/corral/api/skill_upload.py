"""An upload of a skill: parts of a form, as they come, into one checked package.

`files[]` is either every file, each with its path, or one zip. What comes is written to a temporary file
that has no name, so nothing is left of it whatever happens, and is read again once all of it is there.
"""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import IO, Final

import orjson
from starlette.requests import Request

from corral.api.idempotency import Digest
from corral.api.multipart import Multipart
from corral.catalog.skills.layout import is_junk, refusal
from corral.catalog.skills.package import Package, packed
from corral.catalog.skills.unzip import ZIP_MAGIC, Entry, unzipped
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    SKILL_BYTES_MAX,
    SKILL_CHUNK_BYTES,
    SKILL_DISPLAY_NAME_CHARS_MAX,
    SKILL_FILES_MAX,
)

__all__ = ["Upload", "display_name", "received"]

_FILES: Final = ("files[]", "files")
_MEMORY_BYTES: Final = 1024 * 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """`fields`: those that are no files, by name. Its digest is of what was meant: the same files in
    another order, or between other boundaries, are the same upload."""

    package: Package
    fields: dict[str, str]

    @property
    def digest(self) -> Digest:
        return Digest(sha256(orjson.dumps([self.package.sha256, sorted(self.fields.items())])).digest())


@asynccontextmanager
async def received(
    request: Request, *, fields: frozenset[str] = frozenset(), is_trusted: bool = False
) -> AsyncIterator[Upload]:
    """The upload that a request is, for as long as it is needed. fields: that it may have besides.

    is_trusted: as `read_manifest`. Raises InvalidRequest, RequestTooLarge.
    """
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as scratch:
        kept = _Kept(scratch)
        given: dict[str, str] = {}
        async with aclosing(Multipart(request, parts_max=SKILL_FILES_MAX + len(fields) + 1)) as form:
            await _read(form, kept, given, fields)
        with await asyncio.to_thread(lambda: packed(kept.entries(), is_trusted=is_trusted)) as package:
            yield Upload(package=package, fields=given)


def display_name(upload: Upload, *names: str) -> str:
    """Of the first of these fields that was sent, else the skill's own. Raises InvalidRequest."""
    for name in names:
        given = upload.fields.get(name)
        if given is None:
            continue
        if not given.strip() or len(given) > SKILL_DISPLAY_NAME_CHARS_MAX or _CONTROL.search(given):
            raise InvalidRequest(
                f"{name}: must be one line of 1 to {SKILL_DISPLAY_NAME_CHARS_MAX} characters"
            )
        return given
    return upload.package.manifest.name


async def _read(form: Multipart, kept: "_Kept", given: dict[str, str], fields: frozenset[str]) -> None:
    while (part := await form.next()) is not None:
        if part.name in _FILES and part.filename is not None:
            await kept.file(part.filename, form.chunks())
        elif part.name in _FILES:
            raise InvalidRequest("files: must be files; a part has no filename")
        elif part.name not in fields:
            raise InvalidRequest(f"{part.name or 'a part without a name'}: Extra inputs are not permitted")
        elif part.name in given:
            raise InvalidRequest(f"{part.name}: given twice")
        else:
            given[part.name] = await form.text()


class _Kept:
    """The files of an upload, one after the other in one temporary file."""

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._files: list[tuple[str, int, int]] = []
        self._end = 0

    async def file(self, path: str, content: AsyncIterator[bytes]) -> None:
        """Raises InvalidRequest."""
        begins_at = self._end
        if len(self._files) >= SKILL_FILES_MAX:
            raise InvalidRequest(f"files: a skill has at most {SKILL_FILES_MAX} files")
        async for chunk in content:
            self._end += len(chunk)
            if self._end > SKILL_BYTES_MAX:
                raise refusal(path, f"is too much: a skill has at most {SKILL_BYTES_MAX} bytes")
            await asyncio.to_thread(self._scratch.write, chunk)
        self._files.append((path, begins_at, self._end - begins_at))

    def entries(self) -> list[Entry]:
        """What was meant: the files, or those of the one zip. It blocks. Raises InvalidRequest."""
        if len(self._files) == 1 and "/" not in (name := self._files[0][0]):
            self._scratch.seek(0)
            if self._scratch.read(len(ZIP_MAGIC)) == ZIP_MAGIC or name.lower().endswith((".zip", ".skill")):
                return unzipped(self._scratch)
        return [
            Entry(path=path, size_bytes=size, is_executable=None, read=partial(self._read, begins_at, size))
            for path, begins_at, size in self._files
            if not is_junk(path)
        ]

    def _read(self, begins_at: int, size: int) -> Iterator[bytes]:
        at, end = begins_at, begins_at + size
        while at < end:
            self._scratch.seek(at)  # others read, too
            chunk = self._scratch.read(min(SKILL_CHUNK_BYTES, end - at))
            at += len(chunk)
            yield chunk
