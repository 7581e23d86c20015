"""Requests with the placeholder of a secret, as a program makes them that takes it for the secret."""

from __future__ import annotations

import contextlib
import os
import ssl

from corral.redteam.inside.box import Box, line_of, status_of
from corral.redteam.inside.ends import Held, Untried


def placeholder(box: Box) -> str:
    value = os.environ.get(str(box["variable"]))
    if not value:
        raise Untried("the session's variable is not in the environment")
    return value


def opened_tls(
    box: Box, host: str = "allowed.test", port: str = "secure_port", *, named: str = ""
) -> ssl.SSLSocket:
    """A connection as a program makes it that trusts what the sandbox trusts. Raises Held, OSError."""
    end = box.proxy()
    where = f"{host}:{box[port]}"
    end.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    answer = box.heard(end, until=b"\r\n\r\n")
    if status_of(answer) != 200:
        end.close()
        raise Held(line_of(answer) or "the connection was ended")
    context = ssl.create_default_context()
    if host != "allowed.test":  # nobody but the stage's authority has signed for it
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(end, server_hostname=named or host)
    except ssl.SSLError as error:
        raise Held(f"no TLS: {error.reason or error}") from None


def asked(box: Box, said: str, *, host: str = "allowed.test", port: str = "secure_port") -> bytes:
    """What comes back for a request, whose $PH is the placeholder. Raises Held, OSError."""
    filled = box.fill(said.replace("$PH", placeholder(box)))
    with opened_tls(box, host, port) as end:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            end.sendall(filled.encode("latin-1"))
        with contextlib.suppress(ssl.SSLError):
            return box.heard(end)
    return b""


def request(path: str, headers: str = "", body: str = "", *, method: str = "GET") -> str:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: allowed.test:{{secure_port}}\r\nConnection: close\r\n"
        f"{headers}{length}\r\n{body}"
    )
