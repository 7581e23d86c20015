"""`corral.hands.ports.Connector`: the MCP servers of all sessions of a host."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from corral.catalog.mcp.servers import McpServer, McpTools
from corral.hands.running import RunningCalls
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    MCP_CALL_SILENT_SECONDS,
    MCP_CONNECTIONS_MAX,
    MCP_IDLE_SECONDS,
    MCP_LIST_SECONDS,
)
from corral.mcp import sdk
from corral.mcp.connection import Connection, Refused
from corral.mcp.failed import ServerFailed
from corral.mcp.results import tool_result
from corral.mcp.way import Roads
from corral.session.call import ToolCall
from corral.session.content import ToolResult

__all__ = ["McpConnector"]

_log = logging.getLogger(__name__)
_UNKNOWN: Final = (
    "The outcome of this tool call is unknown: it may have happened, in part or in full. Check before you"
    " repeat it."
)
_Key = tuple[SessionId, McpServer]


@dataclass(kw_only=True, slots=True, eq=False)
class _Kept:
    """A connection, or the place of one that is being made. users: requests over it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None
    users: int = 0
    used_at: float = 0.0


class McpConnector:
    """Of one host. Close it with `aclose`."""

    def __init__(
        self,
        roads: Roads,
        *,
        silent_seconds: float = MCP_CALL_SILENT_SECONDS,
        list_seconds: float = MCP_LIST_SECONDS,
        idle_seconds: float = MCP_IDLE_SECONDS,
        connections_max: int = MCP_CONNECTIONS_MAX,
    ) -> None:
        self._roads = roads
        self._silent_seconds = silent_seconds
        self._list_seconds = list_seconds
        self._idle_seconds = idle_seconds
        self._connections_max = connections_max
        self._kept: dict[_Key, _Kept] = {}
        self._running = RunningCalls()
        self._reaper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Open now, or being made."""
        return len(self._kept)

    async def run(self, call: ToolCall) -> ToolResult:
        return await self._running.run(call.call_id, self._call(call))

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, only_changed: bool = False
    ) -> Sequence[McpTools]:
        wanted = [each for each in servers if not (only_changed and self._is_listed(session_id, each))]
        return await asyncio.gather(*(self._list(session_id, server) for server in wanted))

    async def cancel(self, call_id: str) -> None:
        self._running.cancel(call_id)

    async def forget(self, session_id: SessionId) -> None:
        await self._close([key for key in self._kept if key[0] == session_id])

    async def aclose(self) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.gather(self._reaper, return_exceptions=True)
        await self._running.aclose()
        await self._close(list(self._kept))

    # -- one request ------------------------------------------------------------------------------------

    async def _call(self, call: ToolCall) -> ToolResult:
        assert call.mcp is not None
        server, tool = call.mcp.server, call.mcp.tool
        try:
            for is_last in (False, True):
                try:
                    async with self._using(call.session_id, server) as connection:
                        return tool_result(await connection.call(tool, call.input))
                except ServerFailed as failed:
                    if failed.stage != "refused" or failed.is_authentication or is_last:
                        raise
                    await self._close([(call.session_id, server)])  # it did nothing, and knows us no more
            raise AssertionError("unreachable")
        except Refused as refused:
            return ToolResult.text(
                f"The MCP server {server.name!r} refused the call: {refused}", is_error=True
            )
        except TimeoutError:
            return ToolResult.text(
                f"The MCP server {server.name!r} was silent for {self._silent_seconds:g} s. {_UNKNOWN}",
                is_error=True,
            )
        except ServerFailed as failed:
            return _failure(failed)

    def _is_listed(self, session_id: SessionId, server: McpServer) -> bool:
        """Whether its tools are those that were last listed. Without the connection over which they were,
        nothing would have been heard."""
        kept = self._kept.get((session_id, server))
        connection = None if kept is None else kept.connection
        return connection is not None and connection.is_open and connection.is_listed

    async def _list(self, session_id: SessionId, server: McpServer) -> McpTools:
        try:
            try:
                async with (
                    asyncio.timeout(self._list_seconds),
                    self._using(session_id, server) as connection,
                ):
                    return McpTools(server=server, tools=await connection.list_tools())
            except TimeoutError:
                raise ServerFailed(
                    server, f"did not list its tools within {self._list_seconds:g} s."
                ) from None
        except ServerFailed as failed:
            await self._close([(session_id, server)])
            return McpTools(server=server, error=failed.error())
        except Exception:  # the boundary of a server: what its answers do to the SDK ends nothing else
            _log.exception("listing the tools of an MCP server of %s failed", session_id)
            broken = ServerFailed(server, "could not be understood.")
            return McpTools(server=server, error=broken.error())

    # -- connections --------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _using(self, session_id: SessionId, server: McpServer) -> AsyncIterator[Connection]:
        """A connection that is open. Raises ServerFailed."""
        if not server.url:
            raise ServerFailed(server, "is not one of the session's any more.")
        key = (session_id, server)
        await self._make_room(key)
        kept = self._kept.setdefault(key, _Kept())
        kept.users += 1
        try:
            async with kept.lock:
                if kept.connection is not None and not kept.connection.is_open:
                    await kept.connection.close()
                    kept.connection = None
                if kept.connection is None:
                    kept.connection = await self._opened(session_id, server)
                connection = kept.connection
            yield connection
        finally:
            kept.users -= 1
            kept.used_at = asyncio.get_running_loop().time()
            if kept.connection is None and not kept.users and self._kept.get(key) is kept:
                del self._kept[key]
            self._watch()

    async def _opened(self, session_id: SessionId, server: McpServer) -> Connection:
        loaded = await asyncio.to_thread(sdk.load)
        way = self._roads.way(session_id, server)
        connection = Connection(server, way, loaded, silent_seconds=self._silent_seconds)
        try:
            async with asyncio.timeout(self._list_seconds):
                await connection.open()
        except BaseException as error:
            await connection.close()
            if isinstance(error, TimeoutError):
                raise ServerFailed(server, f"did not answer within {self._list_seconds:g} s.") from None
            raise
        return connection

    async def _make_room(self, key: _Key) -> None:
        """Close the longest idle one if there are too many. Raises ServerFailed."""
        if key in self._kept or len(self._kept) < self._connections_max:
            return
        idle = [other for other, kept in self._kept.items() if not kept.users]
        if not idle:
            raise ServerFailed(key[1], "cannot be reached now: too many connections are busy.")
        await self._close([min(idle, key=lambda other: self._kept[other].used_at)])

    def _watch(self) -> None:
        if self._kept and (self._reaper is None or self._reaper.done()):
            self._reaper = asyncio.create_task(self._reap(), name="mcp-reaper")

    async def _reap(self) -> None:
        """Close what is idle for too long, while there is anything."""
        while self._kept:
            await asyncio.sleep(self._idle_seconds / 4)
            oldest = asyncio.get_running_loop().time() - self._idle_seconds
            idle = [key for key, kept in self._kept.items() if not kept.users and kept.used_at <= oldest]
            await self._close(idle)

    async def _close(self, keys: Sequence[_Key]) -> None:
        gone = [kept for key in keys if (kept := self._kept.pop(key, None)) is not None]
        closing = [kept.connection.close() for kept in gone if kept.connection is not None]
        await asyncio.gather(*closing, return_exceptions=True)


def _failure(failed: ServerFailed) -> ToolResult:
    said = {
        "before": "The call was not made.",
        "refused": "The call was not made.",
        "unknown": _UNKNOWN,
    }[failed.stage]
    content = ({"type": "text", "text": f"{failed.error()['message']} {said}"},)
    return ToolResult(content=content, is_error=True, trouble=failed.error())
