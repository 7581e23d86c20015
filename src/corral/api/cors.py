"""Pages of other origins that may use this server from a browser: none, unless the operator names them.

Keys are sent in headers and never by a browser of itself, so what is allowed here gives nobody a key; it
lets a page that has one use it.
"""

import re
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from corral.kernel.limits import CORS_SECONDS

__all__ = ["Cors"]

Headers = list[tuple[bytes, bytes]]
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2048}")
_EXPOSED = (
    b"request-id, anthropic-organization-id, anthropic-workspace-id, retry-after, x-should-retry,"
    b" idempotent-replayed, anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining,"
    b" anthropic-ratelimit-requests-reset"
)


class Cors:
    def __init__(self, origins: frozenset[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def allows(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any or origin in self._origins)

    def marks(self, origin: bytes | None) -> Headers:
        """What an answer to this origin says."""
        if not self._origins:
            return []
        vary = (b"vary", b"Origin")
        if origin is None or not self.allows(origin):
            return [vary]
        return [
            vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def asks(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it is a browser's question before the request proper, which comes without a key."""
        return (
            scope["method"] == "OPTIONS"
            and b"access-control-request-method" in headers
            and self.allows(headers.get(b"origin"))
        )

    async def answer(
        self, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        asked = headers.get(b"access-control-request-headers", b"")
        allowed: Headers = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-max-age", b"%d" % CORS_SECONDS),
        ]
        if _NAMES.fullmatch(asked):  # they differ from client to client
            allowed.append((b"access-control-allow-headers", asked))
        await send({"type": "http.response.start", "status": 204, "headers": allowed})
        await send({"type": "http.response.body", "body": b""})
