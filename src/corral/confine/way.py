"""How a tunnel's connection to a host comes about: through a door of the egress process, for one session.

    Tunnel --socket pair--> door of the session (`corral.egress.doors`) --> host, at a checked address

There it is decided whether to go, by the name and by each of its addresses; the host is dialled, and all of
it written down. Here nothing is resolved and nothing is dialled.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

from corral.catalog.hosts import Errand
from corral.hands.way_out import Egress
from corral.kernel.ids import SessionId
from corral.kernel.limits import EGRESS_AWAY_SECONDS, EGRESS_RETRY_SECONDS
from corral.session.content import Json

__all__ = ["Ends", "NoWay", "Trouble", "Way"]

Trouble = Literal["refused", "unreachable", "silent", "too_large", "cut_off", "shut"]
"""refused: we do not go there. unreachable: it did not take the connection. silent: it took it, and did not
answer. too_large: it sent more than it may. cut_off: a connection ended from its side; it may have been
done. shut: nobody opens us a door."""

Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_BUFFERED_BYTES: Final = 256 * 1024  # of a connection; also of the head of an answer
_ANYWHERE: Final[Mapping[str, Json]] = {"type": "unrestricted"}
_NOWHERE: Final[Mapping[str, Json]] = {"type": "limited"}


class NoWay(Exception):
    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble: Trouble = trouble
        self.detail = detail


class Way:
    """Of one session. authority: PEM of whoever is at its other end, where TLS is opened on the way."""

    def __init__(
        self, egress: Egress | None, grant: Mapping[str, Json], *, authority: str | None = None
    ) -> None:
        self._egress = egress
        self._grant = grant
        self.authority = authority

    @classmethod
    def on(
        cls,
        errand: Errand,
        egress: Egress | None,
        session_id: SessionId,
        *,
        networking: Mapping[str, Json] = _ANYWHERE,
    ) -> "Way":
        """To the hosts of this errand. egress: None on a node that has none: nothing is reached.
        networking: as of an environment, which binds it, too."""
        grant = {"session_id": session_id, "networking": networking, "package_hosts": [], "errand": errand}
        return cls(egress, grant)

    @classmethod
    async def with_token(cls, egress: Egress, session_id: SessionId) -> "Way":
        """To the repositories that the session has a token for, and nowhere else; the token is put on in
        the egress process, which opens TLS for it, and checks the host's certificate itself.

        Raises SandboxUnavailable.
        """
        grant: dict[str, Json] = {
            "session_id": session_id,
            "networking": _NOWHERE,
            "package_hosts": [],
            "trusts": True,
            "looks_anew": True,
        }
        return cls(egress, grant, authority=await egress.authority(session_id))

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Ends, None]:
        """To a proxy, for one request. An egress process that is being started again is waited for. Closed
        afterwards. Raises NoWay."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                control = await self._brought(theirs)
        except BaseException:
            ours.close()
            raise
        with control:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_BUFFERED_BYTES)
            try:
                yield reader, writer
            finally:
                writer.close()

    async def _brought(self, theirs: socket.socket) -> socket.socket:
        if self._egress is None:
            raise NoWay("shut", "this node has no egress process: give it the role")
        error: Exception | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EGRESS_AWAY_SECONDS):
                while True:
                    try:
                        return await self._egress.brought(theirs, self._grant)
                    except (OSError, TimeoutError) as away:
                        error = away
                    except ValueError as refused:
                        raise NoWay("shut", f"the egress process opens no door: {refused}") from None
                    await asyncio.sleep(EGRESS_RETRY_SECONDS)
        raise NoWay("shut", f"the egress process has been away for {EGRESS_AWAY_SECONDS:g} s ({error!r})")
