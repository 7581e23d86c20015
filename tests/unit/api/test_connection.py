"""Connections on asyncio's own loop: what each asks for, and what it sends over TLS beside others."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn

from corral.api.connection import Receiver
from corral.testing.certificates import certificates

_WISH = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def _hashing(scope: Any, receive: Any, send: Any) -> None:
    """Says what body came."""
    body, more = sha256(), True
    while more:
        message = await receive()
        body.update(message.get("body", b""))
        more = message.get("more_body", False)
    said = body.hexdigest().encode()
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@asynccontextmanager
async def _listening(app: Any, tls: ssl.SSLContext | None = None) -> AsyncGenerator[tuple[str, int], None]:
    config = uvicorn.Config(app, lifespan="off", ws="none", http=Receiver, log_config=None)
    config.load()
    state = uvicorn.Server(config).server_state
    server = await asyncio.get_running_loop().create_server(
        lambda: Receiver(config=config, server_state=state, app_state={}), "127.0.0.1", 0, ssl=tls
    )
    async with server, asyncio.timeout(60):
        yield server.sockets[0].getsockname()


async def test_many_wishes_for_another_protocol_cost_no_more_than_one() -> None:
    loop, broken = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: broken.append(context["message"]))
    async with _listening(_app) as at:
        reader, writer = await asyncio.open_connection(*at)
        writer.write(_WISH * 4000)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 ") and not broken


async def test_large_bodies_come_whole_over_tls_beside_each_other(tmp_path: Path) -> None:
    authority, certificate, key = certificates(tmp_path, "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(authority))

    async def sent(at: tuple[str, int], body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*at, ssl=trusting)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await reader.readuntil(b"\r\n\r\n")
        said = await reader.readexactly(64)
        writer.close()
        return said

    bodies = [bytes([at]) * 1_000_000 for at in range(4)]
    async with _listening(_hashing, tls) as at:
        said = await asyncio.gather(*(sent(at, body) for body in bodies))
    assert said == [sha256(body).hexdigest().encode() for body in bodies]
