"""The proxy of one sandbox: reads what a connection wants, decides, writes the decision down, and has it
done.

    GET http://host/...      `forward`: parsed, judged, written anew
    CONNECT host:port        `tunnel`: passed through; TLS must name that host. What turns out to be HTTP in
                             clear text is served like the first kind, for that host alone. TLS to a host
                             for which the session has a credential is `opened`.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11

from corral.catalog.audit import Ended
from corral.egress.book import Book, BookFull
from corral.egress.credentials import CredentialsUnavailable
from corral.egress.dial import Unreachable, dial
from corral.egress.forward import forward, kept_headers
from corral.egress.headers import OtherHost, check_host
from corral.egress.hello import begins_tls
from corral.egress.names import Resolve
from corral.egress.opened import Opening, converse
from corral.egress.policy import Gate, Refused
from corral.egress.speech import Speech, refuse
from corral.egress.substitution import Substitution
from corral.egress.target import BadTarget, Target, absolute_target, connect_target
from corral.egress.tunnel import checked_hello, is_http, opened, pass_through
from corral.egress.wire import Silent, SocketWire, ending
from corral.kernel.ids import SessionId
from corral.kernel.limits import EGRESS_HEAD_SECONDS, EGRESS_METHOD_CHARS_MAX

__all__ = ["Proxy"]

_log = logging.getLogger(__name__)
_HTTP_PORT = 80


@dataclass(kw_only=True, slots=True)
class _Passage:
    """A connection to a host that was allowed. is_narrow: only for the session's repositories there."""

    far: SocketWire
    is_narrow: bool = False
    failed: str = ""


