"""One HTTP/1.1 request to a host, and its answer back: both parsed and written anew, so what we understood
is what the other side reads."""

import asyncio
from dataclasses import dataclass

import h11

from corral.egress.frames import BadFrame
from corral.egress.headers import RawHeaders, passed_on, wants_websocket
from corral.egress.speech import Speech, comes_within
from corral.egress.spoken import SecretSaid, Spoken
from corral.egress.target import Target
from corral.egress.treatment import Answer, Packed, Treatment
from corral.egress.wire import Wire, both
from corral.kernel.limits import EGRESS_IDLE_SECONDS, EGRESS_MASK_SECONDS

__all__ = ["Forwarded", "forward", "kept_headers"]

_BAD_GATEWAY = 502


@dataclass(kw_only=True, slots=True)
class Forwarded:
    """is_over: nothing more can be said to the client on its connection."""

    is_over: bool = True
    failed: str = ""


def kept_headers(asked: h11.Request, target: Target, *, default_port: int) -> RawHeaders:
    """Of a request, as they go on to the host."""
    headers = list(asked.headers.raw_items())
    kept = passed_on(headers, keeps_upgrade=wants_websocket(headers))
    if not any(name.lower() == b"host" for name, _ in kept):
        kept.append((b"Host", target.authority(default_port=default_port)))
    return kept


async def forward(
    near: Speech,
    asked: h11.Request,
    far: Speech,
    headers: RawHeaders,
    *,
    treatment: Treatment | None = None,
) -> Forwarded:
    """asked: its target as the host is to see it. headers: likewise, but for what a treatment changes. The
    body of the request and the answer travel at once.

    Without a treatment the connection to the host is for this request alone, so an answer cannot be taken
    for another's. With one it lives as long as the client's, and is of no other.

    Raises OSError, Silent; whatever the treatment's `uses` raises.
    """
    exchange = _Exchange(near, far, treatment, is_websocket=wants_websocket(asked.headers.raw_items()))
    if treatment is not None:
        headers = await exchange.prepared(treatment)
    elif not exchange.is_websocket:
        headers = [*headers, (b"Connection", b"close")]
    try:
        async with asyncio.timeout(EGRESS_IDLE_SECONDS):  # the host may read nothing
            await far.send(h11.Request(method=asked.method, target=asked.target, headers=headers))
    except h11.LocalProtocolError as error:
        return Forwarded(failed=str(error) if treatment is None else "it cannot be sent as a request")
    try:
        await both(exchange.send_body(), exchange.answer(), near.wire, far.wire, ends_with_back=True)
    except h11.RemoteProtocolError as error:
        return Forwarded(failed=str(error))
    if exchange.has_switched:
        near_wire, far_wire = near.switch(), far.switch()
        back = (
            far_wire.pour(near_wire)
            if treatment is None
            else _watched(far_wire, near_wire, treatment.spoken())
        )
        try:
            await both(near_wire.pour(far_wire), back, near_wire, far_wire)
        except (SecretSaid, BadFrame) as error:
            return Forwarded(failed=str(error))
        return Forwarded()
    if near.state.their_state is h11.SEND_BODY:  # it was answered before it had sent everything
        await near.wire.drain()
    is_over = near.state.our_state is not h11.DONE or near.state.their_state is not h11.DONE
    return Forwarded(is_over=is_over, failed=exchange.failed)


async def _watched(far: Wire, near: Wire, spoken: Spoken) -> None:
    """`pour`, to the first secret. After a pause whole messages go on, whatever is in them. Raises OSError,
    SecretSaid, BadFrame."""
    while True:
        if spoken.holds and not await comes_within(far, EGRESS_MASK_SECONDS):
            await near.write(spoken.let_go())
        data = await far.read()
        await near.write(spoken.feed(data) if data else spoken.end())
        if not data:
            break
    await near.end_output()


