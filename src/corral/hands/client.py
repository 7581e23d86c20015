"""A hands host as brains and the server see it: `corral.brain.ports.Hands` over the host's socket.

The client retries nothing. A connection that breaks under `execute` says nothing about the call, so
it becomes HandsUnavailable (retryable) and the brain finds out by `attach`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import httpx2
import orjson

from corral.hands import wire
from corral.hands.ports import Probe
from corral.hands.wire import LiveSandbox
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    HANDS_CONNECT_SECONDS,
    HANDS_CONNECTIONS_MAX,
    HANDS_CONTROL_CONNECTIONS_MAX,
    HANDS_HEARTBEAT_SECONDS,
    HANDS_REPLY_SECONDS,
)
from corral.session.call import Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult

__all__ = ["HandsClient"]

_SOON = httpx2.Timeout(HANDS_REPLY_SECONDS, connect=HANDS_CONNECT_SECONDS)
_WHENEVER = httpx2.Timeout(None, connect=HANDS_CONNECT_SECONDS)
_WHILE_IT_BEATS = httpx2.Timeout(3 * HANDS_HEARTBEAT_SECONDS, connect=HANDS_CONNECT_SECONDS)


class _Connections(httpx2.AsyncBaseTransport):
    """A pool whose cost does not grow with its size: a stack of one-connection transports.

    The library's own pool looks at every connection for every request, which at a thousand waiting
    calls takes milliseconds each.
    """

    def __init__(self, socket_path: Path, *, connections_max: int) -> None:
        self._socket_path = str(socket_path)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused, but costly to make for each of them
        self._idle: list[httpx2.AsyncHTTPTransport] = []
        self._places = asyncio.Semaphore(connections_max)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await self._places.acquire()
        transport = self._idle.pop() if self._idle else self._connection()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            self._give_back(transport)
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Returning(response.stream, lambda: self._give_back(transport))
        return response

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for transport in idle:
            await transport.aclose()

    def _connection(self) -> httpx2.AsyncHTTPTransport:
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        return httpx2.AsyncHTTPTransport(
            uds=self._socket_path, limits=limits, verify=self._tls, trust_env=False
        )

    def _give_back(self, transport: httpx2.AsyncHTTPTransport) -> None:
        self._idle.append(transport)
        self._places.release()


class _Returning(httpx2.AsyncByteStream):
    """A reply's body that gives its connection back when it is closed."""

    def __init__(self, body: httpx2.AsyncByteStream, give_back: Callable[[], None]) -> None:
        self._body = body
        self._give_back: Callable[[], None] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        try:
            await self._body.aclose()
        finally:
            if give_back:
                give_back()


