"""A web server on this machine for tests of a proxy to send requests to, with TLS or without.

    GET  /bytes/N       N bytes, with their number          /chunked/N   likewise, in chunks
    GET  /headers       the request's headers, as JSON      /status/N    an empty answer of that status
    GET  /slow          one byte, and the rest when `go` is set
    POST /echo          the body of the request, as it comes
    GET  /socket        a WebSocket that says what it hears
    GET  /nonsense      bytes that are no HTTP

The standard library's server: what it reads and writes is not what reads and writes in the proxy.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

from corral.testing.certificates import certificates
from corral.testing.web_server import WebServer

__all__ = ["Origin"]

_CHUNK: Final = bytes(range(256)) * 1024
_WEBSOCKET: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HTTP: Final = "HTTP/1.1"


@dataclass(kw_only=True)
class Origin:
    """requests: (method, path, headers) of those that came. connections: that were made, ever."""

    scheme: str
    port: int = 0
    authority: Path | None = None
    requests: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    connections: int = 0
    go: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def start(cls, directory: Path | None = None, *names: str) -> "Iterator[Origin]":
        """directory: for its certificates, of these names or of localhost; without one it speaks HTTP."""
        origin = cls(scheme="https" if directory else "http")
        certificate = None
        if directory is not None:
            origin.authority, chain, key = certificates(directory, *names)
            certificate = chain, key
        server = _Server(_Handler, certificate=certificate)
        server.origin, origin.port = origin, server.port
        with server.running():
            try:
                yield origin
            finally:
                origin.go.set()


class _Server(WebServer):
    origin: Origin

    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        self.origin.connections += 1
        super().finish_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30
    protocol_version = _HTTP
    disable_nagle_algorithm = True  # an answer is a head and a body: the one must not wait for the other

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests`."""

    def do_GET(self) -> None:
        self._note()
        what, _, number = self.path[1:].partition("?")[0].partition("/")
        if what == "bytes":
            self._start(200, ("Content-Length", number))
            left = int(number)
            while left and self.command != "HEAD":
                left -= self.wfile.write(_CHUNK[:left])
        elif what == "chunked":
            self._start(200, ("Transfer-Encoding", "chunked"))
            left = int(number)
            while left:
                piece = _CHUNK[:left]
                left -= len(piece)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif what == "headers":
            self._all(json.dumps([list(each) for each in self.headers.items()]).encode())
        elif what == "status":
            self._start(int(number), ("Content-Length", "0"))
        elif what == "slow":
            self._start(200, ("Content-Length", "2"))
            self.wfile.write(b"1")
            self.wfile.flush()
            self.server.origin.go.wait(30)
            self.wfile.write(b"2")
        elif what == "socket":
            self._websocket()
        elif what == "nonsense":
            self.wfile.write(b"\x00\x01\x02 nonsense\r\n\r\n")
            self.close_connection = True
        else:
            self._all(b"hello")

    do_HEAD = do_GET
    do_DELETE = do_GET

    def do_POST(self) -> None:
        self._note()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self._all(body)
            return
        left = int(self.headers.get("Content-Length", "0"))
        self._start(200, ("Content-Length", str(left)))
        while left:
            data = self.rfile.read1(min(left, len(_CHUNK)))
            if not data:
                return
            left -= len(data)
            self.wfile.write(data)

    do_PUT = do_POST

    def _note(self) -> None:
        self.server.origin.requests.append((self.command, self.path, list(self.headers.items())))

    def _start(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _all(self, body: bytes) -> None:
        self._start(200, ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def _websocket(self) -> None:
        """Text frames of fewer than 126 bytes, said as they are heard, until one that ends it."""
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET).digest()).decode()  # noqa: S324
        self._start(
            101, ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)
        )
        self.close_connection = True
        while True:
            kind, size = self.rfile.read(1), self.rfile.read(1)
            if not size:
                return
            mask, data = self.rfile.read(4), self.rfile.read(size[0] & 0x7F)
            plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            self.wfile.write(kind + bytes([len(plain)]) + plain)
            if kind == b"\x88":
                return
