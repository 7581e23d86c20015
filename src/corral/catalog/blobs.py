"""Blobs: bytes that are too large for the database (checkpoints, files, spilled output), by key."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """sha256: lower-case hex, of the bytes as stored."""

    key: str
    size_bytes: int
    sha256: str


class BlobStore(Protocol):
    """Durable when `put` returns. Keys are `a/b/c`: letters, digits, `.`, `_`, `-` and `/`.

    All methods raise BlobUnavailable (retryable) when the service does not answer.
    """

    async def put(self, key: str, data: AsyncIterator[bytes]) -> Blob:
        """Store a stream under a new key, all or nothing, never whole in memory. Repeat: replaces."""

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes start..end (end exclusive, None: to the last). Raises NotFound at the first step."""

    async def delete(self, key: str) -> None:
        """Repeat: safe."""

    def keys(self, prefix: str) -> AsyncIterator[Blob]:
        """Every blob whose key begins with `prefix`, in any order; sha256 is "" where the service does not
        keep it."""

    async def probe(self) -> None:
        """Write, read and delete a small blob."""

    async def aclose(self) -> None: ...
