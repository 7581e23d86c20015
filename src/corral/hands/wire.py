"""What travels between a hands host and its clients: paths, bodies, errors. Version 1.

Both ends import this file and nothing of each other. A field may be added within a version; readers
ignore what they do not know, so roles one minor version apart work together.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from corral.kernel.errors import (
    CorralError,
    HandsUnavailable,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RequestTooLarge,
    SandboxUnavailable,
    WorldError,
)
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import NeverStarted, Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult

PREFIX: Final = "/corral/hands/v1"
VERSION: Final = 1
EPOCH_MAX: Final = 2**62 - 1  # the journal keeps 2**62 for deleted sessions


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveSandbox:
    """A sandbox that exists on a host now."""

    session_id: SessionId
    provider: str
    is_busy: bool
    idle_seconds: float


def encode_call(call: ToolCall, *, epoch: int) -> bytes:
    return orjson.dumps({"epoch": epoch, "call": call})


def decode_call(body: dict[str, Json]) -> tuple[ToolCall, int]:
    """Raises what the shape is wrong with: KeyError, TypeError."""
    call = body["call"]
    return ToolCall(
        session_id=decode_session_id(call),
        thread_id=ThreadId(_text(call["thread_id"])),
        call_id=EventId(_text(call["call_id"])),
        name=_text(call["name"]),
        input=dict(call["input"]),
        recipe=decode_recipe(call["recipe"]),
        placement=decode_placement(call["placement"]),
    ), decode_epoch(body)


def decode_session_id(body: dict[str, Json]) -> SessionId:
    return SessionId(_text(body["session_id"]))


def decode_epoch(body: dict[str, Json]) -> int:
    epoch = body["epoch"]
    if not isinstance(epoch, int) or not 0 <= epoch <= EPOCH_MAX:
        raise TypeError("epoch")
    return epoch


def decode_call_ids(body: dict[str, Json]) -> list[EventId]:
    return [EventId(_text(call_id)) for call_id in body["call_ids"]]


def decode_recipe(body: dict[str, Json]) -> Recipe:
    return Recipe(environment=dict(body["environment"]))


def decode_placement(body: dict[str, Json]) -> Placement:
    return Placement(host_id=_text(body["host_id"]), journal_id=_text(body["journal_id"]))


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def encode_result(result: ToolResult) -> bytes:
    """Also the form in which the journal keeps a result."""
    return orjson.dumps({"content": list(result.content), "is_error": result.is_error})


def decode_result(data: bytes) -> ToolResult:
    body = orjson.loads(data)
    return ToolResult(content=tuple(body["content"]), is_error=body["is_error"])


_ERRORS: Final[dict[str, tuple[type[Exception], int]]] = {
    "never_started": (NeverStarted, 404),
    "lease_lost": (LeaseLost, 409),
    "invalid_request": (InvalidRequest, 400),
    "not_found": (NotFound, 404),
    "request_too_large": (RequestTooLarge, 413),
    "sandbox_unavailable": (SandboxUnavailable, 503),
    "hands_unavailable": (HandsUnavailable, 503),
}


def encode_error(error: CorralError | NeverStarted) -> tuple[int, bytes]:
    """(HTTP status, body). A kind the other end cannot know is sent as hands_unavailable."""
    known = (type_ for type_, (class_, _) in _ERRORS.items() if isinstance(error, class_))
    type_ = next(known, "hands_unavailable")
    status = _ERRORS[type_][1]
    fields: dict[str, Json] = {"type": type_, "message": str(error)}
    if isinstance(error, WorldError):
        fields |= {"retryable": error.retryable, "written": error.written}
    return status, orjson.dumps({"error": fields})


def decode_error(data: bytes) -> Exception:
    """Inverse of `encode_error`; anything unreadable is HandsUnavailable."""
    try:
        fields = orjson.loads(data)["error"]
        class_, _ = _ERRORS.get(fields["type"], (HandsUnavailable, 503))
        if issubclass(class_, WorldError):
            return class_(
                fields["message"],
                retryable=fields.get("retryable", True),
                written=fields.get("written", False),
            )
        return class_(fields["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return HandsUnavailable("the hands host sent an answer that cannot be read")
