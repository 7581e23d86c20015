"""Paths and contents of memories: pure rules.

Order is by code point, which is the order of the UTF-8 bytes. `/` comes just before `0`, and no path has a
control character: so everything below `/a/` is from `/a/` up to, not including, `/a0`, and what comes next
after `/a` is at or after `/a\\x01`.
"""

import unicodedata
from hashlib import sha256

from corral.kernel.errors import InvalidRequest, MemoryRefused
from corral.kernel.limits import (
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_PATH_BYTES_MAX,
    MEMORY_PATH_SEGMENTS_MAX,
)

__all__ = [
    "above",
    "after",
    "below",
    "check_content",
    "check_path",
    "check_prefix",
    "child_of",
    "content_sha256",
]

_AFTER_SLASH = chr(ord("/") + 1)
_LEAST = "\x01"  # before every character that a path may have
_REFUSED = {
    "Cc": "a control character",
    "Cf": "a format character",
    "Cs": "a surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


def check_path(path: str) -> None:
    """Raises MemoryRefused (EINVAL) saying what is wrong."""
    problem = _problem(path)
    if problem is not None:
        raise MemoryRefused(f"path: {path!r} {problem}", errno="EINVAL")


def check_prefix(prefix: str) -> None:
    """Of a list: `/`, or a path and `/`. Raises InvalidRequest."""
    if not prefix.endswith("/"):
        raise InvalidRequest(f"path_prefix: {prefix!r} must end with '/': it matches whole segments")
    problem = None if prefix == "/" else _problem(prefix[:-1])
    if problem is not None:
        raise InvalidRequest(f"path_prefix: {prefix!r} {problem}")


def check_content(content: bytes) -> str:
    """The text. Raises MemoryRefused: EFBIG if it is too long, EINVAL if it is no text."""
    if len(content) > MEMORY_CONTENT_BYTES_MAX:
        raise MemoryRefused(
            f"content: {len(content)} bytes; a memory has at most {MEMORY_CONTENT_BYTES_MAX}. Split it.",
            errno="EFBIG",
        )
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MemoryRefused("content: not UTF-8; a memory is text", errno="EINVAL") from None
    if "\0" in text:
        raise MemoryRefused("content: must not contain the character U+0000", errno="EINVAL")
    return text


def content_sha256(content: bytes) -> str:
    """Lower-case hex, of the bytes as they are."""
    return sha256(content).hexdigest()


def above(path: str) -> list[str]:
    """The paths of its directories: `/a`, `/a/b` of `/a/b/c`."""
    segments = path.split("/")
    return ["/".join(segments[:count]) for count in range(2, len(segments))]


def below(prefix: str) -> tuple[str, str]:
    """Where the paths that begin with `prefix`, which ends with `/`, begin, and where they have ended."""
    return prefix, prefix[:-1] + _AFTER_SLASH


def after(entry: str) -> str:
    """Where the next entry of a list begins at the earliest: after a memory, or all of a directory."""
    return below(entry)[1] if entry.endswith("/") else entry + _LEAST


def child_of(prefix: str, path: str) -> str:
    """What a list of depth 1 shows of a path below `prefix`: itself, or the directory that it is in."""
    name, slash, _ = path[len(prefix) :].partition("/")
    return prefix + name + slash


def _problem(path: str) -> str | None:
    if not path.startswith("/"):
        return "must start with '/'"
    if len(path.encode(errors="surrogatepass")) > MEMORY_PATH_BYTES_MAX:
        return f"has more than {MEMORY_PATH_BYTES_MAX} bytes"
    segments = path[1:].split("/")
    if len(segments) > MEMORY_PATH_SEGMENTS_MAX:
        return f"has {len(segments)} segments; at most {MEMORY_PATH_SEGMENTS_MAX} are allowed"
    if "" in segments:
        return "has an empty segment; write it with single slashes and none at the end"
    if "." in segments or ".." in segments:
        return "has a segment '.' or '..'"
    for character in path:
        refused = _REFUSED.get(unicodedata.category(character))
        if refused is not None:
            return f"contains {refused}, U+{ord(character):04X}"
    if not unicodedata.is_normalized("NFC", path):
        return "is not in Unicode Normalization Form C"
    return None
