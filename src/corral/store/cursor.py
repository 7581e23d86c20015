"""List cursors: where a page ended, opaque to clients and bound to its list."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error

import orjson

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INTEGER_MAX


def encode(kind: str, number: int, last_id: str) -> str:
    """kind: the list it belongs to. number: what the list is ordered by (microseconds, a version)."""
    return urlsafe_b64encode(orjson.dumps([kind, number, last_id])).decode().rstrip("=")


def decode(kind: str, cursor: str) -> tuple[int, str]:
    """Inverse of `encode`. Raises InvalidRequest for anything that `encode` did not make for this list."""
    try:
        fields = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (Base64Error, ValueError):
        fields = None
    match fields:
        case [str(of_kind), int(number), str(last_id)] if of_kind == kind and 0 <= number <= INTEGER_MAX:
            return number, last_id
    raise InvalidRequest(
        "page: this cursor is not from this list. Use next_page of an earlier answer, or leave it out."
    )
