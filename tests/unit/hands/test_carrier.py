"""What carries connections out of a sandbox that has a kernel of its own: here on the machine's."""

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_SECONDS = 60.0
_CARRIER = """
import sys
from corral.hands.sandbox_agent import carrier, way_out
listening = way_out.listen(0)
print(listening.getsockname()[1], flush=True)
carrier.Carrying(listening, sys.argv[1]).run()
"""


@asynccontextmanager
async def carried(serve: Serve, *, is_open: bool = True) -> AsyncIterator[int]:
    """The port from which it carries to a unix socket that is served so, if it is open."""
    with tempfile.TemporaryDirectory() as folder:
        way = f"{folder}/way"
        server = await asyncio.start_unix_server(serve, way)
        if not is_open:
            Path(way).unlink()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CARRIER, way, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout
            async with server, asyncio.timeout(_SECONDS):
                yield int(await process.stdout.readline())
                assert process.returncode is None
        finally:
            process.kill()
            await process.wait()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    writer.write(b"over")
    writer.close()


async def exchanged(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    _, answer = await asyncio.gather(send(), reader.read(-1))
    writer.close()
    return answer


async def test_both_ways_at_once_and_each_ends_by_itself() -> None:
    data = os.urandom(4_000_000)
    async with carried(echo) as port:
        answer = await exchanged(port, data)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data + b"over").digest()


async def test_many_at_once() -> None:
    async with carried(echo) as port:
        answers = await asyncio.gather(*(exchanged(port, b"%d" % n * 1000) for n in range(200)))
    assert answers == [b"%d" % n * 1000 + b"over" for n in range(200)]


async def test_an_answer_comes_though_nobody_takes_what_is_sent() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.write(b"too much")
        writer.close()

    async with carried(refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(1000))
        assert await reader.read(8) == b"too much"
        writer.close()
        assert await answered(port) == b"too much"


async def answered(port: int) -> bytes:
    """What comes back to ten bytes, until somebody ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(bytes(10))
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_one_that_is_cut_off_ends_at_the_door() -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read(-1)
        ended.set()
        writer.close()

    async with carried(wait) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(5) == b"hello"
        writer.transport.abort()
        await ended.wait()


async def test_where_the_door_is_closed_it_goes_on() -> None:
    async with carried(echo, is_open=False) as port:
        assert [await answered(port) for _ in range(2)] == [b"", b""]
