"""Hostile archives: each is refused, and the message says which entry and why."""

import io
import stat
import tracemalloc
import zipfile

import pytest

from corral.catalog.skills.package import packed
from corral.catalog.skills.unzip import unzipped
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    SKILL_BYTES_MAX,
    SKILL_FILES_MAX,
    SKILL_ZIP_DIRECTORY_BYTES_MAX,
    SKILL_ZIP_RATIO_BYTES,
)
from tests.unit.catalog.skills.zips import GOOD, directory_at, patched, renamed, with_entry, zipped


def files_in(data: bytes) -> int:
    with packed(unzipped(io.BytesIO(data))) as package:
        assert package.manifest.name == "my-skill"
        return package.files


def refused(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        packed(unzipped(io.BytesIO(data)))
    return str(refusal.value)


def test_a_good_one_is_taken() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert files_in(zipped(method=method)) == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my-skill/../../etc/cron.d/x", "'..'"),
        ("../x", "'..'"),
        ("/etc/passwd", "absolute"),
        ("C:/windows/x", "absolute"),
        ("my-skill\\..\\x", "backslash"),
        ("my-skill/./x", "'.'"),
        ("my-skill//x", "empty part"),
        ("my-skill/a\nb", "control character"),
        ("my-skill/" + "d/" * 20 + "x", "too deep"),
        ("my-skill/" + "x" * 201, "too long"),
        ("my-skill/" + "long/" * 12 + "x" * 190 + "/" + "y" * 190 + "/" + "z" * 150, "too long"),
        ("other/x", "one top-level directory"),
        ("x", "not in a directory"),
        ("my-skill/SKILL.md/x", "is a file"),
        ("my-skill/scripts", "also a directory"),
        ("my-skill/skill.md", "cannot be told from 'my-skill/SKILL.md'"),
        ("my-skill/Scripts/x", "cannot be told from 'my-skill/scripts'"),
        ("MY-SKILL/x", "cannot be told from"),
    ],
)
def test_a_name_that_is_no_name(name: str, why: str) -> None:
    said = refused(with_entry(name))
    assert why in said
    assert repr(name)[1:40] in said, "it says which"


def test_names_that_differ_in_their_unicode_form_alone() -> None:
    decomposed = {**GOOD, "my-skill/\u00e9": b"", "my-skill/e\u0301": b""}
    assert "cannot be told from" in refused(zipped(decomposed))


def test_an_entry_that_is_there_twice() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = with_entry("my-skill/SKILL.md")
    assert "'my-skill/SKILL.md' is there twice" in refused(data)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFSOCK, "a socket"),
    ],
)
@pytest.mark.parametrize("system", [0, 3, 19])
def test_what_is_no_regular_file(kind: int, why: str, system: int) -> None:
    data = with_entry("my-skill/x", mode=kind | 0o777, content=b"/etc/passwd", system=system)
    assert f"'my-skill/x' is {why}" in refused(data)


def test_a_directory_may_be_there_and_holds_nothing_itself() -> None:
    assert files_in(with_entry("my-skill/empty/", content=b"")) == 2
    assert "contents of its own" in refused(with_entry("my-skill/dir", mode=stat.S_IFDIR | 0o755))


def test_a_nul_in_a_name() -> None:
    assert "control character" in refused(renamed(b"scripts/run.sh", b"scripts/ru\0.sh"))


def test_a_name_that_is_not_utf8() -> None:
    assert "not UTF-8" in refused(renamed(b"scripts/run.sh", b"scripts/r\xff\xfe.sh"))


def test_an_encrypted_entry() -> None:
    data = zipped()
    at = directory_at(data)
    assert "is encrypted" in refused(patched(data, at + 8, b"\x01\x00"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_another_compression(method: int) -> None:
    data = zipped()
    assert f"method {method}" in refused(
        patched(data, directory_at(data) + 10, method.to_bytes(2, "little"))
    )


def test_what_is_broken() -> None:
    data = zipped()
    assert "end is missing" in refused(data[:-30])
    assert "end is missing" in refused(b"PK\x03\x04")
    assert "end is missing" in refused(b"")
    assert "follows its end" in refused(data + b"more")
    assert "stands before" in refused(b"#!/bin/sh\n" + data)
    assert "several" in refused(patched(data, len(data) - 18, b"\x01"))
    assert "broken" in refused(patched(data, directory_at(data), b"XXXX"))
    middle = data.index(b"SKILL.md") + len("SKILL.md") + 3
    assert "cannot be unpacked" in refused(patched(data, middle, b"\xff\xff\xff\xff"))
    local_name = data.index(b"my-skill/scripts")
    assert "cannot be unpacked" in refused(patched(data, local_name, b"my-skilX"))
    assert "not UTF-8" in refused(patched(data, local_name, b"my-skil\xff"))
    stored = zipped(method=zipfile.ZIP_STORED)
    assert "CRC" in refused(patched(stored, stored.index(b"echo"), b"ECHO"))


def test_zip64() -> None:
    data = zipped()
    end = data[-22:]
    locator = b"PK\x06\x07" + bytes(16)
    assert "zip64" in refused(data[:-22] + locator + end)


def test_too_many_entries() -> None:
    files = {**GOOD, **{f"my-skill/{number}": b"" for number in range(SKILL_FILES_MAX)}}
    assert f"at most {SKILL_FILES_MAX}" in refused(zipped(files))


def test_a_list_of_entries_that_is_too_long() -> None:
    out = io.BytesIO(zipped())
    with zipfile.ZipFile(out, "a") as archive:
        for number in range(20):
            info = zipfile.ZipInfo(f"my-skill/{number}")
            info.comment = b"x" * 60_000
            archive.writestr(info, b"")
    assert str(SKILL_ZIP_DIRECTORY_BYTES_MAX) in refused(out.getvalue())


def test_a_bomb_by_size() -> None:
    files = {**GOOD, **{f"my-skill/{n}": bytes(SKILL_BYTES_MAX // 4) for n in range(5)}}
    assert f"more than {SKILL_BYTES_MAX}" in refused(zipped(files))


def test_a_bomb_by_ratio() -> None:
    assert "times as many" in refused(zipped({**GOOD, "my-skill/x": bytes(SKILL_ZIP_RATIO_BYTES + 1)}))


def test_a_bomb_that_lies_about_its_size_costs_no_memory() -> None:
    """What it says is small; what would come is not, and is not taken."""
    data = zipped({**GOOD, "my-skill/x": bytes(64 * 1024 * 1024)})
    at = data.index(b"my-skill/x", directory_at(data)) - 46
    tracemalloc.start()
    try:
        said = refused(patched(data, at + 24, (100).to_bytes(4, "little")))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert "'my-skill/x' cannot be unpacked" in said


def test_what_macos_adds_is_left_out() -> None:
    files = {**GOOD, "__MACOSX/my-skill/._SKILL.md": b"?", "my-skill/.DS_Store": b"?"}
    assert files_in(zipped(files)) == 2
