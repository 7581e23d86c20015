"""What a program in a sandbox does to get out of it. Standard library only: it runs inside, with whatever
Python is there."""

from __future__ import annotations

import socket


def let_in(door: int) -> int:
    """Hand a listening socket to the host, through the descriptor `door`. Returns the port on 127.0.0.1 at
    which the program finds its proxy from then on; it speaks HTTP CONNECT."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    with socket.socket(fileno=door) as host:
        socket.send_fds(host, [b"listen"], [listener.fileno()])
        host.recv(1)
    return int(listener.getsockname()[1])
