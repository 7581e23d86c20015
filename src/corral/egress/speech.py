"""HTTP/1.1 on a wire, as h11 reads and writes it."""

import asyncio
import contextlib
from typing import TypeVar

import h11

from corral.egress.wire import Wire
from corral.kernel.limits import EGRESS_HEAD_BYTES_MAX

__all__ = ["Speech", "refuse"]

_Sent = TypeVar("_Sent", bound=h11.Event)


class Speech:
    """role: h11.SERVER towards a sandbox, h11.CLIENT towards a host."""

    def __init__(
        self,
        wire: Wire,
        role: type[h11.SERVER] | type[h11.CLIENT],
        *,
        head_bytes_max: int = EGRESS_HEAD_BYTES_MAX,
    ) -> None:
        self.wire = wire
        self.state = h11.Connection(role, max_incomplete_event_size=head_bytes_max)

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """Raises OSError, h11.RemoteProtocolError."""
        while True:
            event = self.state.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event) or event is h11.PAUSED
                return event
            self.state.receive_data(await self.wire.read())

    async def event_within(self, seconds: float) -> h11.Event | type[h11.PAUSED] | None:
        """The next event; None if nothing came for so long. Raises likewise."""
        while True:
            event = self.state.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event) or event is h11.PAUSED
                return event
            if not await comes_within(self.wire, seconds):
                return None
            self.state.receive_data(await self.wire.read())

    async def send(self, event: h11.Event) -> None:
        """Raises OSError, h11.LocalProtocolError."""
        data = self.state.send(event)
        if data:
            await self.wire.write(data)

    def switch(self) -> Wire:
        """The wire, from where HTTP ended on it."""
        unread, _ = self.state.trailing_data
        self.wire.unread(unread)
        return self.wire


async def comes_within(wire: Wire, seconds: float) -> bool:
    """Whether there is something to read, or an end, within this time. Nothing is lost if there is not."""
    coming = wire.coming()
    await asyncio.wait({coming}, timeout=seconds)
    return coming.done()


async def refuse(near: Speech, status: int, why: str) -> None:
    """Say so, and end the connection. The reason stands in the status line, too: of an answer to a CONNECT,
    most programs show nothing else."""
    if near.state.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"{why}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    reason = why.encode("ascii", "replace").replace(b"\r", b" ").replace(b"\n", b" ")[:300]
    with contextlib.suppress(OSError, h11.LocalProtocolError):
        await near.send(h11.Response(status_code=status, reason=reason, headers=headers))
        await near.send(h11.Data(data=body))
        await near.send(h11.EndOfMessage())
        await near.wire.drain()
