"""What an idle session with an open event stream costs the server in memory."""

import asyncio
from urllib.parse import urlsplit

from benchmarks.figure import Figure, at_most, value
from benchmarks.stack import Stage, settled_rss, stage

SESSIONS, WARM_UP_SESSIONS = 1000, 200
AT_ONCE = 16  # sessions being created, streams being opened

_Streams = list[asyncio.StreamWriter]


async def measure(runs: int) -> list[Figure]:
    """Once, whatever `runs` says: over a thousand sessions it hardly varies."""
    each, stream = await _once()
    return [
        Figure(
            title=f"memory of an idle session with an open stream, {SESSIONS} of them",
            values=[
                value("session and stream, growth of RSS each", each, "KB", at_most(60)),
                value("of this the stream", stream, "KB"),
            ],
        )
    ]


async def _once() -> tuple[float, float]:
    """Kilobytes for each session with its stream, and for the stream alone."""
    async with stage() as at:
        server = at.server.process("server")
        for writer in await _open(at, await _create(at, WARM_UP_SESSIONS)):  # what the first ones cost once
            writer.close()
        before = await settled_rss(server)
        session_ids = await _create(at, SESSIONS)
        created = await settled_rss(server)
        streams = await _open(at, session_ids)
        streaming = await settled_rss(server)
        for writer in streams:
            writer.close()
    return (streaming - before) / SESSIONS / 1000, (streaming - created) / SESSIONS / 1000


async def _create(at: Stage, count: int) -> list[str]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> str:
        async with places:
            return await at.session_id()

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _open(at: Stage, session_ids: list[str]) -> _Streams:
    places = asyncio.Semaphore(AT_ONCE)
    address = urlsplit(at.server.url)

    async def one(session_id: str) -> asyncio.StreamWriter:
        async with places:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(
                f"GET /v1/sessions/{session_id}/events/stream HTTP/1.1\r\nhost: {address.netloc}\r\n"
                f"x-api-key: {at.server.api_key}\r\n\r\n".encode()
            )
            await reader.readuntil(b": connected")
            return writer

    return list(await asyncio.gather(*map(one, session_ids)))
