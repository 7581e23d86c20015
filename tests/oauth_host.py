"""A token endpoint on this machine, over TLS, which gives tokens that an MCP server takes from then on.

    POST /token     grant_type=refresh_token, from a client that shows itself in the way of `kind`; rotated,
                    a refresh token is good for one use; access tokens of before are worth nothing

The standard library's server, in a thread of the test.
"""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote_plus

from tests.mcp_host import McpHost

CLIENT, SECRET = "client of ours", "canary secret+/:%&"


@dataclass(kw_only=True)
class OAuthHost:
    """refresh_token: the one that is good now. requests: forms that came. answer: instead of a token,
    status and body. waiting: how many have come. go: they wait until it is set."""

    server: McpHost
    kind: Literal["none", "client_secret_basic", "client_secret_post"] = "none"
    port: int = 0
    authority: Path | None = None
    refresh_token: str = "canary-refresh-0"
    rotates: bool = True
    lifetime: int | None = 3600
    answer: tuple[int, str] | None = None
    waiting: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @classmethod
    @contextmanager
    def start(cls, server: McpHost) -> "Iterator[OAuthHost]":
        """server: whose certificate it has, too."""
        host = cls(server=server, authority=server.authority)
        host.go.set()
        http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.directory / "host.pem", server.directory / "host.key")
        http.socket = context.wrap_socket(http.socket, server_side=True)
        http.host, host.port = host, http.server_address[1]  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield host
        finally:
            host.go.set()
            http.shutdown()
            http.server_close()
            thread.join(30)

    @property
    def where(self) -> str:
        return f"localhost:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"https://{self.where}/token"

    def auth(self, **fields: Any) -> dict[str, Any]:
        """Of a credential for the server. Its access token is worth nothing."""
        secret = {} if self.kind == "none" else {"client_secret": SECRET}
        refresh = {
            "client_id": CLIENT,
            "refresh_token": self.refresh_token,
            "token_endpoint": self.endpoint,
            "token_endpoint_auth": {"type": self.kind, **secret},
        }
        return {
            "type": "mcp_oauth",
            "mcp_server_url": self.server.url,
            "access_token": "canary-access-0",
            "refresh": refresh,
            **fields,
        }

    def respond(self, form: dict[str, str], authorization: str) -> tuple[int, str]:
        self.waiting += 1
        self.go.wait(30)
        with self.lock:
            self.requests.append(form)
            if self.answer is not None:
                return self.answer
            if not self._is_client(form, authorization):
                return 401, json.dumps({"error": "invalid_client"})
            good = form.get("refresh_token") == self.refresh_token
            if form.get("grant_type") != "refresh_token" or not good:
                return 400, json.dumps({"error": "invalid_grant", "said": form.get("refresh_token")})
            number = next(self.numbers)
            given: dict[str, Any] = {"access_token": f"canary-access-{number}", "token_type": "Bearer"}
            if self.rotates:
                self.refresh_token = given["refresh_token"] = f"canary-refresh-{number}"
            if self.lifetime is not None:
                given["expires_in"] = self.lifetime
            self.server.allow(given["access_token"])
            return 200, json.dumps(given)

    def _is_client(self, form: dict[str, str], authorization: str) -> bool:
        if self.kind == "client_secret_basic":
            kind, _, pair = authorization.partition(" ")
            given = [unquote_plus(each) for each in base64.b64decode(pair).decode().split(":")]
            return kind == "Basic" and given == [CLIENT, SECRET] and "client_id" not in form
        secret = SECRET if self.kind == "client_secret_post" else None
        return not authorization and (form.get("client_id"), form.get("client_secret")) == (CLIENT, secret)


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
        host: OAuthHost = self.server.host  # type: ignore[attr-defined]
        status, said = host.respond(form, self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())
