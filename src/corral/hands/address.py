"""How processes find a hands host: on this machine by a socket, on others by mutual TLS.

unix:///data/hands/callers/hands.sock    nodes of the same machine and user; the token lies beside it
https://10.0.0.7:8421                    any node; the proof, both ways, is a certificate of the cluster's
                                         own authority (`corral certs`), and nothing else is trusted
"""

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from corral.daemon import socket_path
from corral.hands.client import HandsClient
from corral.kernel.errors import HandsUnavailable

__all__ = ["client_of", "unix_address"]

_UNIX: Final = "unix://"


def unix_address(socket: Path) -> str:
    return f"{_UNIX}{socket}"


def client_of(address: str, *, is_same_machine: bool, tls: ssl.SSLContext | None) -> HandsClient:
    """A client of the host at `address`, as a node's row says it. Raises HandsUnavailable if this process
    has no way to it, or if it is no address of a hands host: the row does not choose what is opened."""
    if address.startswith(_UNIX):
        if not is_same_machine:
            raise HandsUnavailable(
                "the hands host is on another machine and listens on no network; set"
                " CORRAL_HANDS_LISTEN there",
                retryable=False,
                detail=address,
            )
        path = Path(address.removeprefix(_UNIX))
        if not path.is_absolute() or path != socket_path(path.parent.parent.parent, "hands"):
            raise _unusable(address)
        try:
            return HandsClient(path, token=path.with_name("token").read_text())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise HandsUnavailable(
                f"the hands host's token cannot be read: {reason}", detail=address
            ) from error
    if not _is_https(address):
        raise _unusable(address)
    if tls is None:
        raise HandsUnavailable(
            "the hands host asks for a certificate: set CORRAL_CLUSTER_CA, _CERT and _KEY",
            retryable=False,
            detail=address,
        )
    return HandsClient.over_tls(address, tls=tls)


def _is_https(address: str) -> bool:
    """Whether it is `https://host:port` and nothing else: no other scheme would ask for certificates."""
    try:
        parts = urlsplit(address)
        return bool(parts.scheme == "https" and parts.hostname and parts.port) and not (
            parts.username or parts.path or parts.query or parts.fragment
        )
    except ValueError:
        return False


def _unusable(address: str) -> HandsUnavailable:
    return HandsUnavailable(
        "the hands host's address cannot be used: it is neither the socket of one nor https://host:port;"
        " see CORRAL_HANDS_ADDRESS there",
        retryable=False,
        detail=repr(address),
    )
