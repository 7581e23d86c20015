"""Archives that are more than they seem. None of them is large before it is unpacked."""

import io
import struct
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from corral.testing.lab import archive_of, in_chunks, member

__all__ = ["DISK_BYTES_MAX", "SKILLS", "cut", "hole", "long_name", "members"]

DISK_BYTES_MAX: Final = 64 << 20  # that a refused archive may leave behind
_MANIFEST: Final = b"---\nname: bomb\ndescription: Grows.\n---\n"
_MANY: Final = 1_200_000
_PIECE: Final = 5_000


async def hole() -> AsyncIterator[bytes]:
    packed = archive_of((member("bomb", hole_bytes=1 << 40), b"x"))
    async for chunk in in_chunks(packed):
        yield chunk


async def members() -> AsyncIterator[bytes]:
    folder = member("bomb", tarfile.DIRTYPE, mode=0o755).tobuf()
    for _ in range(0, _MANY, _PIECE):
        yield folder * _PIECE
    yield bytes(1024)


async def long_name() -> AsyncIterator[bytes]:
    head = tarfile.TarInfo("././@LongLink")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    yield head.tobuf(tarfile.GNU_FORMAT)
    for _ in range(256):
        yield b"a" * (1 << 20)


async def cut() -> AsyncIterator[bytes]:
    whole = archive_of((member("bomb"), bytes(1 << 20)))
    yield whole[: len(whole) // 2]


def _zip(write: Callable[[zipfile.ZipFile], None]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("bomb/SKILL.md", _MANIFEST)
        write(archive)
    return packed.getvalue()


def _bomb(trap: str) -> bytes:
    def write(archive: zipfile.ZipFile) -> None:
        for number in range(8):
            archive.writestr(f"bomb/{number}", bytes(8 << 20))

    return _zip(write)


def _nested(trap: str) -> bytes:
    """The manifest itself is what is large."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("bomb/SKILL.md", _MANIFEST + b" " * (64 << 20))
        archive.writestr("bomb/inner.zip", _bomb(trap))
    return packed.getvalue()


def _upwards(trap: str) -> bytes:
    return _zip(lambda archive: archive.writestr(f"bomb/../../../../../../..{trap}/planted", b"x"))


def _absolute(trap: str) -> bytes:
    return _zip(lambda archive: archive.writestr(f"{trap}/planted", b"x"))


def _link(trap: str) -> bytes:
    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("bomb/link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")

    return _zip(write)


def _overlap(trap: str) -> bytes:
    """Many names in the directory for one place in the file: what is counted once is unpacked often."""
    packed = bytearray(_zip(lambda archive: archive.writestr("bomb/0", bytes(4 << 20))))
    end = packed.rindex(b"PK\x05\x06")
    size, offset = struct.unpack_from("<II", packed, end + 12)
    entry = bytes(packed[packed.rindex(b"PK\x01\x02") : offset + size])
    copies = b"".join(entry.replace(b"bomb/0", b"bomb/%c" % (97 + n)) for n in range(26))
    count = struct.unpack_from("<H", packed, end + 8)[0] + 26
    tail = bytearray(packed[end:])
    struct.pack_into("<HHI", tail, 8, count, count, size + len(copies))
    return bytes(packed[:end] + copies + tail)


def _lies(trap: str) -> bytes:
    """The directory says one byte, the data are more."""
    packed = bytearray(_zip(lambda archive: archive.writestr("bomb/0", bytes(64 << 20))))
    entry = packed.rindex(b"PK\x01\x02")
    struct.pack_into("<I", packed, entry + 24, 1)
    return bytes(packed)


SKILLS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "bomb": _bomb,
    "nested": _nested,
    "upwards": _upwards,
    "absolute": _absolute,
    "link": _link,
    "overlap": _overlap,
    "lies": _lies,
}
"""Made with the path of a directory that nothing may appear in."""
