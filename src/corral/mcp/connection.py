"""One connection to one MCP server: the SDK's client, in a task of its own.

The SDK runs its connections in task groups, which have to be entered and left by one task: so that task
does nothing else, and whoever asks waits for the answer or for the end of that task, whichever comes first.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar

from corral import __version__
from corral.catalog.mcp.servers import McpServer
from corral.catalog.mcp.tools import listed
from corral.kernel.limits import (
    MCP_CALL_SECONDS_MAX,
    MCP_CALL_SILENT_SECONDS,
    MCP_CLOSE_SECONDS,
    MCP_EVENT_BYTES_MAX,
    MCP_LIST_SECONDS,
    MCP_PAGES_MAX,
)
from corral.mcp.failed import ServerFailed, Stage, words
from corral.mcp.sdk import Sdk
from corral.mcp.way import NOTES, Notes, Way
from corral.session.content import Json

__all__ = ["Connection", "Refused"]

T = TypeVar("T")

_HAS_NO_SUCH_TRANSPORT: Final = (400, 404, 405, 406, 415, 501)
"""What a server of the older transport answers to a POST of the newer one; so says the specification."""
_ASKS_WHO_WE_ARE: Final = (401, 403)
_UNSAID: Final = "Server returned an error response"  # the SDK's word for an answer that says nothing more


class Refused(Exception):
    """The server answered a request with an error. The message is the server's, bounded."""


