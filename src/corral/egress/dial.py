"""A connection to a host, at an address that was judged."""

import asyncio
import socket
from collections.abc import Sequence

from corral.egress.names import Resolve
from corral.egress.policy import Gate
from corral.kernel.limits import EGRESS_CONNECT_SECONDS

__all__ = ["Unreachable", "dial", "judged"]


class Unreachable(Exception):
    """The message is for the sandbox; it names no address."""


async def dial(host: str, port: int, *, gate: Gate, resolve: Resolve) -> socket.socket:
    """A connected, non-blocking socket. All addresses of the name are judged before one is dialled: a name
    that is both inside and outside is not one to follow.

    Raises: Refused, Unreachable.
    """
    addresses = await judged(host, port, gate=gate, resolve=resolve)
    try:
        async with asyncio.timeout(EGRESS_CONNECT_SECONDS):
            for address in addresses:
                connected = await _connected(address, port)
                if connected is not None:
                    return connected
    except TimeoutError:
        pass
    raise Unreachable("it does not take connections")


async def judged(host: str, port: int, *, gate: Gate, resolve: Resolve) -> Sequence[str]:
    """The addresses of a host, all of which may be dialled. Raises Refused, Unreachable."""
    gate.check_name(host, port)
    try:
        async with asyncio.timeout(EGRESS_CONNECT_SECONDS):
            addresses = await resolve(host, port)
    except (OSError, TimeoutError, UnicodeError):
        raise Unreachable("its name does not resolve") from None
    for address in addresses:
        gate.check_address(host, port, address)
    return addresses


async def _connected(address: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    far = socket.socket(family, socket.SOCK_STREAM)
    try:
        far.setblocking(False)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(far, (address, port))
    except OSError:
        far.close()
        return None
    except BaseException:
        far.close()
        raise
    return far
