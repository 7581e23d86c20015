"""The door for MCP servers: how the requests of hands hosts to them get out.

    hands host --connects--> mcp.sock: HTTP/1.1, requests as to a proxy, one after another

        POST https://mcp.example.com/v1 HTTP/1.1
        Proxy-Authorization: Bearer <token of this process>
        Corral-Grant: {"session_id": ..., "server": the URL of the agent's server,
                       "allowed_hosts": [...] or null: the environment does not limit it}

The session's token for that server goes along, to the origin of its URL alone: wherever a server sends a
client, the token stays; and what it says back of it is masked. What expired is refreshed first, what is
answered with 401 is refreshed and sent once more: it was not acted upon.

TLS to the server is made here, also for https: what is put into a request never was in the hands host. The
answer is the server's, or ours. An error of the server's says in `Corral-Credential` what was put in; ours
says in `Corral-Trouble` what is wrong. No server can say either:

    refused         it may not be reached: by the environment, the operator, or its address
    unreachable     nothing was sent
    unauthorized    the session's credential for the server cannot be used, or is refused
    broken          it was sent, and there is no answer that could be passed on

An answer that breaks off in the middle ends the connection. What a hands host gives up on ends at the
server, too.
"""

import asyncio
import hmac
import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import h11

from corral.catalog.audit import Ended
from corral.catalog.networking import NetworkPolicy
from corral.egress.bearers import Bearer, Bearers
from corral.egress.book import Book, BookFull
from corral.egress.credentials import CredentialsUnavailable, CredentialUnusable
from corral.egress.dial import Unreachable
from corral.egress.headers import RawHeaders, check_host, passed_on
from corral.egress.outside import Answer, BrokenOff, Outside
from corral.egress.policy import Gate, OperatorHosts, Refused
from corral.egress.refresh import NotRefreshed
from corral.egress.speech import Speech
from corral.egress.substitution import mask_of
from corral.egress.target import BadTarget, Target, whole_url
from corral.egress.wire import Silent, SocketWire
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    EGRESS_CONNECTIONS_MAX,
    EGRESS_GRANT_BYTES_MAX,
    EGRESS_HEAD_BYTES_MAX,
    EGRESS_HEAD_SECONDS,
    MCP_REQUEST_BYTES_MAX,
)

__all__ = ["GRANT", "TROUBLE", "McpDoor", "Trouble"]

_log = logging.getLogger(__name__)
GRANT: Final = b"corral-grant"
TROUBLE: Final = b"corral-trouble"
CREDENTIAL: Final = b"corral-credential"
Trouble = Literal["refused", "unreachable", "unauthorized", "broken"]
_STATUS: Final[Mapping[Trouble, int]] = {
    "refused": 403,
    "unreachable": 502,
    "unauthorized": 401,
    "broken": 502,
}
_OURS: Final = (GRANT, TROUBLE, CREDENTIAL, b"authorization", b"proxy-authorization")
_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_FRAMING: Final = (b"content-length", b"transfer-encoding")


class _Failed(Exception):
    """There is no answer of the server. The message is for the session's user."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble: Trouble = trouble


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One request. server: the URL by which the agent knows it. is_to_server: it is to the origin of that.
    headers: without framing and ours."""

    session_id: SessionId
    server: str
    policy: NetworkPolicy
    method: str
    scheme: str
    target: Target
    path: bytes
    headers: RawHeaders
    is_to_server: bool


@dataclass(kw_only=True, slots=True)
class _Passage:
    """What went through of one request."""

    sent: int = 0
    received: int = 0
    failed: str = ""