class Connection:
    """Open it once, then ask it side by side. Close it."""

    def __init__(
        self,
        server: McpServer,
        way: Way,
        sdk: Sdk,
        *,
        silent_seconds: float = MCP_CALL_SILENT_SECONDS,
    ) -> None:
        self.server = server
        self._way = way
        self._sdk = sdk
        self._silent_seconds = silent_seconds
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Any = None
        self._session: Any = None
        self._listening: asyncio.Task[None] | None = None
        self.is_listed = False
        """Its tools were asked for here, and nothing was heard since of their having changed."""

    @property
    def is_open(self) -> bool:
        return self._session is not None and self._task is not None and not self._task.done()

    async def open(self) -> None:
        """Raises ServerFailed; whoever gives up on it closes it."""
        for transport in ("streamable", "sse"):
            opened = asyncio.Event()
            with _noted() as notes:
                self._task = asyncio.create_task(self._live(transport, opened), name="mcp-connection")
                waiting = asyncio.create_task(opened.wait())
                try:
                    await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
            if opened.is_set():
                return
            if self._task.done() and not self._task.cancelled():
                self._task.exception()  # what is wrong was noted; the log is not for what servers say
            if notes.trouble is not None or notes.status not in _HAS_NO_SUCH_TRANSPORT:
                break
        raise self._lost("before", notes)

    async def close(self) -> None:
        """Say goodbye, for MCP_CLOSE_SECONDS at most. Repeat: safe."""
        self._ending.set()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=MCP_CLOSE_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def list_tools(self) -> tuple[Mapping[str, Json], ...]:
        """As `catalog.mcp.tools.listed`. Raises ServerFailed."""
        found: list[tuple[str, str | None, Json]] = []
        cursor: str | None = None
        self._listen()
        self.is_listed = True  # before it is asked: what it says meanwhile may come too late for its answer
        try:
            with self._explained() as notes:
                for _ in range(MCP_PAGES_MAX):
                    params = self._sdk.types.PaginatedRequestParams(cursor=cursor)
                    page = await self._answered(self._session.list_tools(params=params), "before", notes)
                    found += [(tool.name, tool.description, tool.input_schema) for tool in page.tools]
                    cursor = page.next_cursor
                    if not cursor:
                        break
        except BaseException:
            self.is_listed = False
            raise
        return listed(found)

    async def call(self, name: str, arguments: Mapping[str, Json]) -> Any:
        """The SDK's `CallToolResult`. Progress keeps a call alive, up to MCP_CALL_SECONDS_MAX.

        Raises ServerFailed, Refused, TimeoutError. Cancelling it tells the server.
        """
        loop = asyncio.get_running_loop()
        latest = loop.time() + MCP_CALL_SECONDS_MAX
        async with asyncio.timeout(self._silent_seconds) as patience:

            async def go_on(progress: float, total: float | None, message: str | None) -> None:
                if not patience.expired():
                    patience.reschedule(min(loop.time() + self._silent_seconds, latest))

            types = self._sdk.types
            asked = self._session.send_request(
                types.CallToolRequest(
                    params=types.CallToolRequestParams(name=name, arguments=dict(arguments))
                ),
                self._sdk.called,
                request_read_timeout_seconds=2 * MCP_CALL_SECONDS_MAX,
                progress_callback=go_on,
            )
            try:
                with _noted() as notes:
                    result = await self._answered(asked, "unknown", notes)
            except self._sdk.error as error:
                raise self._refused(error, notes) from None
            except (ValueError, RuntimeError) as error:  # pydantic's among them
                raise ServerFailed(
                    self.server, "sent a result that does not follow MCP.", stage="unknown"
                ) from error
        if not isinstance(result, types.CallToolResult):
            raise Refused("It asks for input before it goes on, which is not possible here.")
        return result

    # -- the task -------------------------------------------------------------------------------------

    async def _live(self, transport: Literal["streamable", "sse"] | str, opened: asyncio.Event) -> None:
        async with self._streams(transport) as streams:
            client = self._sdk.client(
                streams,
                cache=None,
                read_timeout_seconds=MCP_LIST_SECONDS,
                client_info=self._sdk.types.Implementation(name="corral", version=__version__),
                mode="auto" if transport == "streamable" else "legacy",
                message_handler=self._hear,
            )
            async with client:
                self._client, self._session = client, client.session
                opened.set()
                try:
                    await self._ending.wait()
                finally:
                    if self._listening is not None:
                        self._listening.cancel()
                        await asyncio.gather(self._listening, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _streams(self, transport: str) -> AsyncIterator[Any]:
        url = self.server.url
        if transport == "sse":
            yield self._sdk.sse_client(url, httpx_client_factory=lambda **_: self._way.client())
            return
        async with self._way.client() as http:
            yield self._sdk.streamable_http_client(
                url, http_client=http, max_sse_event_size=MCP_EVENT_BYTES_MAX
            )

    # -- what it says unasked ----------------------------------------------------------------------------

    async def _hear(self, message: Any) -> None:
        if isinstance(message, self._sdk.types.ToolListChangedNotification):
            self.is_listed = False

    def _listen(self) -> None:
        """A server of the newer protocol says what changes only to who asks for it, in an answer without an
        end; one of the older sends it to everybody. Repeat: asks again if that has ended."""
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listened(), name="mcp-listening")
            self._listening.add_done_callback(_passed_over)

    async def _listened(self) -> None:
        capabilities = self._session.server_capabilities
        if capabilities is None or capabilities.tools is None or not capabilities.tools.list_changed:
            return
        with _noted():  # what becomes of it says nothing of any other request
            try:
                async with self._client.listen(tools_list_changed=True) as changes:
                    if not changes.honored.tools_list_changed:
                        return
                    try:
                        async for _ in changes:
                            pass  # `_hear` has it, too
                    finally:
                        self.is_listed = False  # whatever it says now is not heard
            except (self._sdk.error, RuntimeError, TimeoutError):
                pass  # it speaks the older protocol, does not do as it says, or the way to it broke

    # -- one request ------------------------------------------------------------------------------------

    async def _answered(self, asked: Coroutine[Any, Any, T], stage: Stage, notes: Notes) -> T:
        """The answer. Raises ServerFailed when the connection ends before."""
        assert self._task is not None
        asking = asyncio.ensure_future(asked)
        try:
            await asyncio.wait({asking, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                # Its end fails what waits for answers; give that a moment to say so.
                await asyncio.wait({asking}, timeout=0.1)
            if not asking.done():
                raise self._lost(stage, notes)
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()  # the SDK tells the server
                await asyncio.wait({asking}, timeout=MCP_CLOSE_SECONDS)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[Notes]:
        """Of requests that change nothing: whatever goes wrong is the server's failure."""
        try:
            with _noted() as notes:
                yield notes
        except self._sdk.error as error:
            raise self._lost("before", notes, said=error.message) from None
        except (ValueError, RuntimeError) as error:
            raise ServerFailed(self.server, "lists its tools in a way that does not follow MCP.") from error

    def _refused(self, error: Any, notes: Notes) -> Exception:
        """What an error in answer to a call means."""
        is_closed = error.message == "Connection closed" or error.message.startswith("SSE stream ")
        if notes.is_forgotten and not is_closed:
            return ServerFailed(self.server, "has forgotten the connection.", stage="refused")
        if notes.trouble is not None or (notes.status is not None and not _is_said(error)):
            return self._lost("unknown", notes)
        if is_closed:
            return ServerFailed(self.server, "broke off its answer.", stage="unknown")
        return Refused(words(error.message))

    def _lost(self, stage: Stage, notes: Notes, *, said: str = "") -> ServerFailed:
        """What was noted, or else the end of the task, says why."""
        if notes.trouble in ("refused", "unreachable", "unauthorized"):
            is_authentication = notes.trouble == "unauthorized"
            return ServerFailed(
                self.server, f"{notes.detail}.", stage="before", is_authentication=is_authentication
            )
        if notes.trouble is not None:
            return ServerFailed(self.server, f"{notes.detail}.", stage=stage)
        if notes.status in _ASKS_WHO_WE_ARE:
            return ServerFailed(
                self.server,
                f"does not take credential {notes.credential_id} (HTTP {notes.status})."
                if notes.credential_id
                else f"asks for a credential (HTTP {notes.status}).",
                stage="refused",
                is_authentication=True,
            )
        if notes.status is not None:
            return ServerFailed(self.server, f"answered with HTTP {notes.status}.", stage=stage)
        if said.startswith("Failed to parse"):  # and then all of what it was
            return ServerFailed(self.server, "sent what does not follow MCP.", stage=stage)
        if said:
            return ServerFailed(self.server, f"said: {words(said)}", stage=stage)
        return ServerFailed(self.server, "does not speak MCP, or ended the connection.", stage=stage)


def _is_said(error: Any) -> bool:
    """Whether the server itself gave this error: an answer with a status may hold one."""
    return bool(error.message != _UNSAID)


@contextlib.contextmanager
def _noted() -> Iterator[Notes]:
    """Whatever is asked from within makes notes."""
    token = NOTES.set(notes := Notes())
    try:
        yield notes
    finally:
        NOTES.reset(token)


def _passed_over(ended: "asyncio.Task[None]") -> None:
    """What went wrong there may have a server's words in it, which belong into no log."""
    if not ended.cancelled():
        ended.exception()
