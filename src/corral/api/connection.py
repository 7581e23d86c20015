"""One client's connection, with the bounds that uvicorn leaves open.

A head is whole in time or refused (408), and small (431). A body that nobody waits for any more is read
on for a moment, so that its sender comes to see the answer. An answer that nobody takes is given up. How
fast a body has to come is the gate's (`gate.py`), which counts only while a route waits for it.

What is refused here has not reached any route. An answer in progress is never disturbed: what follows it on
the connection is dropped, and the connection ends with it. A wish for another protocol is passed over, as
HTTP allows (RFC 9110, 7.8): some clients have one with each request.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from corral.api.errors import envelope
from corral.kernel.ids import REQUEST, Ids
from corral.kernel.limits import (
    HTTP_HEAD_BYTES_MAX,
    HTTP_HEAD_SECONDS,
    HTTP_HEADERS_MAX,
    HTTP_LINGER_SECONDS,
    HTTP_READ_BYTES,
    HTTP_STALL_SECONDS,
)
from corral.kernel.metrics import count

__all__ = ["Connection", "Receiver"]

# For what is just coming, on whichever connection. A view: asyncio's TLS reads into parts of it.
_ROOM: Final = memoryview(bytearray(HTTP_READ_BYTES))
_OF_UPGRADES = frozenset({b"connection", b"upgrade", b"http2-settings"})


class _HeadTooLarge(Exception):
    pass


class Connection(HttpToolsProtocol):
    """`uvicorn.Config(http=Receiver, ws="none")`."""

    _is_in_body = False
    _is_deaf = False  # nothing that comes is looked at any more
    _is_read_again = False  # a request, as one that does not ask for another protocol
    _head_bytes = 0  # read since the last head was whole, bodies aside
    _answering: RequestResponseCycle | None = None  # `cycle` is the last one read, which may have to wait
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    # -- the transport ------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
            # Head and body of an answer are two packets: else the second waits 40 ms for the first one's
            # acknowledgement. asyncio sees to that only if the listener names its protocol.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._within(HTTP_HEAD_SECONDS, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if not self._is_in_body:
            self._head_bytes += len(data)
            self._within(HTTP_HEAD_SECONDS, self._head_is_late)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            self._pass_over_upgrade(data[asked.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLarge):
                self._refuse_large_head()
            else:
                self._refuse(400, f"This is no valid HTTP/1.1 request: {error}"[:200])
        else:
            if not self._is_in_body and self._head_bytes > HTTP_HEAD_BYTES_MAX:
                self._refuse_large_head()

    def connection_lost(self, exc: Exception | None) -> None:
        answering, self._is_deaf = self._answering, True
        self._waits_no_more()
        self.resume_writing()
        self.pipeline.clear()
        super().connection_lost(exc)
        if answering is not None and not answering.response_complete:
            _disconnect(answering)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(HTTP_STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # -- the parser ---------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._within(HTTP_HEAD_SECONDS, self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_body:  # trailers are nothing that a request may be judged by (RFC 9110, 6.5)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HTTP_HEAD_BYTES_MAX or len(self.headers) > HTTP_HEADERS_MAX:
            raise _HeadTooLarge
        if self.parser.should_upgrade():
            return
        self._head_bytes, self._is_in_body = 0, True
        self._waits_no_more()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._is_in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:  # what was left of its body has come, too
            self._waits_no_more()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # -- requests ------------------------------------------------------------------------------------
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # as soon as the answer is taken
            self._waits_no_more()
            self._within(HTTP_LINGER_SECONDS, self.transport.abort)
        elif self._is_in_body and self.cycle.response_complete:
            self._within(HTTP_LINGER_SECONDS, self.transport.close)

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Read the request again as one that does not ask for another protocol. One at a time: each costs
        a look at all that came with it."""
        if self._is_read_again:
            self._refuse(400, "Upgrade: wait for the answer before another request asks for a protocol")
            return
        method = self.parser.get_method()
        if method == b"CONNECT":  # would come out the same again
            self._refuse(400, "CONNECT: this is no proxy")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name not in _OF_UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._is_read_again = True
        try:
            self.data_received(b"\r\n".join([*lines, b"", rest]))
        finally:
            self._is_read_again = False

    # -- bounds --------------------------------------------------------------------------------------
    def _within(self, seconds: float, otherwise: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, otherwise)

    def _waits_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if self._head_bytes == 0 and self._answering is None:  # nothing was asked, and nothing is answered
            self.transport.close()
        else:
            self._refuse(408, f"The head of the request was not there within {HTTP_HEAD_SECONDS:g} s")

    def _refuse_large_head(self) -> None:
        self._refuse(
            431, f"The head of a request has at most {HTTP_HEAD_BYTES_MAX} bytes, {HTTP_HEADERS_MAX} lines"
        )

    def _refuse(self, status: int, message: str) -> None:
        """Answer what has reached no route, behind what has; then the connection ends."""
        self._is_deaf = True
        self._waits_no_more()
        self.pipeline.clear()
        answering, is_started = self._answering, False
        if answering is not None and not answering.response_complete:
            if not self._is_in_body or answering is not self.cycle:
                answering.keep_alive = False  # it came whole: it gets its answer, and is the last
                self.flow.resume_reading()  # or nobody would notice that the client goes away
                return
            is_started = answering.response_started
            _disconnect(answering)
        if not is_started:
            self._write_refusal(status, message)
        if is_started or not self.transport.can_write_eof():
            self.transport.close()
        else:  # closing at once would reset the connection under whoever still sends, the answer with it
            self.transport.write_eof()
        self._within(HTTP_LINGER_SECONDS, self.transport.abort)

    def _write_refusal(self, status: int, message: str) -> None:
        request_id = Ids().mint(REQUEST)
        wire_type = "timeout_error" if status == 408 else "invalid_request_error"
        body = envelope(wire_type, message, request_id)
        count("http_requests", status="4xx")
        self.logger.info("%d %s (%s)", status, message, request_id)
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nrequest-id: %b\r\n"
            b"connection: close\r\n\r\n" % (len(body), request_id.encode())
        )
        self.transport.write(STATUS_LINE[status] + head + body)


class Receiver(asyncio.BufferedProtocol):
    """Reads for a connection, and leaves nothing of it behind: a secret may be in it, and a loop's own
    buffer keeps what came until as much comes again. Takes what `uvicorn` says to a protocol."""

    def __init__(self, **said: Any) -> None:
        self._connection = Connection(**said)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ROOM

    def buffer_updated(self, nbytes: int) -> None:
        came = bytes(_ROOM[:nbytes])
        _ROOM[:nbytes] = bytes(nbytes)
        self._connection.data_received(came)

    def eof_received(self) -> None:
        self._connection.eof_received()


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
