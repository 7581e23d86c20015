"""TLS from a sandbox to a host for which its session has credentials: opened here, made anew to the host.

The sandbox sees a certificate of its own authority (`authority`), the host a client that checks the host's
certificate as programs do. Between the two it is HTTP/1.1, request by request, each with an entry of its
own in the book; the two connections begin and end together, so a client notices nothing of ours.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h11

from corral.catalog.audit import Ended
from corral.egress.authority import Authorities
from corral.egress.book import Book, BookFull
from corral.egress.credentials import Credentials, CredentialsUnavailable, CredentialUnusable
from corral.egress.forward import forward, kept_headers
from corral.egress.headers import OtherHost, check_host
from corral.egress.speech import Speech, refuse
from corral.egress.substitution import Substitution, substitution_of
from corral.egress.target import BadTarget, Target
from corral.egress.tls import TlsWire
from corral.egress.treatment import Treatment
from corral.egress.wire import Silent, SocketWire, Wire, ending
from corral.kernel.ids import CredentialId, SessionId
from corral.kernel.limits import EGRESS_HEAD_SECONDS, EGRESS_METHOD_CHARS_MAX

__all__ = ["Opening", "Openings", "converse"]

_HTTPS_PORT = 443


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What is needed to open the TLS of one session. substitution: what it has for a host now; raises
    CredentialsUnavailable. roots: how certificates of hosts are checked."""

    session_id: SessionId
    substitution: Callable[[Target], Awaitable[Substitution]]
    authorities: Authorities
    roots: Callable[[], ssl.SSLContext]
    book: Book


class Openings:
    """Of all sessions. trusted: files of more authorities (PEM) that may sign the certificates of hosts,
    beside the system's."""

    def __init__(
        self,
        credentials: Credentials,
        authorities: Authorities,
        *,
        book: Book,
        trusted: Sequence[Path] = (),
    ) -> None:
        self._credentials = credentials
        self._authorities = authorities
        self._book = book
        self._trusted = trusted
        self._context: ssl.SSLContext | None = None

    def of(self, session_id: SessionId, *, looks_anew: bool = False) -> Opening:
        """looks_anew: what is known of the session's credentials may be too old."""

        async def substitution(target: Target) -> Substitution:
            nonlocal looks_anew
            look = self._credentials.again if looks_anew else self._credentials.of
            credentials, looks_anew = await look(session_id), False
            return substitution_of(credentials, target)

        return Opening(
            session_id=session_id,
            substitution=substitution,
            authorities=self._authorities,
            roots=self._roots,
            book=self._book,
        )

    def _roots(self) -> ssl.SSLContext:
        if self._context is None:  # the system's are two megabytes: not of a process that needs none
            context = ssl.create_default_context()
            for authorities in self._trusted:
                context.load_verify_locations(authorities)
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context


async def converse(
    opening: Opening, near: Wire, far: SocketWire, target: Target, *, is_narrow: bool = False
) -> str:
    """Be the host towards the sandbox, to the end of the connection. near: its TLS hello was not read yet.
    far: a new connection to the host. is_narrow: only for requests that something is put on. Returns what
    went wrong, if anything did.

    Raises OSError, Silent, TimeoutError.
    """
    reaching = asyncio.ensure_future(TlsWire.connect(far, opening.roots(), target.host))  # meanwhile
    try:
        try:
            secure = await TlsWire.accept(near, opening.authorities.server(opening.session_id, target.host))
        except ssl.SSLError as error:
            return (
                "the TLS client does not take the certificate of this proxy"
                f" ({error.reason or 'no reason'})"
            )
        near_speech = Speech(secure, h11.SERVER)
        conversation = _Conversation(opening, near_speech, far, reaching, target, is_narrow=is_narrow)
        try:
            await conversation.run()
        finally:
            await secure.close()
        return conversation.failed
    finally:
        reaching.cancel()
        [reached] = await asyncio.gather(reaching, return_exceptions=True)
        if isinstance(reached, TlsWire):
            await reached.close()


