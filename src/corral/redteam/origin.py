"""A web server around the sandboxes: what it reads, the standard library reads, so that it may be misled by
what misleads others.

    GET  /bytes/N      N bytes              /redirect?to=URL   302
    GET  /headers      the request's headers, as JSON           /two-answers    two answers to one request
    GET  /as/HOW       what X-Echo has, said back in that way    /drip          X-Drip, and a little later Z
    POST /echo         the body, as it comes
    GET  /socket/HOW   a WebSocket that says what X-Echo has, in such frames, and is closed
    any other          `body`
"""

import base64
import gzip
import html
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final
from urllib.parse import quote

from corral.redteam.sockets import SAYS, accept_of
from corral.testing.web_server import WebServer

__all__ = ["DRIP_SECONDS", "Origin"]

DRIP_SECONDS: Final = 0.6  # between the two words of a host that is slow
_PAUSE_SECONDS: Final = 0.15  # between frames: longer than anybody waits who looks for secrets in them

_BODY_BYTES_MAX = 8 << 20


_SPELLED: Final[Mapping[str, Callable[[str], bytes]]] = {
    "plain": str.encode,
    "json": lambda value: json.dumps(value).encode(),
    "percent": lambda value: quote(value, safe="").encode(),
    "html": lambda value: html.escape(value).encode(),
    "long": lambda value: b"x" * (1 << 20) + value.encode(),
    "doubled": lambda value: f"{value[:30]}{value}{value[30:]}".encode(),
    "base64": lambda value: base64.b64encode(value.encode()),
    "hex": lambda value: value.encode().hex().encode(),
    "reversed": lambda value: value.encode()[::-1],
    "wide": lambda value: value.encode("utf-16"),
}


@dataclass(kw_only=True)
class Origin:
    """asked: "METHOD path" of all requests, in their order. seen: all that came, heads and bodies."""

    port: int = 0
    body: str = "hello"
    asked: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    on_request: Callable[[str], None] | None = None

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        body: str = "hello",
        certificate: tuple[Path, Path] | None = None,
        on_request: Callable[[str], None] | None = None,
    ) -> "Iterator[Origin]":
        """on_request: is told each path, in a thread of its own. certificate: as of `WebServer`."""
        origin = cls(body=body, on_request=on_request)
        server = _Server(_Handler, certificate=certificate)
        server.origin, origin.port = origin, server.port
        with server.running():
            yield origin

    def hidden(self) -> list[str]:
        """Requests that nobody was to be able to make here."""
        return [each for each in self.asked if "/smuggled" in each]


class _Server(WebServer):
    origin: Origin


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """`asked` is looked at."""

    def do_GET(self) -> None:
        origin = self.server.origin
        origin.asked.append(f"{self.command} {self.path}")
        origin.seen += f"{self.command} {self.path}\n{self.headers}".encode(errors="replace")
        if origin.on_request is not None:
            origin.on_request(self.path)
        what, _, rest = self.path[1:].partition("/")
        if what == "headers":
            self._answer(200, json.dumps([list(each) for each in self.headers.items()]).encode())
        elif what == "bytes" and rest.isdigit():
            self._answer(200, b"x" * min(int(rest), _BODY_BYTES_MAX))
        elif what.startswith("redirect?to="):
            self._answer(302, b"", ("Location", what.partition("=")[2] + ("/" + rest if rest else "")))
        elif what == "as":
            self._echo(rest.partition("?")[0], self.headers.get("X-Echo", ""))
        elif what == "socket":
            self._socket(rest)
        elif what == "drip":
            self._drip(self.headers.get("X-Drip", "").encode())
        elif what == "two-answers":
            first = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
            self.wfile.write(first + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned")
            self.close_connection = True
        else:
            self._answer(200, origin.body.encode())

    do_HEAD = do_DELETE = do_GET

    def do_POST(self) -> None:
        body = b""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length", "0").partition(",")[0])
            body = self.rfile.read(max(0, min(length, _BODY_BYTES_MAX)))
        origin = self.server.origin
        origin.asked.append(f"{self.command} {self.path}")
        origin.seen += f"{self.command} {self.path}\n{self.headers}".encode(errors="replace") + body
        if origin.on_request is not None:
            origin.on_request(self.path)
        self._answer(200, body if self.path.startswith("/echo") else origin.body.encode())

    do_PUT = do_POST

    def _echo(self, how: str, value: str) -> None:
        if how in _SPELLED:
            self._answer(200, _SPELLED[how](value))
        elif how in ("header", "cookie"):
            name = "X-Echoed" if how == "header" else "Set-Cookie"
            self._answer(200, b"", (name, value if how == "header" else f"a={value}; Path=/"))
        elif how == "location":
            self._answer(302, b"", ("Location", f"https://foreign.test/as/plain?token={value}"))
        elif how == "reason":
            self._raw(f"HTTP/1.1 200 {value}\r\nContent-Length: 2\r\n\r\nok")
        elif how == "error":
            self._answer(500, f"<p>wrong token: {html.escape(value)}</p>".encode())
        elif how == "close":
            self._raw(f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{value}")
        elif how == "gzip":
            self._answer(200, gzip.compress(value.encode()), ("Content-Encoding", "gzip"))
        elif how == "early":
            self._raw(
                f"HTTP/1.1 103 Early Hints\r\nLink: <{value}>\r\n\r\n"
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            )
        elif how == "trailer":
            chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
            self._raw(f"{chunked}X-Echoed: {value}\r\n\r\n")
        elif how == "ranges":
            parts = "".join(
                f"--b\r\nContent-Range: bytes 0-9/99\r\n\r\n{each}\r\n" for each in (value, value)
            )
            self._answer(
                200, f"{parts}--b--\r\n".encode(), ("Content-Type", "multipart/byteranges; boundary=b")
            )
        else:
            self._pieces(value.encode())

    def _raw(self, said: str) -> None:
        self.wfile.write(said.encode("latin-1", "replace"))
        self.close_connection = True

    def _pieces(self, data: bytes) -> None:
        """Byte by byte, each in a chunk and a packet of its own."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(len(data)):
            self.wfile.write(b"1\r\n%b\r\n" % data[at : at + 1])
            self.wfile.flush()
            time.sleep(0.002)
        self.wfile.write(b"0\r\n\r\n")

    def _socket(self, how: str) -> None:
        value = self.headers.get("X-Echo", "").encode()
        self.send_response(101)
        accept = accept_of(self.headers.get("Sec-WebSocket-Key", ""))
        for name, said in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
        ):
            self.send_header(name, said)
        if how == "handshake":
            self.send_header("Sec-WebSocket-Protocol", value.decode())
        self.end_headers()
        self.close_connection = True
        for number, frames in enumerate(SAYS.get(how, SAYS["text"])(value)):
            time.sleep(_PAUSE_SECONDS if number else 0)
            self.wfile.write(frames)
            self.wfile.flush()
        if isinstance(self.connection, ssl.SSLSocket):
            with suppress(OSError):  # an end that is said: else nothing of it might be passed on
                self.connection.unwrap()

    def _drip(self, first: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(first), first))
        self.wfile.flush()
        time.sleep(DRIP_SECONDS)
        self.wfile.write(b"1\r\nZ\r\n0\r\n\r\n")

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
