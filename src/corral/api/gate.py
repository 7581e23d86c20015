"""The gate: pure ASGI, around every request. Who may enter, what every answer carries, what errors become.

Order: request id, room for one more request, a browser's question about another origin, Host and Origin
(against DNS rebinding, before anything is said), authentication and workspace, rate, version and betas if
they are judged, body limit, room for new work. Then the routes, each behind its guard. Every answer,
refusals too, carries request-id and the ids of organization and workspace.
"""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.api.admission import Admission, Inflow, starts_work
from corral.api.auth import Authenticator
from corral.api.caller import caller_in, enter
from corral.api.coding import accepted, compressing, decoded, is_compressible
from corral.api.cors import Cors
from corral.api.edge import Edge, check_strictly
from corral.api.errors import error_response
from corral.api.rate import Rates
from corral.kernel.errors import (
    CallerError,
    CorralError,
    InvalidRequest,
    PermissionDenied,
    RequestTooLarge,
    RequestTooSlow,
    UnsupportedMediaType,
)
from corral.kernel.ids import DEFAULT_WORKSPACE, REQUEST, Ids
from corral.kernel.limits import (
    BODY_BYTES_PER_SECOND_MIN,
    BODY_SILENCE_SECONDS,
    FILE_BYTES_MAX,
    MULTIPART_FRAME_BYTES_MAX,
    REQUEST_BODY_BYTES_MAX,
    WORKSPACE_ARCHIVE_BYTES_MAX,
)
from corral.kernel.metrics import count
from corral.kernel.request import request_id

ORGANIZATION_ID = "org_default"
PUBLIC_PATHS = frozenset(
    {"/", "/docs", "/healthz", "/readyz", "/metrics", "/corral/v1/openapi.json", "/corral/v1/docs"}
)
_UPLOADS = "/v1/files"
_STREAMED = ("/stream", "/content", "/workspace")  # to answer HEAD there would be to read it all
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOCAL_ONLY = (
    "It listens for this machine only: ask for localhost (a proxy passes that as Host, and no Origin), or"
    " have it listen beyond with --host."
)

_log = logging.getLogger(__name__)