class _Exchange:
    def __init__(
        self, near: Speech, far: Speech, treatment: Treatment | None, *, is_websocket: bool
    ) -> None:
        self._near = near
        self._far = far
        self._treatment = treatment
        self.is_websocket = is_websocket
        self.has_switched = False
        self.failed = ""
        self._body: bytes | None = None  # of the request, if it was held
        self._answer: Answer | None = None
        self._response: h11.Response | None = None  # held with its body
        self._held: list[bytes] = []

    # -- the request ----------------------------------------------------------------------------------

    async def prepared(self, treatment: Treatment) -> RawHeaders:
        """The headers. A body that is held is read first.

        Raises OSError, TimeoutError, h11.RemoteProtocolError.
        """
        if not treatment.body_bytes_held:
            return treatment.streamed()
        if self._near.state.they_are_waiting_for_100_continue:
            await self._near.send(h11.InformationalResponse(status_code=100, headers=[]))
        held: list[bytes] = []
        async with asyncio.timeout(EGRESS_IDLE_SECONDS):
            while isinstance(event := await self._near.next_event(), h11.Data):
                held.append(treatment.fed(bytes(event.data)))
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        self._body = b"".join([*held, treatment.ended()])
        return treatment.counted(len(self._body))

    async def send_body(self) -> None:
        if self._body is not None:
            await self._far.send(h11.Data(data=self._body))
            await self._far.send(h11.EndOfMessage())
            return
        treatment = self._treatment
        while True:
            event = await self._near.next_event()
            if isinstance(event, h11.Data):
                data = event.data if treatment is None else treatment.fed(bytes(event.data))
                await self._far.send(h11.Data(data=data))
            elif isinstance(event, h11.EndOfMessage):
                if treatment is not None:
                    await self._far.send(h11.Data(data=treatment.ended()))
                await self._far.send(h11.EndOfMessage(headers=event.headers))
                return
            else:  # it ended in the middle
                raise ConnectionResetError

    # -- its answer -----------------------------------------------------------------------------------

    async def answer(self) -> None:
        while True:
            try:
                event = await self._next()
                if isinstance(event, h11.InformationalResponse):
                    if await self._informed(event):
                        return
                elif isinstance(event, h11.Response):
                    await self._respond(event)
                elif isinstance(event, h11.Data):
                    await self._pass_on(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    await self._finish(event)
                    return
                else:
                    await self._bad_gateway("the host ended the connection without an answer")
                    return
            except Packed as packed:
                await self._bad_gateway(str(packed))
                return
            except h11.RemoteProtocolError as error:
                # Its words have what the host said in them, and what that said may be a secret.
                why = "its answer cannot be read" if self._treatment is not None else str(error)
                await self._bad_gateway(why)
                return

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        """What the host says next. Whole lines do not wait for it: they go on after a while."""
        answer = self._answer
        if answer is not None and answer.holds:
            event = await self._far.event_within(EGRESS_MASK_SECONDS)
            if event is not None:
                return event
            if passed := answer.let_go():
                await self._near.send(h11.Data(data=passed))
        return await self._far.next_event()

    async def _informed(self, event: h11.InformationalResponse) -> bool:
        """Whether the protocol was switched."""
        is_switch = event.status_code == 101
        headers = passed_on(event.headers.raw_items(), keeps_upgrade=is_switch)
        await self._near.send(
            h11.InformationalResponse(
                status_code=event.status_code,
                reason=self._masked(event.reason),
                headers=headers if self._treatment is None else self._treatment.masked(headers),
            )
        )
        self.has_switched = is_switch
        return is_switch

    async def _respond(self, event: h11.Response) -> None:
        headers = passed_on(event.headers.raw_items(), keeps_upgrade=False)
        if self._treatment is not None:
            self._answer = self._treatment.answer(event.status_code, headers)
            headers = self._answer.headers
            if _ends_connection(event):
                headers = [*headers, (b"Connection", b"close")]
                self._answer.headers = headers
        response = h11.Response(
            status_code=event.status_code, reason=self._masked(event.reason), headers=headers
        )
        if self._answer is not None and self._answer.is_held:
            self._response = response
        else:
            await self._near.send(response)

    async def _pass_on(self, data: bytes) -> None:
        for piece in [data] if self._answer is None else self._answer.fed(data):
            if self._response is not None:
                self._held.append(piece)
            else:
                await self._near.send(h11.Data(data=piece))

    async def _finish(self, event: h11.EndOfMessage) -> None:
        if self._answer is None or self._treatment is None:
            await self._near.send(event)
            return
        rest = self._answer.ended()
        if self._response is not None:
            rest = b"".join([*self._held, rest])
            await self._near.send(
                h11.Response(
                    status_code=self._response.status_code,
                    reason=self._response.reason,
                    headers=self._answer.counted(len(rest)),
                )
            )
        await self._near.send(h11.Data(data=rest))
        trailers = self._treatment.masked(list(event.headers.raw_items()))
        await self._near.send(h11.EndOfMessage(headers=trailers))

    def _masked(self, reason: bytes) -> bytes:
        return reason if self._treatment is None else self._treatment.mask.all(bytes(reason))

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


def _ends_connection(event: h11.Response) -> bool:
    """Whether the host will close it after this answer: then so do we, as if there was nobody between."""
    values = [value.lower() for name, value in event.headers.raw_items() if name.lower() == b"connection"]
    return event.http_version < b"1.1" or any(
        word.strip() == b"close" for value in values for word in value.split(b",")
    )
