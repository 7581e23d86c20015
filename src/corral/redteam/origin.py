"""A web server around the sandboxes: what it reads, the standard library reads, so that it may be misled by
what misleads others.

    GET  /bytes/N      N bytes              /redirect?to=URL   302
    GET  /headers      the request's headers, as JSON           /two-answers    two answers to one request
    POST /echo         the body, as it comes
    any other          `body`
"""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Origin"]

_BODY_BYTES_MAX = 8 << 20


@dataclass(kw_only=True)
class Origin:
    """asked: "METHOD path" of all requests, in their order. seen: all that came, heads and bodies."""

    port: int = 0
    body: str = "hello"
    asked: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray)
    on_request: Callable[[str], None] | None = None
    context: ssl.SSLContext | None = None

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        body: str = "hello",
        context: ssl.SSLContext | None = None,
        on_request: Callable[[str], None] | None = None,
    ) -> "Iterator[Origin]":
        """on_request: is told each path, in a thread of its own. context: it speaks TLS."""
        origin = cls(body=body, context=context, on_request=on_request)
        server = _Server(("127.0.0.1", 0), _Handler)
        server.origin, origin.port = origin, server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def hidden(self) -> list[str]:
        """Requests that nobody was to be able to make here."""
        return [each for each in self.asked if "/smuggled" in each]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    origin: Origin

    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        if self.origin.context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(10)
        with self.origin.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or speaks no HTTP."""


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
            self._answer(302, b"", location=what.partition("=")[2] + ("/" + rest if rest else ""))
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

    def _answer(self, status: int, body: bytes, *, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
