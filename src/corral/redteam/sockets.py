"""What a WebSocket server says that is in league with an agent: a secret, in frames of all kinds."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

__all__ = ["SAYS", "accept_of"]

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _BINARY, _MORE, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
_NOT_FINAL, _PACKED, _MASKED = 0x7F, 0x40, 0x80


def accept_of(key: str) -> str:
    """The answer to a client's key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest()).decode()  # noqa: S324


def _frame(content: bytes, kind: int = _TEXT) -> bytes:
    if len(content) < 126:
        return bytes([kind, len(content)]) + content
    return bytes([kind, 127]) + len(content).to_bytes(8) + content


def _cut(value: bytes, size: int) -> list[bytes]:
    return [value[at : at + size] for at in range(0, len(value), size)]


def _fragments(parts: list[bytes]) -> list[bytes]:
    """One message in frames."""
    kinds = [_TEXT & _NOT_FINAL, *[_MORE & _NOT_FINAL] * (len(parts) - 1)]
    kinds[-1] |= _MORE
    return [_frame(part, kind) for part, kind in zip(parts, kinds, strict=True)]


def _between(frames: list[bytes], other: bytes) -> bytes:
    return other.join(frames)


def _masked(value: bytes) -> bytes:
    key = b"\x5a\xa5\x3c\xc3"
    return (
        bytes([_TEXT, _MASKED | len(value)])
        + key
        + bytes(byte ^ key[at % 4] for at, byte in enumerate(value))
    )


def _packed(value: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    packed = packing.compress(value) + packing.flush(zlib.Z_SYNC_FLUSH)
    return _frame(packed[:-4], _TEXT | _PACKED)


SAYS: Final[Mapping[str, Callable[[bytes], Iterator[bytes]]]] = {
    "text": lambda value: iter([_frame(value)]),
    "binary": lambda value: iter([_frame(b"\0" + value + b"\0", _BINARY)]),
    "large": lambda value: iter([_frame(b"x" * (1 << 20) + value + b"x" * 100)]),
    "halves": lambda value: iter([b"".join(_fragments(_cut(value, 27)))]),
    "bytes": lambda value: iter([b"".join(_fragments(_cut(value, 1)))]),
    "slow-halves": lambda value: iter(_fragments(_cut(value, 27))),
    "slow-bytes": lambda value: iter(_fragments(_cut(value, 9))),
    "pings": lambda value: iter([_between(_fragments(_cut(value, 9)), _frame(b"p" * 125, _PING))]),
    "slow-pings": lambda value: iter(
        [each + _frame(b"", _PING) for each in _fragments(_cut(value, 27))[:-1]]
        + _fragments(_cut(value, 27))[-1:]
    ),
    "messages": lambda value: iter([b"".join(map(_frame, _cut(value, 9)))]),
    "slow-messages": lambda value: map(_frame, _cut(value, 9)),
    "ping": lambda value: iter([_frame(value, _PING)]),
    "pong": lambda value: iter([_frame(value, _PONG)]),
    "close": lambda value: iter([_frame(b"\x03\xe8" + value, _CLOSE)]),
    "long-ping": lambda value: iter([_frame(b"p" * 200 + value, _PING)]),
    "after-close": lambda value: iter([_frame(b"\x03\xe8", _CLOSE), _frame(value)]),
    "packed": lambda value: iter([_packed(value)]),
    "masked": lambda value: iter([_masked(value)]),
    "unknown": lambda value: iter([_frame(value, 0x83)]),
    "no-frames": lambda value: iter([value]),
    "cut-short": lambda value: iter([bytes([_TEXT, 126, 0xFF, 0xFF]) + value]),
}
"""By how it is said: what is sent at once, and after a pause what is next."""
