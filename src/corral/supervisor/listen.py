"""The listening socket, which stays the supervisor's while servers come and go."""

import socket
from typing import Final

from corral.config import Config
from corral.kernel.errors import InvalidRequest

__all__ = ["listen", "url_of"]

_BACKLOG: Final = 2048


def listen(config: Config) -> socket.socket:
    """Raises InvalidRequest if it is not to be had."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {config.host}:{config.port}: {error.strerror or error}; "
            "choose another --port (0 takes a free one) or --host"
        ) from error
    return listener


def url_of(listener: socket.socket, config: Config) -> str:
    host, port = listener.getsockname()[:2]
    # A wildcard is where we listen, not where anyone can connect to.
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if config.tls_cert else 'http'}://{shown}:{port}"
