"""A hands host as brains and the server see it: `corral.brain.ports.Hands` over the host's socket.

The client retries nothing. A connection that breaks under `execute` says nothing about the call, so
it becomes HandsUnavailable (retryable) and the brain finds out by `attach`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import orjson

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.hands import wire
from corral.hands.ports import Probe
from corral.hands.unreachable import why_tls_failed
from corral.hands.wire import HeldWorkspace, LiveSandbox, TreeNews
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import EventId, SessionId
from corral.kernel.limits import (
    HANDS_CONNECT_SECONDS,
    HANDS_CONNECTIONS_MAX,
    HANDS_CONTROL_CONNECTIONS_MAX,
    HANDS_HEARTBEAT_SECONDS,
    HANDS_REPLY_SECONDS,
    HOST_SILENT_SECONDS,
    MCP_LIST_SECONDS,
    TREE_REPLY_BYTES_MAX,
)
from corral.session.call import Mount, Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult

__all__ = ["HandsClient"]

_SOON = httpx2.Timeout(HANDS_REPLY_SECONDS, connect=HANDS_CONNECT_SECONDS)
_LISTED = httpx2.Timeout(MCP_LIST_SECONDS + HANDS_REPLY_SECONDS, connect=HANDS_CONNECT_SECONDS)
_WHENEVER = httpx2.Timeout(None, connect=HANDS_CONNECT_SECONDS)
_LONG = httpx2.Timeout(2 * HANDS_REPLY_SECONDS, connect=HANDS_CONNECT_SECONDS)  # some megabytes
_WHILE_IT_BEATS = httpx2.Timeout(3 * HANDS_HEARTBEAT_SECONDS, connect=HANDS_CONNECT_SECONDS)


_KEEP_ALIVE = [  # a machine that vanished says nothing: ask it, while we wait for a call's end
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", HOST_SILENT_SECONDS // 3),
            ("TCP_KEEPINTVL", HOST_SILENT_SECONDS // 3),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", HOST_SILENT_SECONDS * 1000),
        )
        if hasattr(socket, name)  # not on every system
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """To a host: its socket (then `tls` is unused, but costly to make for each connection), or TLS."""

    base_url: str
    tls: ssl.SSLContext
    socket_path: str | None = None
    token: str | None = None


class _Connections(httpx2.AsyncBaseTransport):
    """A pool whose cost does not grow with its size: a stack of one-connection transports.

    The library's own pool looks at every connection for every request, which at a thousand waiting
    calls takes milliseconds each.
    """

    def __init__(self, way: "_Way", *, connections_max: int) -> None:
        self._way = way
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
            uds=self._way.socket_path,
            limits=limits,
            verify=self._way.tls,
            trust_env=False,
            socket_options=None if self._way.socket_path else _KEEP_ALIVE,
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
        """Of the host on a unix socket of this machine."""
        self._take(
            _Way(
                base_url="http://hands",
                socket_path=str(socket_path),
                token=token,
                tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        )

    @classmethod
    def over_tls(cls, base_url: str, *, tls: ssl.SSLContext) -> "HandsClient":
        """Of the host at `https://host:port`; `tls` holds our certificate and the authority of its own."""
        client = cls.__new__(cls)
        client._take(_Way(base_url=base_url.rstrip("/"), tls=tls))
        return client

    def _take(self, way: _Way) -> None:
        headers = {"content-type": "application/json"}
        if way.token is not None:
            headers["authorization"] = f"Bearer {way.token}"

        def http(connections_max: int) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(
                transport=_Connections(way, connections_max=connections_max),
                base_url=f"{way.base_url}{wire.PREFIX}",
                headers=headers,
                timeout=_SOON,
                trust_env=False,
            )

        self._shown = way.socket_path or way.base_url
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
        body = {"session_id": session_id, "epoch": epoch, "recipe": asdict(recipe)}
        await self._post("/provision", body)

    async def missing(self, session_id: SessionId, *, epoch: int, recipe: Recipe) -> Sequence[str]:
        """Ids of the mounts of the recipe that the host lacks."""
        body = {"session_id": session_id, "epoch": epoch, "recipe": asdict(recipe)}
        missing: list[str] = (await self._post("/missing", body))["missing"]
        return missing

    async def put_mount(
        self,
        session_id: SessionId,
        mount: Mount,
        archive: AsyncIterator[bytes],
        *,
        epoch: int,
        placed_at: int | None = None,
    ) -> None:
        """Bring a mount; see `HeldWorkspaces.put_mount`. What `archive` raises ends it, and is raised."""
        said = orjson.dumps({"mount": mount, "epoch": epoch, "placed_at": placed_at}).decode()
        path = f"/mounts/{session_id}?{urlencode({'put': said})}"
        await self._send(self._work, "PUT", path, content=archive, timeout=_WHENEVER)

    async def execute(self, call: ToolCall, *, epoch: int, placed_at: int | None = None) -> ToolResult:
        """placed_at: only in the workspace of this placement; raises WorkspaceMissing."""
        return await self._call("/execute", call, epoch=epoch, placed_at=placed_at)

    async def attach(self, call: ToolCall, *, epoch: int, forbids: bool = False) -> ToolResult:
        """forbids: if it raises NeverStarted, the call never will start there."""
        return await self._call("/attach", call, epoch=epoch, forbids=forbids)

    async def cancel(self, session_id: SessionId, *, epoch: int, call_ids: Sequence[EventId]) -> None:
        await self._post("/cancel", {"session_id": session_id, "epoch": epoch, "call_ids": list(call_ids)})

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        fields = {
            "session_id": session_id,
            "epoch": epoch,
            "servers": list(servers),
            "only_changed": only_changed,
        }
        body = orjson.dumps(fields)
        answer = await self._send(self._work, "POST", "/tools", content=body, timeout=_LISTED)
        try:
            return wire.decode_listings(answer, servers)
        except (KeyError, TypeError, ValueError) as error:
            raise HandsUnavailable("the hands host sent an answer that cannot be read") from error

    async def settle(self, session_id: SessionId, *, call_ids: Sequence[EventId]) -> None:
        await self._post("/settle", {"session_id": session_id, "call_ids": list(call_ids)})

    # -- for the server, the supervisor and the command line --------------------------------------------

    async def health(self) -> dict[str, Json]:
        """`{"role", "pid", "version", "protocol", "host_id", "journal_id", "is_supervised", "capacity",
        "sandboxes", "calls", "disk_free_bytes", "is_draining"}`. Raises HandsUnavailable."""
        health: dict[str, Json] = orjson.loads(await self._send(self._control, "GET", "/health"))
        self._learn(health)
        return health

    async def probe(self) -> Probe:
        """Whether a sandbox can be made there; believed for seconds. Raises HandsUnavailable."""
        reply = await self._send(self._control, "GET", "/probe", timeout=_WHENEVER)
        return wire.decode_probe(reply)

    async def sandboxes(self) -> list[LiveSandbox]:
        return [
            wire.decode_known(LiveSandbox, item)
            for item in orjson.loads(await self._send(self._control, "GET", "/sandboxes"))["data"]
        ]

    async def release(self, session_id: SessionId, *, delete_workspace: bool) -> None:
        """The session ended, or was deleted. Repeat: safe. Raises HandsUnavailable."""
        await self._post("/release", {"session_id": session_id, "delete_workspace": delete_workspace})

    async def import_workspace(self, session_id: SessionId, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream. Raises InvalidRequest, RequestTooLarge, NotFound, SandboxUnavailable."""
        await self._send(self._work, "PUT", f"/workspaces/{session_id}", content=archive, timeout=_WHENEVER)

    def export_workspace(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """A tar stream of the workspace; HandsUnavailable in its middle means that it is not whole."""
        return self._stream(f"/workspaces/{session_id}")

    # -- placements, for the router and the host's own node ----------------------------------------------

    async def hold(self, session_id: SessionId, *, placed_at: int) -> Placement:
        """Whether the session's next call may come. Raises WorkspaceMissing (restore it first),
        SandboxUnavailable (not here and no new ones are taken), HandsUnavailable."""
        return self._learn(await self._post("/hold", {"session_id": session_id, "placed_at": placed_at}))

    async def restore(
        self,
        session_id: SessionId,
        archive: AsyncIterator[bytes] | None,
        *,
        placed_at: int,
        restored: wire.Restored,
    ) -> None:
        """Put the workspace of a placement in place; see `HeldWorkspaces.restore`. What `archive` raises
        ends it without a trace. Raises InvalidRequest, SandboxUnavailable, LeaseLost, HandsUnavailable."""
        query = urlencode({"placed_at": placed_at, **asdict(restored)})
        path = f"/packed/{session_id}?{query}"
        await self._send(self._work, "PUT", path, content=archive or b"", timeout=_WHENEVER)

    def pack(self, session_id: SessionId) -> AsyncIterator[bytes]:
        """What `restore` takes, as a stream; HandsUnavailable in its middle means that it is not whole."""
        return self._stream(f"/packed/{session_id}")

    async def held(self, *, with_disk: bool = False, only_recent: bool = False) -> list[HeldWorkspace]:
        """Every workspace that lies there. only_recent: see `HeldWorkspaces.all`."""
        path = f"/workspaces?disk={int(with_disk)}&recent={int(only_recent)}"
        data = await self._send(self._control, "GET", path, timeout=_WHENEVER)
        return [wire.decode_known(HeldWorkspace, item) for item in orjson.loads(data)["data"]]

    # -- trees that agents write, see `tree_access` ------------------------------------------------------

    async def tree(self, session_id: SessionId, place: str) -> TreeNews:
        """Raises NotFound: no such tree lies there."""
        path = f"/trees/{session_id}?{urlencode({'place': place})}"
        data = bytearray()
        async with contextlib.aclosing(self._stream(path, timeout=_LONG)) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > TREE_REPLY_BYTES_MAX:
                    raise HandsUnavailable("the hands host says too much of a tree", detail=self._shown)
        return await asyncio.to_thread(wire.decode_tree, bytes(data))

    def tree_file(self, session_id: SessionId, place: str, path: str) -> AsyncGenerator[bytes, None]:
        """The content of a file; HandsUnavailable in its middle: it was changed meanwhile. Raises
        NotFound."""
        query = urlencode({"place": place, "path": wire.encode_path(path)})
        return self._stream(f"/trees/{session_id}/file?{query}")

    async def note_tree(
        self, session_id: SessionId, place: str, note: dict[str, Json], *, instead_of: int
    ) -> None:
        """Keep what was made of a tree, if nobody else did since. Raises Conflict, NotFound."""
        body = {"place": place, "note": note, "instead_of": instead_of}
        await self._send(
            self._work, "PUT", f"/trees/{session_id}", content=orjson.dumps(body), timeout=_LONG
        )

    async def apply_tree(
        self,
        session_id: SessionId,
        place: str,
        change: dict[str, Json],
        *,
        epoch: int,
        placed_at: int | None = None,
    ) -> dict[str, Json]:
        """See `Trees.apply`. Raises InvalidRequest, NotFound, LeaseLost, WorkspaceMissing,
        SandboxUnavailable."""
        body = {"place": place, "epoch": epoch, "placed_at": placed_at, "change": change}
        path = f"/trees/{session_id}"
        reply = await self._send(self._work, "POST", path, content=orjson.dumps(body), timeout=_LONG)
        applied: dict[str, Json] = orjson.loads(reply)
        return applied

    async def keep(self, session_id: SessionId, *, changes: int, only_check: bool = False) -> None:
        """A checkpoint covers so many changes. Raises Conflict if there were more meanwhile."""
        body = {"session_id": session_id, "changes": changes, "only_check": only_check}
        await self._post("/keep", body)

    async def evict(
        self,
        session_id: SessionId,
        *,
        changes: int | None = None,
        placed_at: int | None = None,
        keeps_files: bool = False,
    ) -> None:
        """See `HeldWorkspaces.evict`. Raises Conflict, HandsUnavailable."""
        body = {
            "session_id": session_id,
            "changes": changes,
            "placed_at": placed_at,
            "keeps_files": keeps_files,
        }
        await self._post("/evict", body)

    async def drain(self, *, is_draining: bool = True) -> None:
        """Take no new sessions there, or take them again."""
        await self._post("/drain", {"is_draining": is_draining})

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

    async def _stream(
        self, path: str, *, timeout: httpx2.Timeout = _WHENEVER
    ) -> AsyncGenerator[bytes, None]:
        with self._reachable():
            async with self._work.stream("GET", path, timeout=timeout) as response:
                if response.status_code != 200:
                    raise wire.decode_error(await response.aread())
                async for chunk in response.aiter_bytes():
                    yield chunk

    async def _call(
        self,
        path: str,
        call: ToolCall,
        *,
        epoch: int,
        placed_at: int | None = None,
        forbids: bool = False,
    ) -> ToolResult:
        content = wire.encode_call(call, epoch=epoch, placed_at=placed_at, forbids=forbids)
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
            if (untrusted := why_tls_failed(error, self._shown)) is not None:
                raise untrusted from error
            raise HandsUnavailable(
                f"the hands host does not answer ({type(error).__name__})", detail=self._shown
            ) from error

    def _learn(self, identity: dict[str, Json]) -> Placement:
        self._placement = wire.decode_placement(identity)
        return self._placement
