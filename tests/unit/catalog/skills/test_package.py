import hashlib
import io
import tarfile
import zipfile

import pytest

from corral.catalog.skills.package import as_tar, chunks_of, packed
from corral.catalog.skills.unzip import Entry, unzipped
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import SKILL_BYTES_MAX
from tests.unit.catalog.skills.zips import GOOD, MD, with_entry, zipped


def entry(path: str, content: bytes, *, is_executable: bool | None = None) -> Entry:
    return Entry(
        path=path, size_bytes=len(content), is_executable=is_executable, read=lambda: iter([content])
    )


def entries(files: dict[str, bytes] = GOOD) -> list[Entry]:
    return [entry(path, content) for path, content in files.items()]


def content_of(some: list[Entry]) -> bytes:
    with packed(some) as made:
        data = b"".join(chunks_of(made.file))
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (made.sha256, made.size_bytes)
        return data


def tar_of(some: list[Entry], **options: str) -> bytes:
    with packed(some) as made:
        return b"".join(as_tar(made.file, **options))


def test_the_same_bytes_for_the_same_files() -> None:
    data = content_of(entries())
    assert content_of(entries(dict(reversed(GOOD.items())))) == data
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert content_of(unzipped(io.BytesIO(zipped(method=method)))) == data
    elsewhere = {path.replace("my-skill/", "Other Name/"): content for path, content in GOOD.items()}
    assert content_of(entries(elsewhere)) == data
    with packed(entries(elsewhere)) as made:
        assert (made.directory, made.manifest.name) == ("Other Name", "my-skill")
    assert content_of(entries({**GOOD, "my-skill/x": b""})) != data


def test_what_is_in_it() -> None:
    with zipfile.ZipFile(io.BytesIO(content_of(entries()))) as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} == GOOD
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes == {"my-skill/SKILL.md": 0o100644, "my-skill/scripts/run.sh": 0o100755}


def test_modes_are_two() -> None:
    data = content_of(unzipped(io.BytesIO(with_entry("my-skill/tool", mode=0o104777, content=b"x"))))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.getinfo("my-skill/tool").external_attr >> 16 == 0o100755


def test_as_a_tar() -> None:
    long = "c" * 150
    data = tar_of(entries({**GOOD, f"my-skill/a/b/{long}": b"deep"}))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members if member.isdir()] == ["a", "a/b", "scripts"]
        files = {m.name: (m.mode, tar.extractfile(m).read()) for m in members if m.isreg()}  # type: ignore[union-attr]
    assert files == {
        "SKILL.md": (0o644, MD),
        f"a/b/{long}": (0o644, b"deep"),
        "scripts/run.sh": (0o755, GOOD["my-skill/scripts/run.sh"]),
    }
    with tarfile.open(fileobj=io.BytesIO(tar_of(entries(), top="skills/x"))) as tar:
        assert tar.getnames()[:3] == ["skills", "skills/x", "skills/x/SKILL.md"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "send the files"),
        ({"SKILL.md": MD}, "'SKILL.md' is not in a directory"),
        ({"a/skill.md": MD}, "there is no 'a/SKILL.md'; there is 'a/skill.md'"),
        ({"a/b/SKILL.md": MD}, "there is no 'a/SKILL.md'; there is 'a/b/SKILL.md'"),
        ({"a/SKILL.md": MD, "b/SKILL.md": MD}, "'b/SKILL.md' is not in 'a'"),
        ({"": MD}, "has no name"),
        ({"a/\ud800": MD}, "not valid UTF-8"),
    ],
)
def test_what_is_refused(files: dict[str, bytes], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        packed(entries(files))


def test_what_says_less_than_it_has() -> None:
    """Sizes are believed for refusing alone; what comes is counted."""
    lies = Entry(
        path="my-skill/x",
        size_bytes=1,
        is_executable=None,
        read=lambda: (bytes(1024 * 1024) for _ in range(SKILL_BYTES_MAX // 1024 // 1024 + 1)),
    )
    with pytest.raises(InvalidRequest, match="'my-skill/x' is too much"):
        packed([entry("my-skill/SKILL.md", MD), lies])
