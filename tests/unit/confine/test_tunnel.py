"""What a program in a sandbox asks the way out for, as whoever runs it judges it."""

import asyncio
import os
import socket

import pytest

from corral.confine.tunnel import Tunnel
from corral.confine.way import Way


@pytest.mark.parametrize(
    ("asked", "judged"),
    [
        (b"CONNECT EXAMPLE.com:443", ("example.com", 443)),
        (b"CONNECT example.com.:443", ("example.com", 443)),
        (b"CONNECT [::0:1]:443", ("::1", 443)),
        (b"GET http://example.com./", ("example.com", 80)),
        (b"CONNECT example.com..:443", None),
        (b"CONNECT [1.2.3.4]:443", None),
    ],
)
async def test_a_host_is_judged_by_the_name_by_which_it_is_reached(
    asked: bytes, judged: tuple[str, int] | None
) -> None:
    """However it is spelled: the egress process knows each by one name."""
    seen: list[tuple[str, int]] = []

    def allows(host: str, port: int) -> bool:
        seen.append((host, port))
        return False

    tunnel = Tunnel(Way(None, {}), bytes_max=1, sent_bytes_max=1, silent_seconds=30, allows=allows)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with asyncio.timeout(30), tunnel.door() as door:
            with socket.socket(fileno=os.dup(door)) as host:  # as `corral.confine.door` does inside
                socket.send_fds(host, [b"listen"], [listening.fileno()])
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(asked + b" HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
    assert seen == ([] if judged is None else [judged])
    assert answer.startswith(b"HTTP/1.1 400 " if judged is None else b"HTTP/1.1 403 ")
