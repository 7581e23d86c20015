"""How git reaches a private repository: through the egress process, which puts the session's token on.

    git in its sandbox -> Tunnel -> a door of the session -> egress: TLS opened, the token put on -> host

The door leads nowhere but to the repositories for which the session has a token (`egress.doors`), and git
trusts the authority of this session instead of the world's: what it speaks to is the egress process, which
checks the host's certificate. Here nobody sees the token, nor git.
"""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from corral.confine.way import Ends, NoWay, Way
from corral.hands.way_out import Egress
from corral.kernel.ids import SessionId
from corral.kernel.limits import EGRESS_HEAD_BYTES_MAX, EGRESS_REPLY_SECONDS, TUNNEL_CONNECT_SECONDS

__all__ = ["EgressWays", "PrivateWay", "PrivateWays"]

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([^\r\n]*)")
_SECONDS: Final = 2 * TUNNEL_CONNECT_SECONDS + EGRESS_REPLY_SECONDS  # it resolves and dials in between
_GRANT: Final = {"networking": {"type": "limited"}, "package_hosts": [], "trusts": True, "looks_anew": True}


class PrivateWay(Way, Protocol):
    @property
    def authority(self) -> str:
        """PEM: what signs the certificates of whoever is at its other end."""


class PrivateWays(Protocol):
    async def of(self, session_id: SessionId) -> PrivateWay:
        """The way to the repositories that the session has a token for. Raises SandboxUnavailable."""


class EgressWays:
    """`PrivateWays` of a node with an egress process."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def of(self, session_id: SessionId) -> "_EgressWay":
        return _EgressWay(self._egress, session_id, await self._egress.authority(session_id))


class _EgressWay:
    def __init__(self, egress: Egress, session_id: SessionId, authority: str) -> None:
        self._egress = egress
        self._session_id = session_id
        self.authority = authority

    @asynccontextmanager
    async def connected(self, host: str, port: int) -> AsyncGenerator[Ends, None]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                grant = {"session_id": self._session_id, **_GRANT}
                control = await self._egress.brought(theirs, grant)
        except (OSError, TimeoutError, ValueError) as error:
            ours.close()
            raise NoWay("refused", f"the egress process opens no door ({error!r})") from None
        with control:
            reader, writer = await asyncio.open_connection(sock=ours, limit=EGRESS_HEAD_BYTES_MAX)
            try:
                await _ask(reader, writer, f"{host}:{port}")
                yield reader, writer
            finally:
                writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str) -> None:
    """Raises NoWay."""
    writer.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise NoWay("unreachable", f"the egress process does not answer ({error!r})") from None
    found = _STATUS.match(head)
    status, reason = (int(found[1]), found[2].decode("latin-1")) if found else (0, "no HTTP")
    if status != 200:
        raise NoWay("unreachable" if status == 502 else "refused", f"egress says {status}: {reason}")
