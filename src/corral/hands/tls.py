"""Mutual TLS between nodes: only certificates of the cluster's own authority count (`corral certs`)."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corral.kernel.errors import InvalidRequest

__all__ = ["ClusterTls", "client_context", "listening_tcp", "server_context"]

_BACKLOG = 2048  # connections: as many calls may begin at once


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterTls:
    """PEM files: the cluster's authority, this node's certificate and its key."""

    ca: Path
    cert: Path
    key: Path


def client_context(tls: ClusterTls) -> ssl.SSLContext:
    """Raises InvalidRequest when the files cannot be used."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, tls)


def server_context(tls: ClusterTls) -> ssl.SSLContext:
    """Every client must show a certificate of the authority. Raises InvalidRequest."""
    return _context(ssl.PROTOCOL_TLS_SERVER, tls)


def _context(protocol: int, tls: ClusterTls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)  # no system authorities: only the cluster's own
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            f"the certificate {str(tls.cert)!r}, its key or {str(tls.ca)!r} cannot be used: {error}"
        ) from error
    return context


@contextlib.contextmanager
def listening_tcp(address: str) -> Iterator[socket.socket]:
    """A listening socket on `host:port`. Raises InvalidRequest if that is taken or not ours."""
    host, _, port = address.rpartition(":")
    try:
        listener = socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
        )
    except OSError as error:
        raise InvalidRequest(f"the hands cannot listen on {address!r}: {error.strerror}") from error
    with listener:
        listener.setblocking(False)
        yield listener
