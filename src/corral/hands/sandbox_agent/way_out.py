"""The listening socket that programs in here know as their proxy.

Where it is one of the machine's, it is handed out: whoever accepts on it is outside, and nobody in here can
listen in its place as long as it is open out there. Where it is one of the sandbox's own kernel, it stays,
and what comes is carried (`carrier`).
"""

from __future__ import annotations

import _socket  # what `socket` wraps: that one takes longer to import than all of us
import sys

_LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_DESCRIPTOR_BYTES = 4


def listen(port: int) -> _socket.socket:
    """On our loopback."""
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listening.bind((_LOOPBACK, port))
    listening.listen(_BACKLOG)
    return listening


def hand_out(way: int | str, listening: _socket.socket) -> None:
    """Send the socket through a unix socket, and close both. way: its descriptor, or the path to connect
    to."""
    if isinstance(way, str):
        outside = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        outside.connect(way)
    else:
        outside = _socket.socket(fileno=way)
    rights = listening.fileno().to_bytes(_DESCRIPTOR_BYTES, sys.byteorder)
    outside.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    outside.close()
    listening.close()
