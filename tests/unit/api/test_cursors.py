"""Cursors that this server never made: each is a 400, whatever it is made of."""

import pytest
from starlette.datastructures import QueryParams

from corral.api.paging import decode, encode
from corral.api.routes.events import event_position
from corral.api.routes.sessions import _positions
from corral.api.schema.query import SessionListQuery, parse_query
from corral.kernel import cursor
from corral.kernel.errors import InvalidRequest


def test_a_cursor_carries_order_and_position() -> None:
    page = encode("events sesn_1", "desc", 7, 2)
    assert decode("events sesn_1", page, None, shape=(int, int)) == ("desc", [7, 2])
    page = cursor.encode("agents", 7, "agent_1")
    assert cursor.decode("agents", page, shape=(int, str)) == [7, "agent_1"]


@pytest.mark.parametrize("position", [(2**63, 0), (0, 2**63), (-1, 0), (True, 0), ("1", 0), (1,)])
def test_a_position_that_no_list_has(position: tuple[object, ...]) -> None:
    with pytest.raises(InvalidRequest, match="page: not a cursor"):
        event_position("events sesn_1", encode("events sesn_1", "asc", *position), None)


@pytest.mark.parametrize("created", ["garbage", "", "0001-01-01T00:00:00+14:00", "2026-11-20T10:00:00"])
def test_a_time_that_is_none(created: str) -> None:
    page = encode("sessions", "desc", "after", created, "sesn_1")
    with pytest.raises(InvalidRequest, match="page: not a cursor"):
        _positions(parse_query(SessionListQuery, QueryParams({"page": page})))


@pytest.mark.parametrize("direction", ["", "behind", "AFTER"])
def test_a_direction_that_no_list_has(direction: str) -> None:
    page = encode("sessions", "desc", direction, "2026-11-20T10:00:00Z", "sesn_1")
    with pytest.raises(InvalidRequest, match="page: not a cursor"):
        _positions(parse_query(SessionListQuery, QueryParams({"page": page})))


def test_an_id_that_no_store_has() -> None:
    with pytest.raises(InvalidRequest, match="page: not a cursor"):
        cursor.decode("agents", cursor.encode("agents", 7, "agent_\0"), shape=(int, str))


@pytest.mark.parametrize("number", [2**62, -1])
def test_a_moment_that_no_calendar_has(number: int) -> None:
    with pytest.raises(InvalidRequest, match="page: not a cursor"):
        cursor.decode("agents", cursor.encode("agents", number, "agent_1"), shape=(int, str))
