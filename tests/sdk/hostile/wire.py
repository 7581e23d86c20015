"""HTTP as bytes, for what no client library would send."""

import re
import socket
from contextlib import suppress

from tests.sdk.conftest import Server
from tests.served import WAIT_SECONDS

AGENT = b'{"name":"a","model":"replay"}'


def head(server: Server, line: str = "POST /v1/agents", *lines: str, key: str | None = None) -> bytes:
    given = [f"{line} HTTP/1.1", "host: localhost", f"x-api-key: {key or server.key}", *lines]
    return "\r\n".join([*given, "", ""]).encode("latin-1")


def post(server: Server, body: bytes = AGENT, *lines: str, path: str = "/v1/agents") -> bytes:
    return head(server, f"POST {path}", f"content-length: {len(body)}", *lines) + body


def chunked(body: bytes, size: int = 1 << 20) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def connect(server: Server, *, seconds: float = WAIT_SECONDS) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=seconds)


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer, which must be whole and lie one behind the other."""
    found = []
    while raw:
        top, separator, rest = raw.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3}) ", top)
        assert match and separator, raw[:200]
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", top)
        size = int(length[1]) if length else 0
        assert len(rest) >= size, "it is cut off"
        found.append((int(match[1]), rest[:size]))
        raw = rest[size:]
    return found


def ask(server: Server, raw: bytes) -> list[tuple[int, bytes]]:
    """What comes back until the server ends the connection."""
    received = b""
    with connect(server) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(raw)
        with suppress(ConnectionResetError):
            while more := connection.recv(1 << 16):
                received += more
    return answers(received)


def pad(size: int) -> bytes:
    """A valid body of this size."""
    return AGENT + b" " * (size - len(AGENT))
