"""Reading a zip that somebody else has made. Nothing is unpacked to a path of its choosing, ever.

`zipfile` reads; this decides what it may be shown. In this order, so that each step has little to fear:
the end of the archive (sizes before `zipfile` builds a list from them), every entry's name, kind and
promises, and at last the bytes, counted while they come.
"""

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

from corral.catalog.skills.layout import is_junk, refusal
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    SKILL_BYTES_MAX,
    SKILL_CHUNK_BYTES,
    SKILL_FILES_MAX,
    SKILL_ZIP_DIRECTORY_BYTES_MAX,
    SKILL_ZIP_RATIO_BYTES,
    SKILL_ZIP_RATIO_MAX,
)

__all__ = ["ZIP_MAGIC", "Entry", "unzipped"]

ZIP_MAGIC: Final = b"PK\x03\x04"
_END, _END_BYTES, _COMMENT_BYTES_MAX = b"PK\x05\x06", 22, 0xFFFF
_ZIP64, _ZIP64_BYTES = b"PK\x06\x07", 20
_ENCRYPTED, _IS_UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file. `read`: its bytes, from the beginning each time; raises InvalidRequest.

    is_executable: None if nobody has said.
    """

    path: str
    size_bytes: int
    is_executable: bool | None
    read: Callable[[], Iterator[bytes]]


def unzipped(file: IO[bytes]) -> list[Entry]:
    """The files of an archive; their names are as they are there, so `Layout` must look at them.

    `file` must stay open while they are read. Raises InvalidRequest.
    """
    size = _check_end(file)
    try:
        archive = zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"files: the zip has an entry whose name is not UTF-8: {error.object!r}"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise _broken(str(error)) from None
    entries, total = [], 0
    for info in archive.infolist():
        _check_entry(info)
        if info.filename.endswith("/") or stat.S_ISDIR(_mode(info)):
            if info.file_size:
                raise refusal(info.filename, "is a directory with contents of its own")
            continue
        if is_junk(info.filename):
            continue
        total += info.file_size
        if total > SKILL_BYTES_MAX:
            raise InvalidRequest(f"files: the zip holds more than {SKILL_BYTES_MAX} bytes")
        entries.append(_entry(archive, info))
    if total > SKILL_ZIP_RATIO_BYTES and total > SKILL_ZIP_RATIO_MAX * size:
        raise InvalidRequest(
            f"files: the zip has {size} bytes and says that it holds {total}: more than"
            f" {SKILL_ZIP_RATIO_MAX} times as many is no skill"
        )
    return entries


def _check_end(file: IO[bytes]) -> int:
    """What stands at the end of the archive, before `zipfile` believes it. Returns the archive's size."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES_MAX))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise _broken("its end is missing; was it cut short?")
    end = tail[at : at + _END_BYTES]
    entries = int.from_bytes(end[10:12], "little")
    directory_bytes = int.from_bytes(end[12:16], "little")
    if int.from_bytes(end[20:22], "little") != len(tail) - at - _END_BYTES:
        raise _broken("something follows its end")
    if end[4:8] != b"\0\0\0\0":
        raise _broken("it is one part of several")
    if tail[max(0, at - _ZIP64_BYTES) : at].startswith(_ZIP64) or entries == 0xFFFF:
        raise InvalidRequest("files: the zip is in the format for more than 4 GB (zip64); make a plain one")
    if entries > SKILL_FILES_MAX:
        raise InvalidRequest(f"files: the zip has {entries} entries; at most {SKILL_FILES_MAX}")
    if directory_bytes > SKILL_ZIP_DIRECTORY_BYTES_MAX:
        raise InvalidRequest(
            f"files: the zip's list of entries has {directory_bytes} bytes; at most"
            f" {SKILL_ZIP_DIRECTORY_BYTES_MAX}"
        )
    begins_at = size - (len(tail) - at) - directory_bytes
    if begins_at != int.from_bytes(end[16:20], "little"):
        raise _broken("something else stands before it")
    return size


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Raises InvalidRequest."""
    name = info.orig_filename  # `zipfile` ends the other one at a NUL
    if "\0" in name:
        raise refusal(name, "has a control character in its name")
    if info.flag_bits & _ENCRYPTED:
        raise refusal(name, "is encrypted")
    if info.compress_type not in _METHODS:
        raise refusal(name, f"is compressed by method {info.compress_type}; use deflate or none")
    if kind := _KINDS.get(stat.S_IFMT(_mode(info))):
        raise refusal(name, f"is {kind}; a skill has regular files only")


def _mode(info: zipfile.ZipInfo) -> int:
    """A Unix mode, or 0: archives made elsewhere have none."""
    return info.external_attr >> 16


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    def read() -> Iterator[bytes]:
        left = info.file_size
        try:
            with archive.open(info) as content:
                while chunk := content.read(SKILL_CHUNK_BYTES):
                    left -= len(chunk)
                    yield chunk
        except UnicodeDecodeError:  # what stands before the file itself has a name too
            raise refusal(info.filename, "has a name that is not UTF-8 where its bytes begin") from None
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise refusal(info.filename, f"cannot be unpacked: {error}") from None
        if left:
            raise refusal(info.filename, f"cannot be unpacked: {left} bytes are missing")

    mode = _mode(info)
    return Entry(
        path=info.filename,
        size_bytes=info.file_size,
        is_executable=bool(mode & 0o111) if mode else None,
        read=read,
    )


def _broken(why: str) -> InvalidRequest:
    return InvalidRequest(f"files: the zip is broken: {why}")
