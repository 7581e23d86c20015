"""A web server on this machine, with TLS or without, that answers as a test tells it to, honest or not."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from corral.testing.certificates import certificates
from corral.testing.web_server import WebServer


@dataclass(kw_only=True, slots=True)
class Answer:
    """drip: instead of the body, bytes of it one by one, each after this many seconds, until `closing`."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: float | None = None


@dataclass(kw_only=True, slots=True)
class WebHost:
    """answers: by path, with its query or without. requests: (path, headers) of those that came."""

    scheme: str
    port: int = 0
    authority: Path | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def start(cls, directory: Path | None = None) -> "Iterator[WebHost]":
        """directory: for its certificates; without one it speaks HTTP."""
        host = cls(scheme="https" if directory else "http")
        certificate = None
        if directory is not None:
            host.authority, chain, key = certificates(directory)
            certificate = chain, key
        server = _Server(_Handler, certificate=certificate)
        server.host, host.port = host, server.port
        with server.running():
            try:
                yield host
            finally:
                host.closing.set()

    @property
    def where(self) -> str:
        """As an entry of the setting web_private_hosts."""
        return f"localhost:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://{self.where}{path}"

    def page(self, body: bytes | str, *, path: str = "/", type_: str = "text/html", **more: str) -> str:
        """Serve this; returns its URL."""
        data = body.encode() if isinstance(body, str) else body
        headers = {"Content-Type": type_} if type_ else {}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        self.answers[path] = Answer(body=data, headers=headers)
        return self.url(path)

    def redirect(self, location: str, *, path: str = "/", status: int = 302) -> str:
        self.answers[path] = Answer(status=status, headers={"Location": location})
        return self.url(path)


class _Server(WebServer):
    host: WebHost


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30
    write: Callable[[bytes], int]

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests`."""

    def do_GET(self) -> None:
        host = self.server.host
        host.requests.append((self.path, dict(self.headers)))
        host.arrived.set()
        path = self.path.partition("?")[0]
        answer = host.answers.get(self.path) or host.answers.get(path) or Answer(status=404)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.drip is None:
            self.wfile.write(answer.body)
            return
        while not host.closing.wait(answer.drip):
            self.wfile.write(answer.body[:1])
            self.wfile.flush()
