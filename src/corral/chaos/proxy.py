"""A TCP proxy between one node and what it needs, which can be cut or frozen: a network one can break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Proxy"]

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards connections to (host, port) while it passes. Use as an async context manager."""

    def __init__(self, host: str, port: int, *, at: str = "127.0.0.1") -> None:
        """at: the address to listen on."""
        self._target = host, port
        self._at = at
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self.port = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, self._at, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._passes.set()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> int:
        """Reset every open connection; new ones pass. Returns how many there were."""
        count = len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        return count

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Meanwhile nothing passes: connections stay open, new ones are accepted and hear nothing."""
        self._passes.clear()
        try:
            yield
        finally:
            self._passes.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            await self._passes.wait()
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(there_writer)
        try:
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        except asyncio.CancelledError:
            return  # by `__aexit__`, which is all that has this task; asyncio would print it as a failure
        finally:
            for each in (writer, there_writer):
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
