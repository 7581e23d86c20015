"""`Range: bytes=...` of one range; several at once, and other units, may be ignored, and are (RFC 9110)."""

import re
from typing import Final, NamedTuple

__all__ = ["Span", "asked_span"]

_ONE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


class Span(NamedTuple):
    """Bytes start..end, end exclusive. Empty: nothing there can be sent (416)."""

    start: int
    end: int


def asked_span(header: str | None, size: int) -> Span | None:
    """What of `size` bytes is asked for; None: all of it."""
    found = _ONE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":  # the last so many
        return Span(max(0, size - int(found[2])), size)
    start = int(found[1])
    if found[2] == "":
        return Span(start, max(start, size))
    last = int(found[2])
    if last < start:
        return None  # malformed, so it is ignored
    return Span(start, max(start, min(last + 1, size)))
