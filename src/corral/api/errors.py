"""The only place that renders errors for the wire. Source: API docs, errors-limits "Error envelope"."""

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from corral.kernel.errors import (
    CallerError,
    Conflict,
    CorralError,
    RateLimited,
    RequestTooSlow,
    WorldError,
)
from corral.kernel.limits import RETRY_AFTER_SECONDS

_BY_STATUS = {404: "not_found_error", 405: "invalid_request_error", 413: "request_too_large"}


def envelope(
    wire_type: str,
    message: str,
    request_id: str,
    *,
    error_code: str | None = None,
    members: Mapping[str, str] = {},  # never changed
    details: Mapping[str, object] = {},
) -> bytes:
    """The error body; `details.error_code` only when there is a stable code."""
    error: dict[str, object] = {"type": wire_type, "message": message, **members}
    if error_code is not None:
        error["details"] = {"error_code": error_code, **details}
    return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


def error_response(error: Exception, request_id: str) -> Response:
    """A CallerError in its own words, a WorldError as 529 (SDKs retry it), anything else as a 500 that
    says nothing about our insides."""
    headers: dict[str, str] = {}
    if isinstance(error, CallerError):
        status = error.status
        body = envelope(
            error.wire_type,
            error.message,
            request_id,
            error_code=error.error_code,
            members=error.members,
            details=error.details,
        )
        if isinstance(error, RateLimited):
            headers = {"retry-after": str(error.retry_after_seconds)}
        if isinstance(error, RequestTooSlow):
            headers = {"connection": "close"}  # the rest of it would have to be waited for
        if isinstance(error, Conflict) and not error.retryable:
            headers = {"x-should-retry": "false"}  # understood by the official SDKs
    elif isinstance(error, WorldError):
        status = 529
        body = envelope("overloaded_error", error.message, request_id)
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    elif isinstance(error, CorralError):
        status, body = 529, envelope("overloaded_error", "The session is busy; try again", request_id)
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    else:
        status, body = 500, envelope("api_error", "Internal server error", request_id)
    return Response(body, status, headers, "application/json")


def http_error_response(status: int, path: str, method: str, request_id: str) -> Response:
    """What routing itself refuses: unknown paths and wrong methods."""
    message = f"{method} is not allowed on {path}" if status == 405 else f"Not found: {path}"
    wire_type = _BY_STATUS.get(status, "invalid_request_error")
    return Response(envelope(wire_type, message, request_id), status, media_type="application/json")
