"""Zips as attackers make them: what `zipfile` would not write is patched into what it wrote."""

import io
import struct
import zipfile

MD = b"---\nname: my-skill\ndescription: Does things. Use it for things.\n---\nHello.\n"
GOOD = {"my-skill/SKILL.md": MD, "my-skill/scripts/run.sh": b"#!/bin/sh\necho hi\n"}


def zipped(files: dict[str, bytes] = GOOD, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if content.startswith(b"#!") else 0o100644) << 16
            archive.writestr(info, content, compress_type=method)
    return out.getvalue()


def with_entry(name: str, *, mode: int = 0o100644, content: bytes = b"x", system: int = 3) -> bytes:
    """A good skill, and one more entry of that kind."""
    out = io.BytesIO(zipped())
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = system, mode << 16
        archive.writestr(info, content)
    return out.getvalue()


def renamed(old: bytes, new: bytes) -> bytes:
    """A good skill in which a name of the same length stands for another, everywhere."""
    assert len(old) == len(new)
    return zipped().replace(old, new)


def directory_at(data: bytes) -> int:
    """Where the list of entries begins."""
    return int(struct.unpack_from("<I", data, len(data) - 6)[0])


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]
