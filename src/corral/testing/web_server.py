"""The standard library's web server in a thread, for what a test lets answer on this machine."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["WebServer"]


class WebServer(ThreadingHTTPServer):
    """On a free port of a loopback address, each connection in a thread of its own; subclass it for what
    its handler is to know.

    certificate: files of a chain and of its key; without it the server speaks HTTP.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        *,
        certificate: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__((address, 0), handler)
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answers inside of this."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join(10)

    def finish_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        """In the thread of the connection: a handshake must not hold up the others."""
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(30)
        with self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or refused our certificate."""