class _Conversation:
    """reaching: makes TLS to the host on `below`."""

    def __init__(
        self,
        opening: Opening,
        near: Speech,
        below: SocketWire,
        reaching: "asyncio.Future[TlsWire]",
        target: Target,
        *,
        is_narrow: bool,
    ) -> None:
        self._opening = opening
        self._is_narrow = is_narrow
        self._near = near
        self._below = below
        self._reaching = reaching
        self._target = target
        self._far: Speech | None = None
        self.failed = ""

    async def run(self) -> None:
        near = self._near
        while True:
            try:
                request = await self._next_request()
                if not isinstance(request, h11.Request):
                    return
                is_over = await self._request(request)
            except h11.RemoteProtocolError as error:
                await refuse(near, error.error_status_hint, str(error))
                return
            except BadTarget as error:
                await refuse(near, 400, str(error))
                return
            except (CredentialsUnavailable, BookFull) as error:
                await refuse(near, 503, str(error))
                return
            except CredentialUnusable as error:
                await refuse(near, 502, str(error))
                return
            if is_over or self._far is None or self._far.state.their_state is not h11.DONE:
                await near.wire.drain()
                return
            near.state.start_next_cycle()
            self._far.state.start_next_cycle()

    async def _next_request(self) -> h11.Event | type[h11.PAUSED] | None:
        """None: nothing came after the last request, or the host closed the connection first.
        Raises OSError, TimeoutError, RemoteProtocolError."""
        near, far = self._near, self._far
        if far is not None and not near.state.trailing_data[0]:
            coming = near.wire.coming()
            await asyncio.wait(
                {coming, far.wire.coming()},
                timeout=EGRESS_HEAD_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not coming.done():
                return None
        async with asyncio.timeout(EGRESS_HEAD_SECONDS):
            return await near.next_event()

    async def _request(self, request: h11.Request) -> bool:
        """Whether the connection is over afterwards.

        Raises BadTarget, BookFull, CredentialsUnavailable, CredentialUnusable, OSError, Silent.
        """
        if not request.http_version.startswith(b"1."):
            raise BadTarget("to hosts with a credential only HTTP/1.1 is spoken, not HTTP/2")
        if len(request.method) > EGRESS_METHOD_CHARS_MAX or request.method == b"CONNECT":
            raise BadTarget("there is no such method")
        if not (request.target.startswith(b"/") or request.target == b"*"):
            raise BadTarget("this connection is to one host: send the path alone")
        method = request.method
        try:
            check_host(list(request.headers.raw_items()), self._target, default_port=self._target.port)
        except OtherHost as other:
            await self._deny(method, str(other))
            return True
        headers = kept_headers(request, self._target, default_port=_HTTPS_PORT)
        substitution = await self._opening.substitution(self._target)
        if self._is_narrow and not substitution.adds_to(request.target):
            await self._deny(method, "this session reaches its repositories there, and nothing else")
            return True
        if self._is_narrow:  # the host is open for the sake of the repository, not of the variables
            substitution = substitution.without_variables()
        treatment = Treatment(
            substitution,
            headers,
            method=method,
            path=request.target,
            uses=lambda credential_id: self._note(method, credential_id, "body"),
        )
        far = await self._reached()
        if far is None:
            await refuse(self._near, 502, f"{self._target.host} cannot be reached: {self.failed}")
            return True
        used = treatment.credential_ids
        entry_id = self._begun(method, used[0] if used else None)
        began_at, sent, received = self._now(), self._below.sent, self._below.received
        failed = ""
        try:
            for credential_id in used[1:]:
                self._note(method, credential_id, "headers")
            outcome = await forward(self._near, request, far, headers, treatment=treatment)
            failed = outcome.failed
            return outcome.is_over
        except (OSError, Silent) as error:
            failed = ending(error)
            raise
        finally:
            self._opening.book.end(
                Ended(
                    entry_id=entry_id,
                    sent_bytes=self._below.sent - sent,
                    received_bytes=self._below.received - received,
                    seconds=self._now() - began_at,
                    failed=failed,
                )
            )

    async def _deny(self, method: bytes, reason: str) -> None:
        """Raises BookFull, OSError."""
        self._opening.book.begin(
            self._opening.session_id, self._target, method.decode(), "denied", reason=reason
        )
        await refuse(self._near, 403, f"{self._target.host} is blocked: {reason}")

    async def _reached(self) -> Speech | None:
        """None: `failed` says why."""
        if self._far is None:
            try:
                secure = await self._reaching
            except ssl.SSLCertVerificationError as error:
                self.failed = f"its certificate is not valid ({error.verify_message})"
                return None
            except (OSError, TimeoutError) as error:  # ssl.SSLError is one
                self.failed = f"TLS with it fails ({type(error).__name__})"
                return None
            self._far = Speech(secure, h11.CLIENT)
        return self._far

    def _begun(self, method: bytes, credential_id: CredentialId | None, detail: str = "") -> str:
        return self._opening.book.begin(
            self._opening.session_id,
            self._target,
            method.decode(),
            "allowed",
            detail=detail,
            credential_id=credential_id,
        )

    def _note(self, method: bytes, credential_id: CredentialId, where: str) -> None:
        """A further credential of a request, before it goes out: an entry of its own. Raises BookFull."""
        self._opening.book.end(
            Ended(entry_id=self._begun(method, credential_id, f"in the {where} of the same request"))
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
