"""A web server on this machine for tests of a proxy to send requests to, with TLS or without.

    GET  /bytes/N       N bytes, with their number          /chunked/N   likewise, in chunks
    GET  /headers       the request's headers, as JSON      /status/N    an empty answer of that status
    GET  /slow          one byte, and the rest when `go` is set
    POST /echo          the body of the request, as it comes
    GET  /socket        a WebSocket that says what it hears
    GET  /nonsense      bytes that are no HTTP
    GET  /reflect/HOW   the Authorization header, said back in some way: see `_reflect`

The standard library's server: what it reads and writes is not what reads and writes in the proxy.
"""

import base64
import gzip
import hashlib
import json
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """requests: (method, path, headers) of those that came. bodies: of those to /echo, as far as they are
    short. connections: that were made, ever."""

    scheme: str
    port: int = 0
    authority: Path | None = None
    requests: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
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
        elif what == "reflect":
            self._reflect(number)
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
            self.server.origin.bodies.append(body)
            self._all(body)
            return
        left = int(self.headers.get("Content-Length", "0"))
        self._start(200, ("Content-Length", str(left)))
        seen = b""
        while left:
            data = self.rfile.read1(min(left, len(_CHUNK)))
            if not data:
                return
            left -= len(data)
            seen = (seen + data)[: len(_CHUNK)]
            self.wfile.write(data)
        self.server.origin.bodies.append(seen)

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

    def _reflect(self, how: str) -> None:
        """sized, chunked (byte by byte), large, closed (to its end), gzip, deflate, br (which it is not),
        in a header, in the reason, in a trailer, or as nonsense."""
        said = self.headers["Authorization"]
        text = f"you said {said}, and {said[:3]}".encode()
        if how == "chunked":
            self._start(200, ("Transfer-Encoding", "chunked"))
            for byte in text:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        elif how == "large":
            self._all(_CHUNK + _CHUNK[:13] + text + _CHUNK)
        elif how == "closed":
            self._start(200, ("Connection", "close"))
            self.wfile.write(text)
            if isinstance(self.connection, ssl.SSLSocket):
                with suppress(OSError):  # nobody has to answer
                    self.connection.unwrap()
        elif how in ("gzip", "deflate", "br"):
            packed = gzip.compress(text) if how == "gzip" else zlib.compress(text)
            self._start(200, ("Content-Length", str(len(packed))), ("Content-Encoding", how))
            self.wfile.write(packed)
        elif how == "header":
            self._start(200, ("Content-Length", "0"), ("X-Said", said))
        elif how == "reason":
            self.wfile.write(f"HTTP/1.1 200 you said {said}\r\nContent-Length: 0\r\n\r\n".encode())
        elif how == "trailer":
            self._start(200, ("Transfer-Encoding", "chunked"))
            self.wfile.write(f"0\r\nX-Said: {said}\r\n\r\n".encode())
        elif how == "nonsense":
            self.wfile.write(f"HTTP/1.1 {said} nonsense\r\n{said}\r\n\r\n".encode())
            self.close_connection = True
        else:
            self._all(text)

    def _websocket(self) -> None:
        """Frames of fewer than 126 bytes, said as they are heard, until one that ends it; binary ones in
        two halves, a while apart."""
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
            said, half = kind + bytes([len(plain)]) + plain, len(plain) // 2
            if kind == b"\x82":
                self.wfile.write(said[:half])
                time.sleep(0.2)
                said = said[half:]
            self.wfile.write(said)
            if kind == b"\x88":
                return
