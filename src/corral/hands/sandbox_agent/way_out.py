"""The listening socket that programs in here know as their proxy. It is handed out: whoever accepts on it
is outside, and nobody in here can listen in its place as long as it is open out there."""

from __future__ import annotations

import _socket  # what `socket` wraps: that one takes longer to import than all of us
import sys

_LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_DESCRIPTOR_BYTES = 4


def hand_out(descriptor: int, port: int) -> None:
    """Listen on our loopback, send the socket through `descriptor`, a unix socket, and close both."""
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listening.bind((_LOOPBACK, port))
    listening.listen(_BACKLOG)
    outside = _socket.socket(fileno=descriptor)
    rights = listening.fileno().to_bytes(_DESCRIPTOR_BYTES, sys.byteorder)
    outside.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    outside.close()
    listening.close()
