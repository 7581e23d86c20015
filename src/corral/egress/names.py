"""Names that somebody else chose, looked up without holding anybody up.

A server of names that never answers keeps a lookup for a minute, whoever has stopped waiting for it. The
event loop has a few places for lookups, which all of a process share, the way to models included: so these
run on threads of their own, and each session has places of its own, taken until a lookup has really ended.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from corral.kernel.limits import EGRESS_LOOKUPS_PER_SESSION_MAX

__all__ = ["Names", "Resolve"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port to addresses, at least one. Raises OSError."""


class Names:
    """Of one session."""

    def __init__(self, *, at_once_max: int = EGRESS_LOOKUPS_PER_SESSION_MAX) -> None:
        self._places = asyncio.Semaphore(at_once_max)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Its addresses, as the machine resolves it; at least one. Cancelling leaves the lookup behind.
        Raises OSError."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def tell(outcome: Sequence[str] | OSError) -> None:
            self._places.release()
            if found.done():
                return
            if isinstance(outcome, OSError):
                found.set_exception(outcome)
            else:
                found.set_result(outcome)

        def look() -> None:
            try:
                outcome: Sequence[str] | OSError = _addresses(host, port)
            except (OSError, UnicodeError) as error:  # a label that is too long is no Unicode to it
                outcome = error if isinstance(error, OSError) else OSError(str(error))
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, outcome)

        # No pool: the process would wait for its threads before it ends.
        threading.Thread(target=look, name="corral-lookup", daemon=True).start()
        return await found


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
