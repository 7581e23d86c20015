"""Answers: JSON bytes, made once."""

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from corral.catalog.idempotency import Answer
from corral.session.content import Json


def json_answer(value: Mapping[str, Json]) -> Answer:
    return Answer(status=200, body=orjson.dumps(value))


def json_response(value: Mapping[str, Json], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def bytes_response(body: bytes) -> Response:
    """An answer put together from stored bodies."""
    return Response(body, media_type="application/json")
