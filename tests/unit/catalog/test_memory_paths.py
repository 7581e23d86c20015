"""Paths of memories, their order, and what a store takes as content."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.catalog.memory.paths import (
    above,
    after,
    below,
    check_content,
    check_path,
    check_prefix,
    child_of,
    content_sha256,
)
from corral.kernel.errors import InvalidRequest, MemoryRefused
from corral.kernel.limits import MEMORY_CONTENT_BYTES_MAX


@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "/.a",
        "/...",
        "/ä",
        "/a b",
        "/\U0001f402",
        "/" + "/".join("a" * 20),
        "/" + "x" * 1023,
        "/%2e%2e",
        "/~",
    ],
)
def test_what_is_a_path(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "start with"),
        ("a", "start with"),
        ("/", "empty segment"),
        ("//a", "empty segment"),
        ("/a/", "empty segment"),
        ("/a//b", "empty segment"),
        ("/.", "'.' or '..'"),
        ("/a/../b", "'.' or '..'"),
        ("/" + "/".join("a" * 21), "21 segments"),
        ("/" + "x" * 1024, "1024 bytes"),
        ("/" + "ä" * 512, "1024 bytes"),
        ("/a\x00", "control character, U+0000"),
        ("/a\n", "control character, U+000A"),
        ("/a\x7f", "control character"),
        ("/a\x85", "control character"),
        ("/a\u200d", "format character, U+200D"),
        ("/a\ufeff", "format character"),
        ("/a\u2028", "line separator"),
        ("/a\u2029", "paragraph separator"),
        ("/a\ud800", "surrogate"),
        ("/a\u0308", "Normalization Form C"),
    ],
)
def test_what_is_no_path(path: str, why: str) -> None:
    with pytest.raises(MemoryRefused, match=re.escape(why)) as refused:
        check_path(path)
    assert refused.value.errno == "EINVAL"
    assert refused.value.message.startswith("path: ")


@pytest.mark.parametrize("prefix", ["/", "/a/", "/a/b/"])
def test_what_is_a_prefix(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "a/", "/a", "//", "/a//", "/../", "/a\n/"])
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="path_prefix"):
        check_prefix(prefix)


def test_contents() -> None:
    assert check_content("ä".encode()) == "ä"
    assert check_content(b"") == ""
    assert len(check_content(b"x" * MEMORY_CONTENT_BYTES_MAX)) == MEMORY_CONTENT_BYTES_MAX
    for content, errno in (
        (b"x" * (MEMORY_CONTENT_BYTES_MAX + 1), "EFBIG"),
        (b"\xff", "EINVAL"),
        (b"\0", "EINVAL"),
    ):
        with pytest.raises(MemoryRefused) as refused:
            check_content(content)
        assert refused.value.errno == errno
    # over the bytes as they are: no normalisation
    assert content_sha256("a\u0308".encode()) != content_sha256("ä".encode())


_SEGMENTS = st.text(alphabet="aA0./-é\U0001f402~ ", min_size=1, max_size=3).filter(
    lambda text: "/" not in text and text not in (".", "..")
)
_PATHS = st.lists(_SEGMENTS, min_size=1, max_size=4).map(
    lambda segments: unicodedata.normalize("NFC", "/" + "/".join(segments))
)


@given(st.lists(_PATHS, unique=True, max_size=12), _PATHS)
def test_ranges_are_what_is_below(paths: list[str], place: str) -> None:
    """The range of a prefix has exactly what begins with it; each entry's end is before the next one."""
    for path in paths:
        check_path(path)
    start, end = below(place + "/")
    in_range = [path for path in paths if start <= path < end]
    assert in_range == [path for path in paths if path.startswith(place + "/")]
    assert [path for path in paths if path in above(place)] == [
        path for path in paths if place.startswith(path + "/")
    ]


@given(st.lists(_PATHS, unique=True, max_size=12), st.booleans())
def test_walking_by_entries_shows_each_once(paths: list[str], is_shallow: bool) -> None:
    """As a list does it: the first path at or after where the last entry ended, until there is none."""
    # as in a store: nothing is below a memory
    paths = sorted(path for path in paths if not any(directory in paths for directory in above(path)))
    start, walked = "/", []
    while rest := [path for path in paths if path >= start]:
        entry = child_of("/", rest[0]) if is_shallow else rest[0]
        walked.append(entry)
        start = after(entry)
    assert walked == list(dict.fromkeys(child_of("/", path) if is_shallow else path for path in paths))
    assert [entry.encode() for entry in walked] == sorted(entry.encode() for entry in walked)