class Proxy:
    def __init__(
        self,
        session_id: SessionId,
        gate: Gate,
        *,
        book: Book,
        resolve: Resolve,
        opening: Opening | None = None,
    ) -> None:
        """opening: for a session that has credentials, in a sandbox that trusts our certificates."""
        self._opening = opening
        self._session_id = session_id
        self._gate = gate
        self._book = book
        self._resolve = resolve

    async def serve(self, end: socket.socket) -> None:
        """One connection from the sandbox, to its end. Owns the socket. Never raises but CancelledError."""
        near = SocketWire(end)
        try:
            await self._converse(Speech(near, h11.SERVER), only=None)
        except (OSError, Silent, TimeoutError, h11.LocalProtocolError):
            pass  # one of the two sides went away, or stopped talking
        except Exception:  # the boundary of a connection: a bug of ours must not end those of others
            _log.exception("a connection of %s failed", self._session_id)
        finally:
            await near.close()

    async def _converse(self, near: Speech, *, only: Target | None) -> None:
        """Requests, one after another. only: the host that this connection was opened to."""
        while True:
            try:
                async with asyncio.timeout(EGRESS_HEAD_SECONDS):
                    request = await near.next_event()
            except h11.RemoteProtocolError as error:
                await refuse(near, error.error_status_hint, str(error))
                return
            if not isinstance(request, h11.Request):
                return
            try:
                if len(request.method) > EGRESS_METHOD_CHARS_MAX:
                    raise BadTarget("there is no such method")
                if request.method == b"CONNECT":
                    await self._connect(near, request, only=only)
                    return
                is_over = await self._request(near, request, only=only)
            except BadTarget as error:
                await refuse(near, 400, str(error))
                return
            except (BookFull, CredentialsUnavailable) as error:
                await refuse(near, 503, str(error))
                return
            if is_over:
                return
            near.state.start_next_cycle()

    # -- what a request asks for ----------------------------------------------------------------------

    async def _request(self, near: Speech, request: h11.Request, *, only: Target | None) -> bool:
        """Whether the connection is over afterwards. Raises BadTarget, BookFull, OSError, Silent."""
        if only is None:
            target, path = absolute_target(request.target)
        elif request.target.startswith(b"/") or request.target == b"*":
            target, path = only, request.target
        else:
            raise BadTarget("this connection is to one host: send the path alone")
        default_port = only.port if only else _HTTP_PORT
        if not await self._says_one_host(near, request, target, only, default_port=default_port):
            return True
        async with self._passage(near, target, request.method.decode()) as passage:
            if passage is None:
                return True
            asked = h11.Request(method=request.method, target=path, headers=request.headers)
            headers = kept_headers(request, target, default_port=_HTTP_PORT)
            outcome = await forward(near, asked, Speech(passage.far, h11.CLIENT), headers)
            passage.failed = outcome.failed
            return outcome.is_over

    async def _connect(self, near: Speech, request: h11.Request, *, only: Target | None) -> None:
        """Raises BadTarget, BookFull, CredentialsUnavailable, OSError, Silent."""
        target = connect_target(request.target)
        if not await self._says_one_host(near, request, target, only, default_port=target.port):
            return
        async with asyncio.timeout(EGRESS_HEAD_SECONDS):
            if isinstance(await near.next_event(), h11.Data):
                raise BadTarget("a CONNECT has no body")
        puts = await self._opening.substitution(target) if self._opening is not None else Substitution()
        has_repository = bool(puts.additions)
        async with self._passage(near, target, "CONNECT", has_repository=has_repository) as passage:
            if passage is None:
                return
            await near.send(h11.Response(status_code=200, reason=b"Connection established", headers=[]))
            wire = near.switch()
            first = await opened(wire, passage.far)
            if not is_http(first) or passage.is_narrow:
                try:
                    if self._opening is not None and puts and begins_tls(first):
                        wire.unread(await checked_hello(wire, first, target))
                        passage.failed = await converse(
                            self._opening, wire, passage.far, target, is_narrow=passage.is_narrow
                        )
                    elif passage.is_narrow:
                        raise Refused("only TLS goes to the host of a repository")
                    else:
                        await pass_through(wire, passage.far, first, target)
                except Refused as refused:
                    passage.failed = refused.reason
                    self._deny(target, "CONNECT", refused)
                return
        wire.unread(first)
        await self._converse(Speech(wire, h11.SERVER), only=target)

    async def _says_one_host(
        self, near: Speech, request: h11.Request, target: Target, only: Target | None, *, default_port: int
    ) -> bool:
        """Otherwise it is refused. Raises BadTarget, BookFull, OSError."""
        try:
            if only is not None and target != only:
                raise OtherHost("this connection is to another host already")
            check_host(list(request.headers.raw_items()), target, default_port=default_port)
        except OtherHost as other:
            self._deny(target, request.method.decode(), Refused(str(other)))
            await refuse(near, 403, f"{target.host} is blocked: {other}")
            return False
        return True

    # -- the way there --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _passage(
        self, near: Speech, target: Target, method: str, *, has_repository: bool = False
    ) -> AsyncGenerator[_Passage | None, None]:
        """A connection to the host, and its entry in the book; None if there is none: the client knows.
        has_repository: the session has one there, and its token.

        Raises BookFull, OSError."""
        is_narrow = False
        try:
            try:
                end = await dial(target.host, target.port, gate=self._gate, resolve=self._resolve)
            except Refused:
                if not has_repository:
                    raise
                is_narrow, gate = True, self._gate.of_repositories()
                end = await dial(target.host, target.port, gate=gate, resolve=self._resolve)
        except Refused as refused:
            self._deny(target, method, refused)
            await refuse(near, 403, f"{target.host} is blocked: {refused.reason}")
            yield None
            return
        except Unreachable as away:
            entry_id = self._book.begin(self._session_id, target, method, "allowed")
            self._book.end(Ended(entry_id=entry_id, failed=str(away)))
            await refuse(near, 502, f"{target.host} cannot be reached: {away}")
            yield None
            return
        loop = asyncio.get_running_loop()
        passage = _Passage(far=SocketWire(end), is_narrow=is_narrow)
        began_at = loop.time()
        try:
            entry_id = self._book.begin(self._session_id, target, method, "allowed")
            try:
                yield passage
            except (OSError, Silent) as error:
                passage.failed = passage.failed or ending(error)
                raise
            finally:
                self._book.end(
                    Ended(
                        entry_id=entry_id,
                        sent_bytes=passage.far.sent,
                        received_bytes=passage.far.received,
                        seconds=loop.time() - began_at,
                        failed=passage.failed,
                    )
                )
        finally:
            await passage.far.close()

    def _deny(self, target: Target, method: str, refused: Refused) -> None:
        """Raises BookFull."""
        self._book.begin(
            self._session_id, target, method, "denied", reason=refused.reason, detail=refused.detail
        )