class Gate:
    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        ids: Ids,
        admission: Admission,
        allowed_hosts: frozenset[str],
        rates: Rates,
        edge: Edge,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._ids = ids
        self._admission = admission
        self._any_host = "*" in allowed_hosts
        self._rates = rates
        self._edge = edge
        self._cors = Cors(edge.cors_origins)
        self._hosts = _LOOPBACK | {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
                return
            await send({"type": "websocket.close", "code": 1008})
            return
        minted = self._ids.mint(REQUEST)
        request_id.set(minted)
        headers = dict(scope["headers"])
        if scope["method"] == "HEAD" and not scope["path"].endswith(_STREAMED):
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        if is_compressible(scope["path"]) and (coding := accepted(headers.get(b"accept-encoding"))):
            send = compressing(send, coding)
        common = [
            (b"request-id", minted.encode()),
            (b"anthropic-organization-id", ORGANIZATION_ID.encode()),
            *self._cors.marks(headers.get(b"origin")),
        ]
        is_started = False

        async def send_marked(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                count("http_requests", status=_class_of(message["status"]))
                _log.debug("%s %s %d", scope["method"], scope["path"], message["status"])
                who = caller_in(scope)
                workspace_id = DEFAULT_WORKSPACE if who is None else who.workspace_id
                mark = (b"anthropic-workspace-id", workspace_id.encode())
                message["headers"] = [*message.get("headers", ()), *common, mark]
            await send(message)

        scope["corral.request_id"] = minted
        try:
            with self._admission.request(scope) as inflow:
                if self._cors.asks(scope, headers):
                    self._check_names(headers)
                    await self._cors.answer(headers, scope, receive, send_marked)
                    return
                await self._admit(scope, headers, common)
                if starts_work(scope):
                    self._admission.check_new_work()
                await self._app(scope, _body(scope, headers, receive, inflow), send_marked)
        except ClientDisconnect:  # in the middle of its body: there is nobody to answer
            _log.debug("%s %s was cut off (%s)", scope["method"], scope["path"], minted)
        except CorralError as error:
            if is_started:
                raise
            await error_response(error, minted)(scope, receive, send_marked)
        except Exception as error:
            if is_started:
                raise
            _log.exception("%s %s failed (%s)", scope["method"], scope["path"], minted)
            await error_response(error, minted)(scope, receive, send_marked)

    async def _admit(
        self, scope: Scope, headers: MutableMapping[bytes, bytes], marks: list[tuple[bytes, bytes]]
    ) -> None:
        """`marks` get what the answer says about rates.

        Raises PermissionDenied, AuthenticationFailed, RateLimited, RequestTooLarge, InvalidRequest,
        NotFound.
        """
        if scope["path"] in PUBLIC_PATHS:
            return
        self._check_names(headers)
        who = await self._authenticator.authenticate(
            x_api_key=headers.get(b"x-api-key"),
            authorization=headers.get(b"authorization"),
            workspace=headers.get(b"anthropic-workspace-id"),
        )
        enter(scope, who)
        if self._rates.are_on:
            self._rates.take(scope["method"], who.api_key_id, marks)
        if self._edge.strict_headers:
            betas = b",".join(value for name, value in scope["headers"] if name == b"anthropic-beta")
            check_strictly(scope["path"], version=headers.get(b"anthropic-version"), betas=betas)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > _body_bytes_max(scope):
            raise _too_large(scope)
        if "\0" in scope["path"]:  # PostgreSQL takes none in an id
            raise InvalidRequest("The path must not contain the character U+0000")

    def _check_names(self, headers: MutableMapping[bytes, bytes]) -> None:
        """A page of another site must not reach this server under a name of its own."""
        if self._any_host:
            return
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts:
            raise PermissionDenied(f"Host {host!r} is not a name of this server. {_LOCAL_ONLY}")
        origin = headers.get(b"origin")
        if origin is not None and not self._cors.allows(origin):
            _, _, authority = origin.decode("latin-1").partition("://")
            if _host_name(authority) not in self._hosts:
                raise PermissionDenied(f"Origin is not a name of this server. {_LOCAL_ONLY}")


def _class_of(status: int) -> str:
    """529 is its own: it says that we are overloaded, not that we are wrong."""
    return "529" if status == 529 else f"{status // 100}xx"


def _host_name(authority: str) -> str:
    """The name in `name:port` or `[v6]:port`, lower case."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def _body_bytes_max(scope: Scope) -> int:
    path: str = scope["path"]
    if path == _UPLOADS:
        return FILE_BYTES_MAX + MULTIPART_FRAME_BYTES_MAX
    is_archive = path.startswith("/corral/v1/sessions/") and path.endswith("/workspace")
    return WORKSPACE_ARCHIVE_BYTES_MAX if is_archive else REQUEST_BODY_BYTES_MAX


def _too_large(scope: Scope) -> CallerError:
    if scope["path"] == _UPLOADS:
        return RequestTooLarge(
            f"The file has more than {FILE_BYTES_MAX} bytes ({FILE_BYTES_MAX >> 20} MiB)"
        )
    return RequestTooLarge(f"The request body is larger than {_body_bytes_max(scope)} bytes")


def _body(scope: Scope, headers: MutableMapping[bytes, bytes], receive: Receive, inflow: Inflow) -> Receive:
    """`receive` with its bounds, and unpacked. Raises UnsupportedMediaType."""
    limited = _limited(scope, paced(receive), inflow)
    coding = headers.get(b"content-encoding", b"identity")
    if coding == b"identity":
        return limited
    bytes_max = _body_bytes_max(scope)
    if bytes_max != REQUEST_BODY_BYTES_MAX:
        raise UnsupportedMediaType("content-encoding: not here, where a body is handed on as it comes")
    return decoded(limited, coding, bytes_max=bytes_max, take=inflow.take)


def _limited(scope: Scope, receive: Receive, inflow: Inflow) -> Receive:
    """`receive` that counts: a chunked body has no content-length to refuse by."""
    if scope["method"] in ("GET", "HEAD"):
        return receive
    left = _body_bytes_max(scope)
    is_streamed = left != REQUEST_BODY_BYTES_MAX  # handed on as it comes

    async def counted() -> MutableMapping[str, Any]:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if not is_streamed:
                inflow.take(len(message.get("body", b"")))
            if left < 0:
                raise _too_large(scope)
        return message

    return counted


def paced(
    receive: Receive,
    *,
    silence_seconds: float = BODY_SILENCE_SECONDS,
    bytes_per_second: float = BODY_BYTES_PER_SECOND_MIN,
) -> Receive:
    """`receive` that gives up on a body which comes too slowly. Only waiting counts, not what the route
    does in between; bytes that come earn patience, `silence_seconds` of it at most: no trickle is endless.

    `receive` then raises RequestTooSlow.
    """
    patience, is_whole = silence_seconds, False

    async def paced() -> MutableMapping[str, Any]:
        nonlocal patience, is_whole
        if is_whole:  # now it waits for the client to go away
            return await receive()
        clock = asyncio.get_running_loop().time  # which the timeout goes by, too
        began = clock()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise RequestTooSlow(
                f"The request body did not come fast enough: {silence_seconds:g} s without a byte, or fewer"
                f" than {bytes_per_second:g} bytes a second. Send it again."
            ) from None
        patience -= clock() - began
        patience = min(silence_seconds, patience + len(message.get("body", b"")) / bytes_per_second)
        is_whole = not message.get("more_body", False)
        return message

    return paced
