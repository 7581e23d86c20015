"""A connection that a client fills with requests which each ask for another protocol."""

import asyncio
from typing import Any

import uvicorn

from corral.api.connection import Receiver

_WISH = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def test_many_wishes_for_another_protocol_cost_no_more_than_one() -> None:
    loop, broken = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: broken.append(context["message"]))
    config = uvicorn.Config(_app, lifespan="off", ws="none", http=Receiver, log_config=None)
    config.load()
    state = uvicorn.Server(config).server_state
    server = await loop.create_server(
        lambda: Receiver(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(_WISH * 4000)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 ") and not broken
