"""Blobs: bytes that are too large for the database (checkpoints, files, spilled output), by key."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import BLOB_KEY_CHARS_MAX, BLOB_KEY_PART_CHARS_MAX

__all__ = ["Blob", "BlobStore", "check_key", "check_prefix"]

_PART: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._/-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """sha256: lower-case hex, of the bytes as stored."""

    key: str
    size_bytes: int
    sha256: str


class BlobStore(Protocol):
    """Bytes by key. Any process may use it at any time; whoever writes a key owns it.

    Keys are `a/b/c`: letters, digits, `.`, `_` and `-` between single slashes, no part `.` or `..`. A
    writer takes a new key for new bytes (an id or a time in it) and deletes the old one once no row names
    it: then nobody reads bytes other than those that the row promised.

    All methods raise BlobUnavailable when the place does not answer, refuses us or has no room (its
    `retryable` says whether waiting helps), and InvalidRequest for a malformed key.
    """

    async def put(self, key: str, data: AsyncIterator[bytes]) -> Blob:
        """Store a stream, all or nothing, never whole in memory; durable when it returns.

        Until then, and after any failure or kill, readers see what was there before. What `data` raises is
        raised here, nothing is stored. Repeat: replaces.
        """

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Bytes start..end (end exclusive, None: to the last) in chunks of at most BLOB_CHUNK_BYTES; those
        beyond the last one are none. All of one `put`: if the blob is replaced meanwhile, the old bytes, or
        BlobUnavailable. Close it (`aclosing`) if it is left early. Raises NotFound at the first step."""

    async def delete(self, key: str) -> None:
        """Repeat: safe."""

    def keys(self, prefix: str) -> AsyncGenerator[Blob, None]:
        """Every blob whose key begins with `prefix`, in any order; sha256 is "" where the service does not
        keep it. Blobs put or deleted meanwhile may be among them or not."""

    async def probe(self) -> None:
        """Write, read and delete a small blob."""

    async def aclose(self) -> None:
        """Repeat: safe."""


def check_key(key: str) -> None:
    """Raises InvalidRequest."""
    parts = key.split("/")
    is_fine = all(_PART.fullmatch(part) and len(part) <= BLOB_KEY_PART_CHARS_MAX for part in parts)
    if not is_fine or len(key) > BLOB_KEY_CHARS_MAX:
        raise InvalidRequest(
            f"{key[: BLOB_KEY_CHARS_MAX + 1]!r} is not the key of a blob: letters, digits, '.', '_' and '-'"
            f" between single slashes, at most {BLOB_KEY_CHARS_MAX} characters"
        )


def check_prefix(prefix: str) -> None:
    """Raises InvalidRequest."""
    if not _PREFIX.fullmatch(prefix) or ".." in prefix.split("/"):
        raise InvalidRequest(f"{prefix!r} cannot begin the key of a blob")
