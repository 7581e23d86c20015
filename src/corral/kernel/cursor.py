"""Page cursors: where a page ended, as text that is opaque to clients and bound to its list."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INTEGER_MAX

__all__ = ["BAD_CURSOR", "Page", "decode", "encode"]

Item = TypeVar("Item")

BAD_CURSOR = "page: not a cursor of this list; pass next_page as it was given"


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[Item]):
    """`items` in list order; `next_cursor` says where the next page begins. None: nowhere."""

    items: Sequence[Item]
    next_cursor: str | None


def encode(kind: str, *position: str | int) -> str:
    """kind: names the list, so that one list's cursor is refused by another."""
    return base64.urlsafe_b64encode(orjson.dumps([kind, *position])).rstrip(b"=").decode()


def decode(kind: str, cursor: str, *, shape: Sequence[type]) -> list[Any]:
    """The position, of these types. Raises InvalidRequest for what `encode` did not make for this list."""
    try:
        raw = orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError):
        raise InvalidRequest(BAD_CURSOR) from None
    if (
        not isinstance(raw, list)
        or len(raw) != 1 + len(shape)
        or raw[0] != kind
        or not all(type(value) is kind_ for value, kind_ in zip(raw[1:], shape, strict=True))
        or not all(0 <= value <= INTEGER_MAX for value in raw[1:] if isinstance(value, int))
        or any("\0" in value for value in raw[1:] if isinstance(value, str))  # PostgreSQL takes none
    ):
        raise InvalidRequest(BAD_CURSOR)
    return raw[1:]
