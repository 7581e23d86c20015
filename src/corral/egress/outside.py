"""HTTP requests of this process to hosts outside: the MCP servers of agents, and the token endpoints of
their credentials.

httpcore makes and keeps the connections; names are resolved and judged here, and what it dials is an
address that was judged. A connection belongs to the name that it was made for: what TLS proved of one host
is never taken for another one at the same address.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corral.egress.dial import Unreachable, judged
from corral.egress.headers import RawHeaders
from corral.egress.names import Resolve
from corral.egress.policy import Gate
from corral.egress.target import Target
from corral.kernel.limits import (
    EGRESS_IDLE_SECONDS,
    MCP_ADDRESS_SECONDS,
    MCP_CONNECT_SECONDS,
    MCP_KEEP_SECONDS,
)

if TYPE_CHECKING:
    import httpcore2

__all__ = ["Answer", "BrokenOff", "Outside"]

_PATIENCE = {
    "connect": MCP_CONNECT_SECONDS,
    "read": EGRESS_IDLE_SECONDS,
    "write": EGRESS_IDLE_SECONDS,
    "pool": EGRESS_IDLE_SECONDS,
}


class BrokenOff(Exception):
    """The host took some of the request, and there is no whole answer. The message names no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """chunks: of the body, as they come; reading them raises BrokenOff."""

    status: int
    reason: bytes
    headers: RawHeaders
    chunks: AsyncIterator[bytes]

    def header(self, name: bytes) -> bytes:
        """name: in lower case. Empty if it is not there."""
        return next((value for each, value in self.headers if each.lower() == name), b"")


class Outside:
    """Of this process. gate: what the operator lets anybody reach. authorities: more of them (PEM) for TLS,
    beside the system's. Close it with `aclose`."""

    def __init__(self, gate: Gate, *, resolve: Resolve, authorities: Path | None = None) -> None:
        self._gate = gate
        self._resolve = resolve
        self._authorities = authorities
        self._known: dict[Target, tuple[Sequence[str], float]] = {}  # judged addresses, and until when
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def judge(self, target: Target) -> None:
        """Let the host be dialled for MCP_ADDRESS_SECONDS. Raises Refused, Unreachable."""
        now = asyncio.get_running_loop().time()
        if target in self._known and now < self._known[target][1]:
            return
        addresses = await judged(target.host, target.port, gate=self._gate, resolve=self._resolve)
        for stale in [
            known for known, found in self._known.items() if found[1] + MCP_ADDRESS_SECONDS < now
        ]:
            del self._known[stale]  # not just expired: somebody may be about to dial it
        self._known[target] = addresses, now + MCP_ADDRESS_SECONDS

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        scheme: str,
        target: Target,
        path: bytes,
        *,
        headers: RawHeaders,
        body: bytes = b"",
        silent_seconds: float = EGRESS_IDLE_SECONDS,
    ) -> AsyncIterator[Answer]:
        """What a host that was judged answers. Redirects are answers.

        Raises Unreachable: nothing was sent; BrokenOff.
        """
        import httpcore2

        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=scheme.encode(), host=target.host.encode(), port=target.port, target=path),
            headers=headers,
            content=body,
            extensions={"timeout": {**_PATIENCE, "read": silent_seconds}},
        )
        with _translated():
            response = await self._opened_pool().handle_async_request(request)
        try:
            yield Answer(
                status=response.status,
                reason=response.extensions.get("reason_phrase", b""),
                headers=list(response.headers),
                chunks=_chunks(response),
            )
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    def _opened_pool(self) -> "httpcore2.AsyncConnectionPool":
        """Imported by the first request: most egress processes never make one."""
        if self._pool is None:
            import httpcore2

            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=_tls(self._authorities),
                max_connections=None,  # whoever asks is bounded
                keepalive_expiry=MCP_KEEP_SECONDS,
                network_backend=_checked_dial(self._known),
            )
        return self._pool


async def _chunks(response: "httpcore2.Response") -> AsyncIterator[bytes]:
    with _translated():
        async for chunk in response.aiter_stream():
            yield chunk


def _checked_dial(known: dict[Target, tuple[Sequence[str], float]]) -> "httpcore2.AsyncNetworkBackend":
    """Dials what is known of a host, and no other."""
    import httpcore2

    class CheckedDial(httpcore2.AnyIOBackend):
        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.AsyncNetworkStream:
            addresses, _ = known[Target(host, port)]
            last: Exception | None = None
            for address in addresses:
                try:
                    return await super().connect_tcp(address, port, timeout, local_address, socket_options)
                except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                    last = error
            raise last or httpcore2.ConnectError("no address")

    return CheckedDial()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """httpcore's errors as ours. Their words may quote what was sent: none of them is passed on."""
    import httpcore2

    try:
        yield
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout) as error:
        said = "its certificate is not valid" if _is_certificate(error) else "it takes no connections"
        raise Unreachable(said) from None
    except httpcore2.TimeoutException:
        raise BrokenOff("it was silent for too long") from None
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
        raise BrokenOff("it broke off") from None
    except httpcore2.LocalProtocolError:
        raise BrokenOff("the request cannot be sent") from None


def _is_certificate(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _tls(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities is not None:
        context.load_verify_locations(authorities)
    return context
