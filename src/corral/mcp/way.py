"""The way to one MCP server: HTTP whose addresses are checked, and whose answers have bounds.

Rules of this file:
- Names are resolved here, every address is checked before one is dialled, and the checked address is the
  one that is dialled, for as long as the connection lives: a name that resolves differently a moment later
  leads nowhere else.
- No proxy or certificate setting of our own environment has a say.
- Answers come as they are or not at all: what is packed can unpack to any size.
- What goes wrong is noted for the request that it went wrong with: the SDK only says that something did.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import httpx2

from corral.catalog.hosts import HostList
from corral.confine.names import Names
from corral.confine.tunnel import Resolve
from corral.kernel.addresses import is_public
from corral.kernel.limits import (
    MCP_ANSWER_BYTES_MAX,
    MCP_CALL_SILENT_SECONDS,
    MCP_CONNECT_SECONDS,
)

__all__ = ["NOTES", "Notes", "Roads", "Way"]

_PORTS: Final = {"http": 80, "https": 443}
_PATIENCE: Final = httpx2.Timeout(
    MCP_CONNECT_SECONDS, read=MCP_CALL_SILENT_SECONDS + 60.0, write=30.0, pool=30.0
)


class Roads:
    """What all ways of a host have in common. private: hosts (`host`, `host:port`, `*.domain`) that the
    operator opened, at whatever addresses they are. authorities: more of them (PEM) for TLS, beside the
    system's."""

    def __init__(
        self,
        *,
        private: Sequence[str] = (),
        authorities: Path | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._private = HostList(private=private)
        self._authorities = authorities
        self._resolve = resolve

    def way(self) -> "Way":
        return Way(self, tls=_tls(self._authorities))

    async def addresses(self, host: str, port: int, names: Names) -> Sequence[str]:
        """All of them may be dialled. names: of one connection. Raises PermissionError, whose words are for
        the user; OSError, TimeoutError."""
        async with asyncio.timeout(MCP_CONNECT_SECONDS):
            addresses = await (self._resolve or names.resolve)(host, port)
        if not self._private.may_be_private(host, port) and not all(map(is_public, addresses)):
            raise PermissionError("is at an address that is not public")
        return addresses


Trouble = Literal["refused", "unreachable", "too_large", "packed"]


@dataclass(kw_only=True, slots=True)
class Notes:
    """What became of the HTTP requests of one request of ours: the SDK only says that something failed.

    status: of the last answer, if it was an error. trouble, detail: why there was none that could be read.
    is_forgotten: the server said that it does not know our connection, and so has done nothing.
    """

    status: int | None = None
    trouble: Trouble | None = None
    detail: str = ""
    is_forgotten: bool = False


NOTES: Final[ContextVar[Notes]] = ContextVar("notes")
"""Of whoever asks: the SDK sends each message in the context of its sender."""


class Way(httpx2.AsyncBaseTransport):
    """Of one connection."""

    def __init__(self, roads: Roads, *, tls: ssl.SSLContext) -> None:
        self._roads = roads
        self._http = httpx2.AsyncHTTPTransport(verify=tls, trust_env=False, retries=0)
        self._names = Names()
        self._known: dict[tuple[str, int], list[str]] = {}

    def client(self) -> httpx2.AsyncClient:
        """Close it. Redirects are not followed but by the SDK, within one origin."""
        headers = {"accept-encoding": "identity", "user-agent": "Corral"}
        return httpx2.AsyncClient(transport=self, timeout=_PATIENCE, headers=headers, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host.rstrip(".").lower()
        port = request.url.port or _PORTS.get(request.url.scheme, 0)
        response = await self._sent(request, host, port)
        if (notes := NOTES.get(None)) is not None:
            notes.status = response.status_code if response.status_code >= 400 else None
            if notes.status == 404 and "mcp-session-id" in request.headers:
                notes.is_forgotten = True
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            await response.aclose()
            raise self._failed("packed", "sends compressed answers", request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response.stream, self, request),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _sent(self, request: httpx2.Request, host: str, port: int) -> httpx2.Response:
        last: httpx2.TransportError | None = None
        for address in await self._addresses(request, host, port):
            dialled = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # its Host is the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                response = await self._http.handle_async_request(dialled)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                last = error  # nothing was sent
                continue
            self._known[host, port] = [address]
            return response
        raise self._failed("unreachable", f"cannot be reached: {_said(last)}", request)

    async def _addresses(self, request: httpx2.Request, host: str, port: int) -> Sequence[str]:
        if (host, port) not in self._known:
            try:
                self._known[host, port] = list(await self._roads.addresses(host, port, self._names))
            except PermissionError as refused:
                raise self._failed("refused", str(refused), request) from None
            except (OSError, TimeoutError, UnicodeError):
                raise self._failed(
                    "unreachable", "cannot be reached: its name does not resolve", request
                ) from None
        return self._known[host, port]

    def _failed(self, trouble: Trouble, detail: str, request: httpx2.Request) -> httpx2.TransportError:
        if (notes := NOTES.get(None)) is not None:
            notes.trouble, notes.detail = trouble, detail
        kind = httpx2.ConnectError if trouble in ("refused", "unreachable") else httpx2.ReadError
        return kind(detail, request=request)

    def note_too_large(self, request: httpx2.Request) -> httpx2.TransportError:
        megabytes = MCP_ANSWER_BYTES_MAX >> 20
        return self._failed("too_large", f"sent an answer of more than {megabytes} MiB", request)


class _Bounded(httpx2.AsyncByteStream):
    """An answer's body that ends at a bound."""

    def __init__(self, body: httpx2.AsyncByteStream, way: Way, request: httpx2.Request) -> None:
        self._body = body
        self._way = way
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = MCP_ANSWER_BYTES_MAX
        async for chunk in self._body:
            room -= len(chunk)
            if room < 0:
                raise self._way.note_too_large(self._request)
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


@cache
def _tls(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities is not None:
        context.load_verify_locations(authorities)
    return context


def _said(error: Exception | None) -> str:
    text = str(error or "")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not valid"
    return "it takes no connections"
