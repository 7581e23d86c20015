"""How a tunnel's connection to a host comes about.

Rules of this file:
- Names are resolved here, every address is checked, and the checked address is the one dialled: a name that
  resolves differently a moment later leads nowhere else.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Protocol, TypeAlias

from corral.confine.names import Names
from corral.kernel.addresses import is_public
from corral.kernel.limits import TUNNEL_CONNECT_SECONDS

__all__ = ["Ends", "Hosts", "NoWay", "Resolve", "Straight", "Trouble", "Way"]

Trouble = Literal["refused", "unreachable", "silent", "too_large", "cut_off"]
"""refused: we do not go there. unreachable: it did not take the connection. silent: it took it, and did not
answer. too_large: it sent more than it may. cut_off: a connection ended from its side; it may have been
done."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port to addresses, at least one. Raises OSError."""

Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Hosts(Protocol):
    """Where a tunnel leads. host: lower case; an IPv6 address without brackets."""

    def allows(self, host: str, port: int) -> bool: ...

    def may_be_private(self, host: str, port: int) -> bool:
        """Whether addresses that are not public are dialled, too."""


class NoWay(Exception):
    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble: Trouble = trouble
        self.detail = detail


class Way(Protocol):
    def connected(self, host: str, port: int) -> AbstractAsyncContextManager[Ends]:
        """To a host that is allowed. Closed afterwards. Raises NoWay."""


class Straight:
    """`Way` from this process to the host."""

    def __init__(self, hosts: Hosts, resolve: Resolve | None = None) -> None:
        self._hosts = hosts
        self._resolve = resolve or Names().resolve

    @asynccontextmanager
    async def connected(self, host: str, port: int) -> AsyncGenerator[Ends, None]:
        reader, writer = await self._dial(host, port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def _dial(self, host: str, port: int) -> Ends:
        """The first address of the host that takes a connection."""
        why = "no address"
        try:
            async with asyncio.timeout(TUNNEL_CONNECT_SECONDS):
                addresses = await self._resolve(host, port)
        except (OSError, TimeoutError) as error:
            raise NoWay("unreachable", f"{host}: {error}") from None
        if not self._hosts.may_be_private(host, port):
            # All of them: a name that is both inside and outside is not one to follow.
            private = [address for address in addresses if not is_public(address)]
            if private:
                raise NoWay("refused", f"{host} is at {private[0]}, which is not public")
        for address in addresses:
            try:
                async with asyncio.timeout(TUNNEL_CONNECT_SECONDS):
                    return await asyncio.open_connection(address, port)
            except (OSError, TimeoutError) as error:
                why = f"{address}: {error!r}"
        raise NoWay("unreachable", f"{host}: {why}")
