"""A closed wire leaves nothing behind: the loop must not take the next socket with its number for it."""

import asyncio
import socket
import ssl

import pytest

from corral.egress.tls import TlsWire
from corral.egress.wire import SocketWire, Wire


async def _registered(end: socket.socket) -> None:
    """Once the loop watches for what comes."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while end.fileno() not in loop._selector.get_map():  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("reads_ahead", [True, False])
@pytest.mark.parametrize("has_tls", [True, False])
async def test_who_still_reads_is_ended_first(has_tls: bool, reads_ahead: bool) -> None:
    """Although nobody told the reader, or closed what is above: clean-ups can be cut short."""
    end, other = socket.socketpair()
    end.setblocking(False)
    below = SocketWire(end)
    wire: Wire = below
    if has_tls:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="origin.test")
        wire = TlsWire(below, tls, incoming, outgoing)
    with other:
        reading = asyncio.ensure_future(wire.coming() if reads_ahead else wire.read())
        await _registered(end)
        number = end.fileno()
        await below.close()
        assert not asyncio.get_running_loop().remove_reader(number)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(reading, 60)


async def test_a_close_that_is_cancelled_still_closes() -> None:
    end, other = socket.socketpair()
    end.setblocking(False)
    wire = SocketWire(end)
    with other:
        reading = asyncio.ensure_future(wire.read())
        await _registered(end)
        number = end.fileno()
        closing = asyncio.ensure_future(wire.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert end.fileno() == -1 and not asyncio.get_running_loop().remove_reader(number)
        with pytest.raises(asyncio.CancelledError):
            await reading
