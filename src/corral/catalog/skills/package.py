"""A skill's files as one zip: the same bytes for the same files, whatever they came in.

Files are ordered by name, under a directory named after the skill; times are 1980, modes 0644 or 0755, and
directories have no entries of their own. All of it blocks: for a thread.
"""

import hashlib
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from corral.catalog.skills.layout import SKILL_MD, Layout, is_junk, refusal
from corral.catalog.skills.manifest import Manifest, read_manifest
from corral.catalog.skills.unzip import Entry
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import SKILL_BYTES_MAX, SKILL_CHUNK_BYTES, SKILL_MD_BYTES_MAX

__all__ = ["Package", "as_tar", "chunks_of", "packed"]

_LEVEL: Final = 6
_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)  # a zip knows no earlier one
_SCRIPT: Final = b"#!"
_MEMORY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """`directory`: the top-level one, as it was uploaded. `sha256`, `size_bytes`: of `file`, the zip, which
    is at its beginning; closing it is for whoever asked."""

    manifest: Manifest
    directory: str
    files: int
    size_bytes: int
    sha256: str
    file: IO[bytes]

    def __enter__(self) -> "Package":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def packed(entries: Sequence[Entry], *, is_trusted: bool = False) -> Package:
    """Check everything and pack it anew. Raises InvalidRequest.

    is_trusted: as `read_manifest`.
    """
    entries = [entry for entry in entries if not is_junk(entry.path)]
    layout = Layout()
    for entry in entries:
        layout.add(entry.path)
    directory = layout.directory()
    if sum(entry.size_bytes for entry in entries) > SKILL_BYTES_MAX:
        raise InvalidRequest(f"files: they have more than {SKILL_BYTES_MAX} bytes together")
    inside = {entry.path.removeprefix(f"{directory}/"): entry for entry in entries}
    manifest = read_manifest(_start(inside[SKILL_MD]), directory=directory, is_trusted=is_trusted)
    file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115  # it is what is returned
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
            left = SKILL_BYTES_MAX
            for path in sorted(inside):
                left = _add(archive, f"{manifest.name}/{path}", inside[path], left)
        digest, size = hashlib.sha256(), 0
        for chunk in chunks_of(file):
            digest.update(chunk)
            size += len(chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return Package(
        manifest=manifest,
        directory=directory,
        files=len(inside),
        size_bytes=size,
        sha256=digest.hexdigest(),
        file=file,
    )


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    """From its beginning."""
    file.seek(0)
    while chunk := file.read(SKILL_CHUNK_BYTES):
        yield chunk


def as_tar(package: IO[bytes], *, top: str = "") -> Iterator[bytes]:
    """The files of a package of ours, below `top` instead of the directory named after the skill; with
    their directories, in an order in which they can be made."""
    made: set[str] = set()
    with zipfile.ZipFile(package) as archive:
        for info in archive.infolist():
            path = "/".join(filter(None, (top, info.filename.partition("/")[2])))
            parts = path.split("/")
            for count in range(1, len(parts)):
                above = "/".join(parts[:count])
                if above not in made:
                    made.add(above)
                    yield _head(above, tarfile.DIRTYPE, 0o755, 0)
            yield _head(path, tarfile.REGTYPE, (info.external_attr >> 16) & 0o777, info.file_size)
            with archive.open(info) as content:
                while chunk := content.read(SKILL_CHUNK_BYTES):
                    yield chunk
            yield bytes(-info.file_size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _head(path: str, kind: bytes, mode: int, size: int) -> bytes:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.size = kind, mode, size
    return member.tobuf(tarfile.PAX_FORMAT)


def _start(entry: Entry) -> bytes:
    """Enough of it to see that it is too large."""
    start = bytearray()
    for chunk in entry.read():
        start += chunk
        if len(start) > SKILL_MD_BYTES_MAX:
            break
    return bytes(start)


def _add(archive: zipfile.ZipFile, name: str, entry: Entry, left: int) -> int:
    """Returns how many bytes the others may have. Raises InvalidRequest."""
    info = zipfile.ZipInfo(name, _LONG_AGO)
    info.create_system, info.compress_type = 3, zipfile.ZIP_DEFLATED  # Unix: it has modes
    info.file_size = entry.size_bytes
    content = entry.read()
    first = next(content, b"")
    is_executable = first.startswith(_SCRIPT) if entry.is_executable is None else entry.is_executable
    info.external_attr = (stat.S_IFREG | (0o755 if is_executable else 0o644)) << 16
    with archive.open(info, "w") as out:
        chunk: bytes | None = first
        while chunk:
            left -= len(chunk)
            if left < 0:
                raise refusal(entry.path, f"is too much: a skill has at most {SKILL_BYTES_MAX} bytes")
            out.write(chunk)
            chunk = next(content, None)
    return left
