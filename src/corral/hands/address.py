"""How processes find a hands host: on this machine by a socket, on others by mutual TLS.

unix:///data/hands/private/hands.sock    nodes of the same machine and user; the token lies beside it
https://10.0.0.7:8421                    any node; the proof, both ways, is a certificate of the cluster's
                                         own authority (`corral certs`), and nothing else is trusted
"""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from corral.hands.client import HandsClient
from corral.kernel.errors import HandsUnavailable

__all__ = ["client_of", "unix_address"]


def unix_address(socket_path: Path) -> str:
    return f"unix://{socket_path}"


def client_of(address: str, *, is_same_machine: bool, tls: ssl.SSLContext | None) -> HandsClient:
    """A client of the host at `address`. Raises HandsUnavailable if this process has no way to it."""
    parts = urlsplit(address)
    if parts.scheme == "unix":
        path = Path(parts.path)
        if not is_same_machine:
            raise HandsUnavailable(
                f"the hands host at {address!r} is on another machine and listens on no network; set"
                " CORRAL_HANDS_LISTEN there",
                retryable=False,
            )
        try:
            return HandsClient(path, token=path.with_name("token").read_text())
        except OSError as error:
            raise HandsUnavailable(f"the hands host at {address!r}: {error}") from error
    if tls is None:
        raise HandsUnavailable(
            f"the hands host at {address!r} asks for a certificate: set CORRAL_CLUSTER_CA, _CERT and _KEY",
            retryable=False,
        )
    return HandsClient.over_tls(address, tls=tls)
