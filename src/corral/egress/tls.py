"""TLS on a wire, either side of it: OpenSSL between what is said and what is sent."""

import asyncio
import contextlib
import ssl

from corral.egress.wire import Wire
from corral.kernel.limits import EGRESS_CHUNK_BYTES, EGRESS_TLS_SECONDS

__all__ = ["TlsWire"]


class TlsWire(Wire):
    """Owns the wire below. Make it by `accept` or `connect`."""

    def __init__(
        self, below: Wire, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__()
        self._below = below
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = asyncio.Lock()  # records go out in the order in which they were made

    @classmethod
    async def accept(cls, below: Wire, context: ssl.SSLContext) -> "TlsWire":
        """As a server. Raises OSError (ssl.SSLError is one), TimeoutError: then `below` is to be closed."""
        return await cls._begun(below, context, server_name=None)

    @classmethod
    async def connect(cls, below: Wire, context: ssl.SSLContext, server_name: str) -> "TlsWire":
        """As a client, which checks that the certificate is of this name. Raises likewise."""
        return await cls._begun(below, context, server_name=server_name)

    @classmethod
    async def _begun(cls, below: Wire, context: ssl.SSLContext, *, server_name: str | None) -> "TlsWire":
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(
            incoming, outgoing, server_side=server_name is None, server_hostname=server_name
        )
        wire = cls(below, tls, incoming, outgoing)
        async with asyncio.timeout(EGRESS_TLS_SECONDS):
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    await wire._flush()
                    await wire._feed()
                except ssl.SSLError:
                    with contextlib.suppress(OSError):
                        await wire._flush()  # the alert that says why
                    raise
                else:
                    await wire._flush()
                    return wire

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()
        self.used_at = self._loop.time()

    async def end_output(self) -> None:
        with contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            await self._flush()
        await self._below.end_output()

    async def drain(self) -> None:
        await self.end_output()
        await self._below.drain()  # nobody reads what it says

    async def _receive(self) -> bytes:
        while True:
            try:
                data = self._tls.read(EGRESS_CHUNK_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
                continue
            except ssl.SSLEOFError:
                if self._tls.server_side:  # a request says how long it is, and many clients just go
                    return b""
                raise ConnectionResetError("TLS was cut off") from None  # what came may be a part only
            records, size = [data], len(data)
            with contextlib.suppress(ssl.SSLError):  # no more is here; errors come at the next read
                while data and size < EGRESS_CHUNK_BYTES:
                    records.append(data := self._tls.read(EGRESS_CHUNK_BYTES - size))
                    size += len(data)
            self.used_at = self._loop.time()
            return b"".join(records)

    async def _feed(self) -> None:
        data = await self._below.read()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._below.write(data)

    async def _end(self) -> None:
        await self._below.close()
