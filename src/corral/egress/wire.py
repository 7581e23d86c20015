"""One side of a connection that is passed on: where bytes come from and go to, and what was read ahead."""

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from corral.kernel.limits import EGRESS_CHUNK_BYTES, EGRESS_IDLE_SECONDS, EGRESS_LINGER_SECONDS

__all__ = ["Silent", "SocketWire", "Wire", "both", "ending"]


class Silent(Exception):
    """No byte either way for EGRESS_IDLE_SECONDS."""


def ending(error: OSError | Silent) -> str:
    """What the audit says of a connection that such an error ended."""
    match error:
        case Silent():
            return "it was silent for too long"
        case ConnectionResetError() | BrokenPipeError():
            return "one of the two sides cut it off"
        case _:
            return f"the connection failed ({type(error).__name__})"


class Wire(ABC):
    """What is read from it is read once, by one reader at a time. used_at: when a byte last went through,
    by the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead = b""
        self._coming: asyncio.Future[bytes] | None = None
        self._receiving: asyncio.Task[bytes] | None = None  # the last one, whoever waits for it
        self.used_at = self._loop.time()

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Returns when it has been taken. Raises OSError."""

    @abstractmethod
    async def end_output(self) -> None:
        """Nothing more will be written. Repeat: safe. Never raises OSError."""

    @abstractmethod
    async def _receive(self) -> bytes:
        """What comes next from the other side; empty at the end. Raises OSError."""

    @abstractmethod
    async def _end(self) -> None:
        """Nobody reads any more: close what is below."""

    async def read(self) -> bytes:
        """What comes next; empty at the end. Cancelled, it may lose bytes: then the wire is to be closed.
        Raises OSError."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        coming, self._coming = self.coming(), None
        return await coming

    def coming(self) -> "asyncio.Future[bytes]":
        """What `read` will return next. To be waited for, and not cancelled: a read that is cancelled when
        its bytes have just come loses them."""
        if self._coming is None:
            if self._ahead:
                self._coming = self._loop.create_future()
                self._coming.set_result(self._ahead)
                self._ahead = b""
            else:
                self._coming = self._receiving = self._loop.create_task(self._receive())
        return self._coming

    async def drain(self) -> None:
        """End our output and throw away what still comes, for EGRESS_LINGER_SECONDS at most: closed with
        something unread, a connection is reset, and what was last said is lost."""
        await self.end_output()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(EGRESS_LINGER_SECONDS):
                while await self.read():
                    pass

    async def pour(self, into: "Wire") -> None:
        """Pass on what comes until its end, then end the other side's input. Nothing is held while nothing
        comes, and one chunk while the other side does not take it. Raises OSError."""
        while data := await self.read():
            await into.write(data)
        await into.end_output()

    def unread(self, data: bytes) -> None:
        """Give it back, to be read next."""
        self._ahead = data + self._ahead

    async def close(self) -> None:
        """Repeat: safe. Nobody reads any more when the socket is closed, also who was not told that it is
        over, as in a clean-up that was itself cancelled: the loop would take the next socket with the same
        number for this one, and never say that something came on it."""
        try:
            if self._receiving is not None:
                self._receiving.cancel()
                await asyncio.wait({self._receiving})
        finally:
            await self._end()


class SocketWire(Wire):
    """Owns its socket. sent, received: bytes."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__()
        self._socket = end
        self.sent = 0
        self.received = 0

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)
        self.sent += len(data)
        self.used_at = self._loop.time()

    async def end_output(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def _receive(self) -> bytes:
        data = await self._loop.sock_recv(self._socket, EGRESS_CHUNK_BYTES)
        self.received += len(data)
        self.used_at = self._loop.time()
        return data

    async def _end(self) -> None:
        self._socket.close()


async def both(
    there: Coroutine[Any, Any, None],
    back: Coroutine[Any, Any, None],
    *wires: Wire,
    ends_with_back: bool = False,
) -> None:
    """Run the two directions of a connection until both have ended, or one fails: then neither goes on.
    ends_with_back: nothing is sent any more once what came back was all.

    Raises: what a direction raised; Silent when no byte went either way for EGRESS_IDLE_SECONDS.
    """
    loop = asyncio.get_running_loop()
    ways = [loop.create_task(there), loop.create_task(back)]
    open_ways = set(ways)
    try:
        patience = EGRESS_IDLE_SECONDS
        while True:
            done, open_ways = await asyncio.wait(
                open_ways, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for way in done:
                way.result()
            if not open_ways or (ends_with_back and ways[1].done()):
                return
            patience = EGRESS_IDLE_SECONDS - (loop.time() - max(wire.used_at for wire in wires))
            if patience <= 0:
                raise Silent
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
