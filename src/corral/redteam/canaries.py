"""Planted secrets: each is unique, says where it was planted, and is looked for everywhere else."""

import base64
import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import zstandard

__all__ = ["Canaries", "Search", "spellings", "unpacked"]

_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_OF_GZIP: Final = 31  # window bits that ask for its header
_UNPACKED_BYTES_MAX, _PIECE_BYTES = 1 << 30, 1 << 20
_BEGINNING: Final = "corral-canary-"
KINDS: Mapping[str, str] = {
    "vault": "a secret of a vault",
    "bearer": "the token of an MCP server in a vault",
    "model": "the model provider's key, which the server holds",
    "server": "the environment that the server was started in",
    "store": "a message of another session, which the database has",
    "journal": "a call of another session, which the journal of the hands host has",
    "neighbour": "a file of another sandbox",
    "neighbourenv": "the environment of a process in another sandbox",
    "file": "a file on the machine that everybody may read",
    "directory": "a file in a directory of the machine that everybody may use",
    "shm": "a file in the machine's /dev/shm",
    "victimenv": "the environment of a process outside",
    "victimargv": "an argument of a process outside",
    "victimmemory": "the memory of a process outside",
    "service": "a service on the machine's loopback",
    "socket": "a unix socket of the machine",
    "abstract": "an abstract socket of the machine",
    "foreign": "a host that is not allowed",
    "repository": "a git repository of the machine",
    "git": "the token of a private repository",
    "unmounted": "a private repository that no session has",
}
"""What is planted where."""


@dataclass(kw_only=True, slots=True)
class Canaries:
    """planted: kind -> value."""

    planted: dict[str, str] = field(default_factory=dict)

    def plant(self, kind: str) -> str:
        """A new value. Only such words may be in it as survive any place it is put."""
        assert kind in KINDS and kind not in self.planted, kind
        value = f"{_BEGINNING}{kind}-{secrets.token_hex(16)}"
        self.planted[kind] = value
        return value

    def kind_of(self, value: str) -> str | None:
        return next((kind for kind, known in self.planted.items() if known == value), None)


def spellings(value: str) -> tuple[bytes, ...]:
    """As it stands, and as base64, hexadecimal digits or backwards would hide it."""
    plain = value.encode()
    inner = (
        base64.b64encode(plain[at:])[4:-4] for at in range(3)
    )  # wherever it begins in something longer
    return (plain, *inner, plain.hex().encode(), plain[::-1])


def unpacked(content: bytes) -> bytes:
    """Of what zstd (checkpoints, layers) or gzip has packed, as much as is whole; empty of all else."""
    pieces: list[bytes] = []
    try:
        if content.startswith(_GZIP):
            pieces.append(zlib.decompressobj(_OF_GZIP).decompress(content, _UNPACKED_BYTES_MAX))
        elif content.startswith(_ZSTD):
            left = _UNPACKED_BYTES_MAX
            with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as frames:
                while left > 0 and (piece := frames.read(_PIECE_BYTES)):
                    pieces.append(piece)
                    left -= len(piece)
    except (zstandard.ZstdError, zlib.error):
        pass  # the rest is none
    return b"".join(pieces)


_BEGINNINGS: Final = spellings(_BEGINNING)


@dataclass(kw_only=True, slots=True)
class Search:
    """Secrets looked for in places. places: name -> bytes looked through. hits: (secret, place)."""

    secrets: Mapping[str, str]
    places: dict[str, int] = field(default_factory=dict)
    unsearched: dict[str, str] = field(default_factory=dict)
    hits: list[tuple[str, str]] = field(default_factory=list)

    def look(self, place: str, content: bytes, *, only: Iterable[str] | None = None) -> None:
        """What is packed is looked at unpacked, too. only: names of the secrets that must not be there; all
        unless given."""
        self._look(place, content, only=only)
        if inner := unpacked(content):
            self._look(place, inner, only=only)

    def _look(self, place: str, content: bytes, *, only: Iterable[str] | None) -> None:
        self.places[place] = self.places.get(place, 0) + len(content)
        may_have_canaries = any(spelled in content for spelled in _BEGINNINGS)
        for name in self.secrets if only is None else only:
            secret = self.secrets[name]
            if secret.startswith(_BEGINNING) and not may_have_canaries:
                continue  # most places are large, and have none
            if any(spelled in content for spelled in spellings(secret)):
                self.hits.append((name, place))

    @property
    def count(self) -> int:
        """Searches of one secret in one place."""
        return len(self.secrets) * len(self.places)
