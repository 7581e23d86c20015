"""The only way out of a sandbox: a proxy that the program inside asks for a connection to a host.

    program --CONNECT host:443--> listening socket, made inside, handed to us --Way--> egress --> host

Rules of this file:
- The egress process decides about every host, redirects included; whoever runs the program may allow fewer.
- Each connection of the program carries one request: a CONNECT, or one for http: with its answer.
- Everything is counted and bounded; after a bound all connections end.
- It remembers the first thing that went wrong: the program only sees a connection that fails.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from corral.confine.way import NoWay, Trouble, Way
from corral.kernel.hosts import canonical_host
from corral.kernel.limits import (
    CREDENTIALS_WAIT_SECONDS,
    EGRESS_CONNECT_SECONDS,
    TUNNEL_CONNECTIONS_MAX,
    TUNNEL_HEAD_BYTES,
    TUNNEL_HEAD_SECONDS,
)

__all__ = ["Tunnel"]

_CONNECT: Final = re.compile(
    rb"CONNECT ([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5}) HTTP/1\.[01]\r\n"
)
_PLAIN: Final = re.compile(  # a request for http:, which a proxy is asked for whole
    rb"(?:GET|HEAD) http://([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?/[^ \r\n]*"
    rb" HTTP/1\.[01]\r\n"
)
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([^\r\n]*)")
_REFUSAL: Final = re.compile(r"\S+ (is blocked|cannot be reached): ")  # in the egress process's words
_CONNECT_SECONDS: Final = 4 * EGRESS_CONNECT_SECONDS + CREDENTIALS_WAIT_SECONDS  # resolved, dialled; twice
_HOP: Final = re.compile(rb"^(?:proxy-)?connection:[^\r\n]*\r\n", re.I | re.M)
_HTTP_PORT: Final = 80
_CHUNK_BYTES: Final = 256 * 1024


class Tunnel:
    """Of one program. allows: host (canonical) and port.

    bytes_max, sent_bytes_max: that its connections may receive and send together, TLS and all.
    silent_seconds: for so long a host may leave a question unanswered.
    trouble, detail: the first thing that went wrong.
    """

    def __init__(
        self,
        way: Way,
        *,
        bytes_max: int,
        sent_bytes_max: int,
        silent_seconds: float,
        allows: Callable[[str, int], bool] = lambda host, port: True,
        connections_max: int = TUNNEL_CONNECTIONS_MAX,
    ) -> None:
        self._way = way
        self._allows = allows
        self._bytes_max = bytes_max
        self._sent_bytes_max = sent_bytes_max
        self._connections_max = connections_max
        self._silent_seconds = silent_seconds
        self.received_bytes = 0
        self._sent_bytes = 0
        self._connections: set[asyncio.Task[None]] = set()
        self.trouble: Trouble | None = None
        self.detail = ""

    @asynccontextmanager
    async def door(self) -> AsyncGenerator[int, None]:
        """The descriptor through which the program inside hands us its listening socket. Ours, and closed
        afterwards, as are all connections."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        serving = asyncio.create_task(self._serve(ours), name="tunnel")
        try:
            yield theirs.fileno()
        finally:
            theirs.close()
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            ours.close()

    def _note(self, trouble: Trouble, detail: str) -> None:
        if self.trouble in (None, "cut_off"):
            self.trouble, self.detail = trouble, detail

    async def _serve(self, ours: socket.socket) -> None:
        listener = await _received(ours)
        if listener is None:
            return
        server = await asyncio.start_server(self._accept, sock=listener, limit=TUNNEL_HEAD_BYTES)
        try:
            ours.send(b".")
            await asyncio.Event().wait()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._connections_max:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it went away, or spoke no HTTP
        except asyncio.CancelledError:
            pass  # the program is gone: nobody is there to hear of it
        finally:
            self._connections.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(TUNNEL_HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        if (asked := _CONNECT.match(head)) is not None:
            where = asked[1] + b":" + asked[2]
            request = b"CONNECT " + where + b" HTTP/1.1\r\nHost: " + where + b"\r\n\r\n"
        elif (asked := _PLAIN.match(head)) is not None:
            request = head[: asked.end()] + b"Connection: close\r\n" + _HOP.sub(b"", head[asked.end() :])
        else:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        host, port = canonical_host(asked[1].decode()), int(asked[2] or _HTTP_PORT)
        if host is None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        is_connect = asked.re is _CONNECT
        if not self._allows(host, port):
            self._note("refused", f"{host}:{port} is not an allowed host")
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        try:
            async with self._way.connected() as (far_reader, far_writer):
                far_writer.write(request)
                writer.write(await self._answer(far_reader, is_connect=is_connect))
                await self._pass_on(reader, writer, far_reader, far_writer)
        except NoWay as error:
            self._note(error.trouble, error.detail)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    async def _answer(self, far: asyncio.StreamReader, *, is_connect: bool) -> bytes:
        """The head of it: of the egress process, to a CONNECT. Raises NoWay."""
        seconds = _CONNECT_SECONDS if is_connect else self._silent_seconds
        try:
            async with asyncio.timeout(seconds):
                head = await far.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise NoWay("silent", f"no answer for {seconds:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise NoWay("cut_off", f"no answer ({error!r})") from None
        found = _STATUS.match(head)
        status, reason = (int(found[1]), found[2].decode("latin-1")) if found else (0, "no HTTP")
        if status in (403, 502) and (refusal := _REFUSAL.match(reason)):
            raise NoWay("refused" if refusal[1] == "is blocked" else "unreachable", reason)
        if is_connect and status != 200:
            raise NoWay("shut" if status == 503 else "refused", f"egress says {status}: {reason}")
        self.received_bytes += len(head)
        return head

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        has_asked = asyncio.Event()  # and has no answer yet
        async with asyncio.TaskGroup() as group:
            back = group.create_task(self._bring(far_reader, writer, has_asked))
            there = group.create_task(self._take(reader, far_writer, has_asked))
            await asyncio.wait({back, there}, return_when=asyncio.FIRST_COMPLETED)
            back.cancel()
            there.cancel()

    async def _bring(
        self, far: asyncio.StreamReader, near: asyncio.StreamWriter, has_asked: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                try:  # programs give up on what is slow, but not all of them on a handshake
                    async with asyncio.timeout(self._silent_seconds):
                        chunk = await far.read(_CHUNK_BYTES)
                except TimeoutError:
                    if not has_asked.is_set():  # it is at work on what it got
                        continue
                    self._note("silent", f"no byte for {self._silent_seconds:g} s")
                    return
                has_asked.clear()
                if not chunk:
                    break
                self.received_bytes += len(chunk)
                if self.received_bytes > self._bytes_max:
                    self._note("too_large", f"more than {self._bytes_max} bytes")
                    return
                near.write(chunk)
                await near.drain()
        self._note("cut_off", "its side ended a connection")

    async def _take(
        self, near: asyncio.StreamReader, far: asyncio.StreamWriter, has_asked: asyncio.Event
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while chunk := await near.read(_CHUNK_BYTES):
                    self._sent_bytes += len(chunk)
                    if self._sent_bytes > self._sent_bytes_max:
                        self._note("too_large", f"more than {self._sent_bytes_max} bytes were sent")
                        return
                    has_asked.set()
                    far.write(chunk)
                    await far.drain()
        finally:
            far.close()


async def _received(ours: socket.socket) -> socket.socket | None:
    """The listening socket from inside; None if something else came, or nothing."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(ours, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(ours)
    try:
        _, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
    except OSError:
        return None
    if not descriptors:
        return None
    listener = socket.socket(fileno=descriptors[0])
    try:
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        if listener.family == socket.AF_INET and listener.type == socket.SOCK_STREAM and is_listening:
            listener.setblocking(False)
            return listener
    except OSError:
        pass
    listener.close()
    return None
