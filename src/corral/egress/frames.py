"""The frames of a WebSocket, as a server sends them. Source: RFC 6455, 5.2."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["BadFrame", "Frames", "Piece"]

_LENGTH_BYTES: Final = {126: 2, 127: 8}  # what follows the second byte, for lengths that it does not hold
_CONTROL_BYTES_MAX: Final = 125
_FINAL, _EXTENSIONS, _CONTROL, _MASKED = 0x80, 0x70, 0x08, 0x80


class BadFrame(Exception):
    """No server sends such a frame that was asked for no extension. Words for the audit."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A frame's head, or some of its content. is_control: of a ping, a pong or a close, which may come
    between the frames of a message. is_last: the frame is whole with it. is_final: it is of the last frame
    of a message."""

    data: bytes
    is_content: bool
    is_control: bool
    is_last: bool
    is_final: bool


class Frames:
    """Give it what comes, however it is cut."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # of the frame's content
        self._is_control = self._is_final = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Raises BadFrame."""
        at = 0
        while at < len(data):
            if self._left:
                content = data[at : at + self._left]
                self._left -= len(content)
                at += len(content)
                yield Piece(content, True, self._is_control, not self._left, self._is_final)
                continue
            self._head += data[at : at + 1]
            at += 1
            if (length := _length(self._head)) is not None:
                head, self._head, self._left = self._head, b"", length
                self._is_control, self._is_final = bool(head[0] & _CONTROL), bool(head[0] & _FINAL)
                yield Piece(head, False, self._is_control, not length, self._is_final)


def _length(head: bytes) -> int | None:
    """Of the content that follows; None while the head is not complete. Raises BadFrame."""
    if head[0] & _EXTENSIONS or head[0] & 0x07 > 2:
        raise BadFrame("it sends frames of an extension that it was not asked for")
    if len(head) < 2:
        return None
    if head[1] & _MASKED:
        raise BadFrame("it masks its frames, which is for clients")
    length = head[1]
    if head[0] & _CONTROL and (length > _CONTROL_BYTES_MAX or not head[0] & _FINAL):
        raise BadFrame("it sends a control frame that is too long or in parts")
    more = _LENGTH_BYTES.get(length, 0)
    if len(head) < 2 + more:
        return None
    return int.from_bytes(head[2:]) if more else length