class HandsClient:
    """One per process, used by all sessions at once. Close it with `aclose`.

    What takes as long as it takes, calls and archives, has connections of its own: however many of them
    wait, what would end them comes through.
    """

    def __init__(self, socket_path: Path, *, token: str) -> None:
        self._socket_path = socket_path

        def http(connections_max: int) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(
                transport=_Connections(socket_path, connections_max=connections_max),
                base_url=f"http://hands{wire.PREFIX}",
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
                timeout=_SOON,
                trust_env=False,
            )

        self._work = http(HANDS_CONNECTIONS_MAX)
        self._control = http(HANDS_CONTROL_CONNECTIONS_MAX)
        self._placement: Placement | None = None

    # -- the port of the brain ------------------------------------------------------------------------

    async def placement(self, session_id: SessionId) -> Placement:
        if self._placement is None:
            await self.health()
        assert self._placement
        return self._placement

    async def announce(self, session_id: SessionId, *, epoch: int) -> None:
        self._learn(await self._post("/announce", {"session_id": session_id, "epoch": epoch}))

    async def provision(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> None:
        body = {"session_id": session_id, "epoch": epoch, "recipe": {"environment": recipe.environment}}
        await self._post("/provision", body)

    async def execute(self, call: ToolCall, *, epoch: int) -> ToolResult:
        return await self._call("/execute", call, epoch=epoch)

    async def attach(self, call: ToolCall, *, epoch: int) -> ToolResult:
        return await self._call("/attach", call, epoch=epoch)

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        await self._post("/cancel", {"session_id": session_id, "epoch": epoch, "call_ids": list(call_ids)})

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        await self._post("/settle", {"session_id": session_id, "call_ids": list(call_ids)})

    # -- for the server, the supervisor and the command line --------------------------------------------

    async def health(self) -> dict[str, Json]:
        """`{"role", "pid", "version", "protocol", "host_id", "journal_id", "is_supervised", "sandboxes",
        "calls"}`; the last two are counts. Raises HandsUnavailable."""
        health: dict[str, Json] = orjson.loads(await self._send(self._control, "GET", "/health"))
        self._learn(health)
        return health

    async def probe(self) -> Probe:
        """Whether a sandbox can be made there; believed for seconds. Raises HandsUnavailable."""
        return Probe(**orjson.loads(await self._send(self._control, "GET", "/probe", timeout=_WHENEVER)))

    async def sandboxes(self) -> list[LiveSandbox]:
        return [
            LiveSandbox(**item)
            for item in orjson.loads(await self._send(self._control, "GET", "/sandboxes"))["data"]
        ]

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """The session ended, or was deleted. Repeat: safe. Raises HandsUnavailable."""
        await self._post("/release", {"session_id": session_id, "delete_workspace": delete_workspace})

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream. Raises InvalidRequest, RequestTooLarge, NotFound, SandboxUnavailable."""
        await self._send(self._work, "PUT", f"/workspaces/{session_id}", content=archive, timeout=_WHENEVER)

    async def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of the workspace; HandsUnavailable in its middle means that it is not whole."""
        with self._reachable():
            async with self._work.stream("GET", f"/workspaces/{session_id}", timeout=_WHENEVER) as response:
                if response.status_code != 200:
                    raise wire.decode_error(await response.aread())
                async for chunk in response.aiter_bytes():
                    yield chunk

    async def adopt(self) -> AsyncIterator[Placement]:
        """Adopt the host for as long as this is iterated: yields once adopted, ends when the host stops.

        Raises HandsUnavailable when there is no host, or it fell silent.
        """
        with self._reachable():
            async with self._control.stream("GET", "/adopt", timeout=_WHILE_IT_BEATS) as response:
                if response.status_code != 200:
                    raise wire.decode_error(await response.aread())
                async for line in response.aiter_lines():
                    if line:
                        yield self._learn(orjson.loads(line))

    async def aclose(self) -> None:
        await self._work.aclose()
        await self._control.aclose()

    # -- one request ----------------------------------------------------------------------------------

    async def _call(self, path: str, call: ToolCall, *, epoch: int) -> ToolResult:
        content = wire.encode_call(call, epoch=epoch)
        return wire.decode_result(
            await self._send(self._work, "POST", path, content=content, timeout=_WHENEVER)
        )

    async def _post(self, path: str, body: dict[str, Json]) -> dict[str, Json]:
        content = orjson.dumps(body)
        reply: dict[str, Json] = orjson.loads(
            await self._send(self._control, "POST", path, content=content)
        )
        return reply

    async def _send(
        self,
        http: httpx2.AsyncClient,
        method: str,
        path: str,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        timeout: httpx2.Timeout = _SOON,
    ) -> bytes:
        with self._reachable():
            response = await http.request(method, path, content=content, timeout=timeout)
        if response.status_code != 200:
            raise wire.decode_error(response.content)
        return response.content

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            self._placement = None  # the next host on this socket may keep another journal
            raise HandsUnavailable(
                f"the hands host at {str(self._socket_path)!r} does not answer ({type(error).__name__})"
            ) from error

    def _learn(self, identity: dict[str, Json]) -> Placement:
        self._placement = wire.decode_placement(identity)
        return self._placement
