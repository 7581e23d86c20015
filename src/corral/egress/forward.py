"""One HTTP/1.1 request to a host, and its answer back: both parsed and written anew, so what we understood
is what the other side reads."""

from dataclasses import dataclass

import h11

from corral.egress.headers import passed_on, wants_websocket
from corral.egress.speech import Speech
from corral.egress.target import Target
from corral.egress.wire import both

__all__ = ["Forwarded", "forward"]

_HTTP_PORT = 80
_BAD_GATEWAY = 502


@dataclass(kw_only=True, slots=True)
class Forwarded:
    """is_over: nothing more can be said to the client on its connection."""

    is_over: bool = True
    failed: str = ""


async def forward(near: Speech, asked: h11.Request, far: Speech, target: Target) -> Forwarded:
    """asked: its target as the host is to see it. The body of the request and the answer travel at once.

    Raises OSError, Silent.
    """
    headers = list(asked.headers.raw_items())
    is_websocket = wants_websocket(headers)
    exchange = _Exchange(near, far, is_websocket=is_websocket)
    # Each request has a connection of its own to the host: an answer cannot be taken for another's.
    kept = passed_on(headers, keeps_upgrade=is_websocket)
    if not is_websocket:
        kept.append((b"Connection", b"close"))
    if not any(name.lower() == b"host" for name, _ in kept):
        host = f"[{target.host}]" if ":" in target.host else target.host
        kept.append(
            (b"Host", f"{host}:{target.port}".encode() if target.port != _HTTP_PORT else host.encode())
        )
    try:
        await far.send(h11.Request(method=asked.method, target=asked.target, headers=kept))
    except h11.LocalProtocolError as error:
        return Forwarded(failed=str(error))
    try:
        await both(exchange.send_body(), exchange.answer(), near.wire, far.wire, ends_with_back=True)
    except h11.RemoteProtocolError as error:
        return Forwarded(failed=str(error))
    if exchange.has_switched:
        near_wire, far_wire = near.switch(), far.switch()
        await both(near_wire.pour(far_wire), far_wire.pour(near_wire), near_wire, far_wire)
        return Forwarded()
    if near.state.their_state is h11.SEND_BODY:  # it was answered before it had sent everything
        await near.wire.drain()
    is_over = near.state.our_state is not h11.DONE or near.state.their_state is not h11.DONE
    return Forwarded(is_over=is_over, failed=exchange.failed)


class _Exchange:
    def __init__(self, near: Speech, far: Speech, *, is_websocket: bool) -> None:
        self._near = near
        self._far = far
        self._is_websocket = is_websocket
        self.has_switched = False
        self.failed = ""

    async def send_body(self) -> None:
        while True:
            event = await self._near.next_event()
            if isinstance(event, h11.Data):
                await self._far.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._far.send(h11.EndOfMessage(headers=event.headers))
                return
            else:  # it ended in the middle
                raise ConnectionResetError

    async def answer(self) -> None:
        while True:
            try:
                event = await self._far.next_event()
            except h11.RemoteProtocolError as error:
                await self._bad_gateway(str(error))
                return
            if isinstance(event, h11.InformationalResponse):
                if await self._informed(event):
                    return
            elif isinstance(event, h11.Response):
                await self._near.send(self._response(event))
            elif isinstance(event, h11.Data):
                await self._near.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._near.send(h11.EndOfMessage(headers=event.headers))
                return
            else:
                await self._bad_gateway("the host ended the connection without an answer")
                return

    async def _informed(self, event: h11.InformationalResponse) -> bool:
        """Whether the protocol was switched."""
        is_switch = event.status_code == 101
        headers = passed_on(event.headers.raw_items(), keeps_upgrade=is_switch)
        await self._near.send(
            h11.InformationalResponse(status_code=event.status_code, reason=event.reason, headers=headers)
        )
        self.has_switched = is_switch
        return is_switch

    def _response(self, event: h11.Response) -> h11.Response:
        headers = passed_on(event.headers.raw_items(), keeps_upgrade=False)
        return h11.Response(status_code=event.status_code, reason=event.reason, headers=headers)

    async def _bad_gateway(self, why: str) -> None:
        self.failed = why
        if self._near.state.our_state is not h11.SEND_RESPONSE:
            raise ConnectionResetError  # in the middle of an answer: it must not look whole
        body = f"the host does not speak HTTP: {why}\n".encode()
        headers = [("Content-Length", str(len(body))), ("Connection", "close")]
        await self._near.send(
            h11.Response(status_code=_BAD_GATEWAY, reason=b"Bad Gateway", headers=headers)
        )
        await self._near.send(h11.Data(data=body))
        await self._near.send(h11.EndOfMessage())
