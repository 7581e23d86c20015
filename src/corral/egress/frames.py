"""Where the frames of a WebSocket end. Source: RFC 6455, 5.2."""

__all__ = ["Frames"]

_LENGTH_BYTES = {126: 2, 127: 8}  # what follows the second byte, for lengths that it does not hold
_MASK_BYTES = 4


class Frames:
    """Give it what comes from one side. total: bytes so far. whole: of them, to the end of the last frame
    that is there in full."""

    def __init__(self) -> None:
        self.total = self.whole = 0
        self._head = b""
        self._left = 0  # of the frame's content

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
            else:
                taken = 1
                self._head += data[at : at + 1]
                if (length := _length(self._head)) is not None:
                    self._head, self._left = b"", length
            at += taken
            if not self._left and not self._head:
                self.whole = self.total + at
        self.total += len(data)


def _length(head: bytes) -> int | None:
    """Of the content that follows; None while the head is not complete."""
    if len(head) < 2:
        return None
    length = head[1] & 0x7F
    more = _LENGTH_BYTES.get(length, 0)
    if len(head) < 2 + more + (_MASK_BYTES if head[1] & 0x80 else 0):
        return None
    return int.from_bytes(head[2 : 2 + more]) if more else length
