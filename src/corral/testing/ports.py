"""Ports for servers of tests that are told theirs, and keep it while they are down."""

import random
import socket

__all__ = ["free_ports"]

_FIRST, _END = 20_000, 32_000  # below the ephemeral ones, so that nobody is given them meanwhile


def free_ports(number: int) -> list[int]:
    """So many different ports of loopback. Raises RuntimeError where there are none."""
    found: list[int] = []
    for port in random.sample(range(_FIRST, _END), 100 * number):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise RuntimeError(f"no {number} free ports between {_FIRST} and {_END}")
