"""Which hosts the package managers of a sandbox fetch from: asked inside, in one that nobody ever used."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from corral.hands.providers.walls import Process
from corral.kernel.hosts import canonical_host
from corral.kernel.limits import REGISTRIES_BYTES_MAX, REGISTRIES_MAX

__all__ = ["Registries"]


class Registries:
    """Of one provider. asking: `sandbox_agent.registries`, running in a sandbox of its own."""

    def __init__(self, asking: Callable[[], AbstractAsyncContextManager[Process]]) -> None:
        self._asking = asking
        self._turn = asyncio.Lock()
        self._known: tuple[str, ...] | None = None

    async def hosts(self) -> tuple[str, ...]:
        """Asked once: it takes seconds, and the machine's configuration is read when a host starts.
        Raises SandboxUnavailable."""
        async with self._turn:
            if self._known is None:
                async with self._asking() as process:
                    self._known = _hosts_in(await _said_by(process))
            return self._known


async def _said_by(process: Process) -> bytes:
    said = b""
    while len(said) < REGISTRIES_BYTES_MAX and (chunk := await process.reader.read(REGISTRIES_BYTES_MAX)):
        said += chunk
    return said


def _hosts_in(said: bytes) -> tuple[str, ...]:
    """The hosts of the URLs in a text."""
    hosts: dict[str, None] = {}
    for url in said.decode(errors="replace").split():
        try:
            host = canonical_host(urlsplit(url).hostname or "")
        except ValueError:
            continue
        if host is not None:
            hosts[host] = None
    return tuple(hosts)[:REGISTRIES_MAX]
