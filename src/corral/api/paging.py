"""Page cursors of lists with two orders: they carry the order that they were made for."""

from collections.abc import Sequence
from typing import Literal

from corral.kernel import cursor
from corral.kernel.cursor import BAD_CURSOR
from corral.kernel.errors import InvalidRequest
from corral.session.content import Json

Order = Literal["asc", "desc"]


def encode(kind: str, order: Order, *position: str | int) -> str:
    return cursor.encode(kind, order, *position)


def decode(kind: str, page: str, order: Order | None, *, shape: Sequence[type]) -> tuple[Order, list[Json]]:
    """The cursor's order and position. `order` is what this request asks for, None if it does not say.

    Raises InvalidRequest for a cursor that is not ours, of another list, or of another order.
    """
    carried, *position = cursor.decode(kind, page, shape=(str, *shape))
    if carried not in ("asc", "desc"):
        raise InvalidRequest(BAD_CURSOR)
    if order is not None and order != carried:
        raise InvalidRequest(
            f"page: this cursor was made for order={carried!r}; keep the order, or start anew"
        )
    return carried, position