class McpDoor:
    """Of one egress process. outside: reaches what the operator allows."""

    def __init__(
        self, *, token: str, operator: OperatorHosts, book: Book, outside: Outside, bearers: Bearers
    ) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._operator = operator
        self._book = book
        self._outside = outside
        self._bearers = bearers
        self._places = asyncio.Semaphore(EGRESS_CONNECTIONS_MAX)
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled; then every connection ends."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._places.acquire()
                end, _ = await loop.sock_accept(listener)
                end.setblocking(False)
                task = loop.create_task(self._serve(end), name="mcp-door")
                self._serving.add(task)
                task.add_done_callback(self._ended)
        finally:
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._outside.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._places.release()

    async def _serve(self, end: socket.socket) -> None:
        near = SocketWire(end)
        head_bytes_max = EGRESS_HEAD_BYTES_MAX + EGRESS_GRANT_BYTES_MAX
        try:
            await self._converse(Speech(near, h11.SERVER, head_bytes_max=head_bytes_max))
        except (OSError, Silent, TimeoutError, h11.ProtocolError, BrokenOff):
            pass  # one of the two sides went away, or stopped talking
        except Exception:  # the boundary of a connection: a bug of ours must not end those of others
            _log.exception("a request to an MCP server failed")
        finally:
            await near.close()

    async def _converse(self, near: Speech) -> None:
        while True:
            async with asyncio.timeout(EGRESS_HEAD_SECONDS):
                request = await near.next_event()
            if not isinstance(request, h11.Request):
                return
            try:
                asked = self._asked(request)
                async with asyncio.timeout(EGRESS_HEAD_SECONDS):
                    body = await _body(near)
            except (BadTarget, ValueError, KeyError, TypeError) as error:
                await _say(near, 400, f"not a request of ours ({error})")
                return
            # A hands host that hangs up has given up: then the server must hear of it, too.
            answering = asyncio.create_task(self._answered(near, asked, body))
            coming = near.wire.coming()
            ends: set[asyncio.Future[Any]] = {answering, coming}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() and not coming.result():
                    return
                await answering
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
            if near.state.our_state is not h11.DONE:
                return
            near.state.start_next_cycle()

    def _asked(self, request: h11.Request) -> _Asked:
        """Raises BadTarget, ValueError, KeyError, TypeError; none repeats a secret."""
        headers: RawHeaders = list(request.headers.raw_items())
        found = {name.lower(): value for name, value in headers}
        if not hmac.compare_digest(found.get(b"proxy-authorization", b""), self._authorization):
            raise ValueError("wrong token")
        grant: Mapping[str, Any] = json.loads(found[GRANT])
        scheme, target, path = whole_url(request.target)
        check_host(headers, target, default_port=443 if scheme == "https" else 80)
        allowed = grant["allowed_hosts"]
        return _Asked(
            session_id=SessionId(str(grant["session_id"])),
            server=str(grant["server"]),
            is_to_server=whole_url(str(grant["server"]).encode())[:2] == (scheme, target),
            policy=NetworkPolicy(hosts=None if allowed is None else tuple(map(str, allowed))),
            method=request.method.decode(),
            scheme=scheme,
            target=target,
            path=path,
            headers=[
                (name, value)
                for name, value in passed_on(headers, keeps_upgrade=False)
                if name.lower() not in _OURS + _FRAMING
            ],
        )

    # -- one request ------------------------------------------------------------------------------------

    async def _answered(self, near: Speech, asked: _Asked, body: bytes) -> None:
        """Raises OSError, BrokenOff in the middle of an answer."""
        try:
            await self._judge(asked)
            bearer = await self._bearer(asked)
            refused = await self._passed(near, asked, body, bearer, is_last=False)
            if refused is not None:
                await self._passed(near, asked, body, await self._newer(asked, refused), is_last=True)
        except _Failed as failed:
            trouble = (TROUBLE, failed.trouble.encode())
            await _say(near, _STATUS[failed.trouble], str(failed), trouble)
        except BookFull as error:
            await _say(near, 503, str(error), (TROUBLE, b"refused"))

    async def _judge(self, asked: _Asked) -> None:
        """Raises _Failed, BookFull."""
        target = asked.target
        try:
            Gate(policy=asked.policy, operator=self._operator).check_name(target.host, target.port)
            await self._outside.judge(target)
        except Refused as refused:
            self._book.begin(
                asked.session_id,
                target,
                asked.method,
                "denied",
                reason=refused.reason,
                detail=refused.detail,
            )
            raise _Failed("refused", refused.reason) from None
        except Unreachable as away:
            entry_id = self._book.begin(asked.session_id, target, asked.method, "allowed")
            self._book.end(Ended(entry_id=entry_id, failed=str(away)))
            raise _Failed("unreachable", str(away)) from None

    async def _bearer(self, asked: _Asked) -> Bearer | None:
        """Raises _Failed."""
        try:
            if asked.is_to_server:
                return await self._bearers.of(asked.session_id, asked.server)
            return None
        except CredentialsUnavailable as away:
            raise _Failed("unreachable", str(away)) from None
        except (CredentialUnusable, NotRefreshed) as error:
            raise _Failed("unauthorized", str(error)) from None

    async def _newer(self, asked: _Asked, refused: Bearer) -> Bearer:
        """Instead of one that the server does not take. Raises _Failed."""
        try:
            newer = await self._bearers.after_refusal(asked.session_id, asked.server, refused)
        except CredentialsUnavailable as away:
            raise _Failed("unreachable", str(away)) from None
        except (CredentialUnusable, NotRefreshed) as error:
            raise _Failed("unauthorized", str(error)) from None
        if newer is None:
            raise _Failed("unauthorized", f"the server does not take credential {refused.credential_id}")
        return newer

    async def _passed(
        self, near: Speech, asked: _Asked, body: bytes, bearer: Bearer | None, *, is_last: bool
    ) -> Bearer | None:
        """Send it, and pass the answer on. The token, if it was refused and there may be another one: then
        nothing was passed on. Raises _Failed, BookFull, OSError, BrokenOff."""
        loop = asyncio.get_running_loop()
        passage, began_at = _Passage(), loop.time()
        entry_id = self._book.begin(
            asked.session_id,
            asked.target,
            asked.method,
            "allowed",
            credential_id=None if bearer is None else bearer.credential_id,
        )
        headers = [*asked.headers, *_framing(asked.method, body)]
        if bearer is not None:
            headers.append(bearer.header())
        try:
            passage.sent += len(body)
            async with self._outside.answer(
                asked.method,
                asked.scheme,
                asked.target,
                asked.path,
                headers=headers,
                body=body,
            ) as answer:
                if answer.status == _UNAUTHORIZED and bearer is not None and not is_last:
                    passage.failed = "the server does not take the token"
                    return bearer
                await self._pass_on(near, answer, passage, bearer)
        except (Unreachable, BrokenOff, OSError) as error:
            passage.failed = str(error) or type(error).__name__
            if near.state.our_state is h11.SEND_RESPONSE and not isinstance(error, OSError):
                trouble: Trouble = "unreachable" if isinstance(error, Unreachable) else "broken"
                raise _Failed(trouble, str(error)) from None
            raise
        finally:
            self._book.end(
                Ended(
                    entry_id=entry_id,
                    sent_bytes=passage.sent,
                    received_bytes=passage.received,
                    seconds=loop.time() - began_at,
                    failed=passage.failed,
                )
            )
        return None

    async def _pass_on(
        self, near: Speech, answer: Answer, passage: _Passage, bearer: Bearer | None
    ) -> None:
        """Without the token, if the server says it back. Raises OSError, BrokenOff."""
        mask = mask_of() if bearer is None else mask_of(bearer.token)
        headers = [
            (mask.all(name), mask.all(value))
            for name, value in passed_on(answer.headers, keeps_upgrade=False)
            if name.lower() not in _OURS and (bearer is None or name.lower() != b"content-length")
        ]
        if bearer is not None and answer.status >= _BAD_REQUEST:
            headers.append((CREDENTIAL, bearer.credential_id.encode()))
        reason = mask.all(answer.reason)
        await near.send(h11.Response(status_code=answer.status, reason=reason, headers=headers))
        async for chunk in answer.chunks:
            passage.received += len(chunk)
            if data := mask.feed(chunk):
                await near.send(h11.Data(data=data))
        if data := mask.end():
            await near.send(h11.Data(data=data))
        await near.send(h11.EndOfMessage())


async def _body(near: Speech) -> bytes:
    """Raises ValueError: it is too long."""
    body = bytearray()
    while isinstance(event := await near.next_event(), h11.Data):
        body += event.data
        if len(body) > MCP_REQUEST_BYTES_MAX:
            raise ValueError(f"its body is longer than {MCP_REQUEST_BYTES_MAX} bytes")
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionResetError
    return bytes(body)


def _framing(method: str, body: bytes) -> RawHeaders:
    if not body and method in ("GET", "HEAD", "DELETE"):
        return []
    return [(b"Content-Length", str(len(body)).encode())]


async def _say(near: Speech, status: int, why: str, *headers: tuple[bytes, bytes]) -> None:
    """An answer of ours; on whose connection the next request may come, unless this one was none."""
    body = f"{why}\n".encode()
    framing = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode()),
    ]
    if near.state.our_state is not h11.SEND_RESPONSE:
        return
    await near.send(h11.Response(status_code=status, headers=[*framing, *headers]))
    await near.send(h11.Data(data=body))
    await near.send(h11.EndOfMessage())
