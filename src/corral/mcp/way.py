"""The way to one MCP server: through the egress process of this machine, and with bounds on its answers.

Rules of this file:
- Nothing leaves from here. The egress process (`corral.egress.servers`) decides whether the server may be
  reached, makes the connection, and puts the credential of the session's vaults into the request: none of
  that is ever in this process.
- Answers come as they are or not at all: what is packed can unpack to any size.
- What goes wrong is noted for the request that it went wrong with: the SDK only says that something did.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx2

from corral.catalog.mcp.servers import McpServer
from corral.daemon import made_token, mcp_path
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    EGRESS_RETRY_SECONDS,
    MCP_ANSWER_BYTES_MAX,
    MCP_CALL_SILENT_SECONDS,
    MCP_CONNECT_SECONDS,
)

__all__ = ["NOTES", "Notes", "Roads", "Way"]

_NOT_SENT: Final = ("refused", "unreachable", "unauthorized")
_PATIENCE: Final = httpx2.Timeout(
    MCP_CONNECT_SECONDS, read=MCP_CALL_SILENT_SECONDS + 60.0, write=30.0, pool=30.0
)
_TROUBLE: Final = "corral-trouble"
_CREDENTIAL: Final = "corral-credential"
_DETAIL: Final = {
    "refused": "may not be reached: {}",
    "unreachable": "cannot be reached: {}",
    "unauthorized": "cannot be used: {}",
    "broken": "gave no whole answer: {}",
}


class Roads:
    """What all ways of a host have in common: the egress process of its data directory, which may be away
    for a moment: its supervisor starts it again."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def way(self, session_id: SessionId, server: McpServer) -> "Way":
        grant = {
            "session_id": session_id,
            "server": server.url,
            "allowed_hosts": None if server.allowed_hosts is None else list(server.allowed_hosts),
        }
        headers = {
            "Proxy-Authorization": f"Bearer {made_token(self._data_dir, 'egress')}",
            "Corral-Grant": json.dumps(grant),
        }
        return Way(str(mcp_path(self._data_dir)), headers)


Trouble = Literal["refused", "unreachable", "unauthorized", "broken", "too_large", "packed"]


@dataclass(kw_only=True, slots=True)
class Notes:
    """What became of the HTTP requests of one request of ours: the SDK only says that something failed.

    status: of the last answer, if it was an error. trouble, detail: why there was none that could be read.
    is_forgotten: the server said that it does not know our connection, and so has done nothing.
    credential_id: what was put into a request that was answered with an error.
    """

    status: int | None = None
    trouble: Trouble | None = None
    detail: str = ""
    is_forgotten: bool = False
    credential_id: str = ""


NOTES: Final[ContextVar[Notes]] = ContextVar("notes")
"""Of whoever asks: the SDK sends each message in the context of its sender."""


class Way(httpx2.AsyncBaseTransport):
    """Of one connection."""

    def __init__(self, door: str, headers: dict[str, str]) -> None:
        """door: the socket of the egress process. headers: what it wants to know with each request."""
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._http = httpx2.AsyncHTTPTransport(uds=door, trust_env=False, retries=0)

    def client(self) -> httpx2.AsyncClient:
        """Close it. Redirects are not followed but by the SDK, within one origin."""
        headers = {"accept-encoding": "identity", "user-agent": "Corral"}
        return httpx2.AsyncClient(transport=self, timeout=_PATIENCE, headers=headers, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._answer(request)
        if _TROUBLE in response.headers:
            said = (await response.aread()).decode(errors="replace").strip()
            await response.aclose()
            trouble = _trouble(response.headers[_TROUBLE])
            raise self._failed(trouble, _DETAIL[trouble].format(said), request)
        if (notes := NOTES.get(None)) is not None:
            notes.status = response.status_code if response.status_code >= 400 else None
            notes.credential_id = response.headers.get(_CREDENTIAL, "")
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

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        """Of the egress process, which is asked as a proxy is."""
        asked = httpx2.Request(
            request.method,
            "http://egress/",
            headers=[*request.headers.raw, *self._headers],  # its Host is the server's
            stream=request.stream,
            extensions={**request.extensions, "target": str(request.url).encode()},
        )
        latest = asyncio.get_running_loop().time() + MCP_CONNECT_SECONDS
        while True:
            try:
                return await self._http.handle_async_request(asked)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):  # nothing was sent
                if asyncio.get_running_loop().time() > latest:
                    raise self._failed(
                        "unreachable",
                        "cannot be reached: the egress process of this machine is away",
                        request,
                    ) from None
                await asyncio.sleep(EGRESS_RETRY_SECONDS)

    def _failed(self, trouble: Trouble, detail: str, request: httpx2.Request) -> httpx2.TransportError:
        if (notes := NOTES.get(None)) is not None:
            notes.trouble, notes.detail = trouble, detail
        kind = httpx2.ConnectError if trouble in _NOT_SENT else httpx2.ReadError
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


def _trouble(word: str) -> Trouble:
    """As the egress process says it; of a word that is not known yet, the worst is assumed."""
    return word if word in _NOT_SENT else "broken"  # type: ignore[return-value]
