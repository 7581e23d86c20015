"""Page cursors: opaque text that carries the order and the position it was made for."""

import base64
import binascii
from collections.abc import Sequence
from typing import Literal

import orjson

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INTEGER_MAX
from corral.session.content import Json

Order = Literal["asc", "desc"]


def encode(kind: str, order: Order, *position: Json) -> str:
    """A cursor. `kind` names the list, so that one list's cursor is refused by another."""
    return base64.urlsafe_b64encode(orjson.dumps([kind, order, *position])).rstrip(b"=").decode()


def decode(
    kind: str, cursor: str, order: Order | None, *, shape: Sequence[type]
) -> tuple[Order, list[Json]]:
    """The cursor's order and position. `order` is what this request asks for, None if it does not say.

    Raises InvalidRequest for a cursor that is not ours, of another list, or of another order.
    """
    try:
        raw = orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError):
        raise InvalidRequest("page: not a cursor of this list; pass next_page as it was given") from None
    if (
        not isinstance(raw, list)
        or len(raw) != 2 + len(shape)
        or raw[0] != kind
        or raw[1] not in ("asc", "desc")
        or not all(type(value) is kind_ for value, kind_ in zip(raw[2:], shape, strict=True))
        or not all(0 <= value <= INTEGER_MAX for value in raw[2:] if isinstance(value, int))
    ):
        raise InvalidRequest("page: not a cursor of this list; pass next_page as it was given")
    if order is not None and order != raw[1]:
        raise InvalidRequest(
            f"page: this cursor was made for order={raw[1]!r}; keep the order, or start anew"
        )
    return raw[1], raw[2:]
