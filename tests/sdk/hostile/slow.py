"""Clients that send a byte a second, or none."""

import gzip
import itertools
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from corral.kernel.limits import BODY_SILENCE_SECONDS, HTTP_HEAD_SECONDS, HTTP_LINGER_SECONDS
from tests.sdk.conftest import Server
from tests.sdk.hostile.wire import AGENT, connect, head

LATE_SECONDS = 40.0  # how late a bound may be kept on a busy machine


@dataclass
class Slow:
    """Sends `first` at once and a byte of `then` each second, for ever."""

    name: str
    first: bytes
    then: bytes
    bound: float
    status: int | None  # None: closed without a word
    received: bytes = b""
    connection: socket.socket | None = field(default=None, repr=False)
    seconds: float | None = None
    """Until the server ended it."""


class SlowClients(threading.Thread):
    """All at once, in the background of the other tests, which take as long."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="slow clients")
        self._server = server
        boundary = "content-type: multipart/form-data; boundary=b"
        part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        many = "content-length: 100000"
        upload = head(server, "POST /v1/files", boundary, many) + part
        wrong = head(server, "POST /v1/agents", many, key="corral_wrong") + b"{"
        self.all = [
            slow
            for _ in range(4)
            for slow in (
                Slow("nothing", b"", b"", HTTP_HEAD_SECONDS, None),
                Slow("half a head", head(server)[:-2], b"", HTTP_HEAD_SECONDS, 408),
                Slow("a head", b"GET /v1/agents HTTP/1.1\r\n", b"x: y\r\n" * 99, HTTP_HEAD_SECONDS, 408),
                Slow("lines before a head", b"", b"\r\n" * 99, HTTP_HEAD_SECONDS, 408),
                Slow(
                    "half a body",
                    head(server, "POST /v1/agents", many) + b"{",
                    b"",
                    BODY_SILENCE_SECONDS,
                    408,
                ),
                Slow("a body", head(server, "POST /v1/agents", many), b" " * 99, BODY_SILENCE_SECONDS, 408),
                Slow(
                    "chunks",
                    head(server, "POST /v1/agents", "transfer-encoding: chunked"),
                    b"1\r\n \r\n" * 17,
                    BODY_SILENCE_SECONDS,
                    408,
                ),
                Slow(
                    "the name of a chunk",
                    head(server, "POST /v1/agents", "transfer-encoding: chunked"),
                    b"1;" + b"x" * 99,
                    BODY_SILENCE_SECONDS,
                    408,
                ),
                Slow(
                    "something packed",
                    head(server, "POST /v1/agents", many, "content-encoding: gzip"),
                    gzip.compress(AGENT) * 9,
                    BODY_SILENCE_SECONDS,
                    408,
                ),
                Slow("an upload", upload, b"x" * 99, BODY_SILENCE_SECONDS, 408),
                Slow("what was refused", wrong, b" " * 99, HTTP_LINGER_SECONDS, 401),
            )
        ]

    def run(self) -> None:
        began = time.monotonic()
        for slow in self.all:
            slow.connection = connect(self._server)
            slow.connection.sendall(slow.first)
        waiting = {slow.connection: slow for slow in self.all}
        longest = max(slow.bound for slow in self.all)
        for second in itertools.count():
            while (left := began + second + 1 - time.monotonic()) > 0 and waiting:
                for connection in select.select(list(waiting), [], [], left)[0]:
                    slow = waiting[connection]
                    try:
                        more = connection.recv(1 << 16)
                    except ConnectionResetError:
                        more = b""
                    slow.received += more
                    if not more:
                        slow.seconds = time.monotonic() - began
                        waiting.pop(connection).connection.close()
            if not waiting or time.monotonic() - began > longest + LATE_SECONDS:
                break
            for connection, slow in waiting.items():
                with suppress(OSError):
                    connection.sendall(slow.then[second : second + 1])
        for connection in waiting:
            connection.close()
