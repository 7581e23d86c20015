"""The egress process: lock, token, sockets, adoption, an orderly end.

Hands hosts bring it the doors of sandboxes on a socket of their own (`egress.doors`), and their requests to
MCP servers on another (`egress.servers`). On the last one it answers questions, to whoever presents its
token (`corral.daemon`):

    GET /corral/egress/v1/health     {"role", "pid", "version", "is_supervised"}
                                     is_supervised: someone holds the connection below, whoever started us
    GET /corral/egress/v1/adopt      the same line, then a line feed every HANDS_HEARTBEAT_SECONDS for as
                                     long as the asker stays; without one, the process ends by itself

And to POST /corral/egress/v1/<desk>/...: `vault`, what it does with the vault's keys (`egress.keys`);
`credentials`, what sessions may use (`egress.wishes`); `authority`, what their sandboxes are to trust
(`egress.authority`); `audit`, what went through it (`egress.audit`).
"""

import asyncio
import contextlib
import hmac
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from corral import __version__
from corral.catalog.networking import NetworkPolicy
from corral.daemon import Entrance, egress_paths, entrance, owned
from corral.egress.audit import AuditDesk
from corral.egress.authority import Authorities, AuthorityDesk
from corral.egress.bearers import Bearers
from corral.egress.doors import Doors
from corral.egress.keeping import Seals, TokenDesk
from corral.egress.keys import VaultDesk
from corral.egress.names import Names, Resolve
from corral.egress.opened import Openings
from corral.egress.outside import Outside
from corral.egress.policy import Gate, OperatorHosts
from corral.egress.refresh import Refresher
from corral.egress.servers import McpDoor
from corral.egress.spool import Spool
from corral.egress.validation import ValidationDesk
from corral.egress.wishes import CredentialDesk
from corral.kernel.clock import SystemClock
from corral.kernel.limits import (
    EGRESS_REQUEST_BYTES_MAX,
    EGRESS_SERVER_LOOKUPS_MAX,
    HANDS_CONNECT_SECONDS,
    HANDS_HEARTBEAT_SECONDS,
    HANDS_UNADOPTED_SECONDS,
)
from corral.vault.ring import FileKeys, KeyRing, Keys

__all__ = ["KEY_FILE", "serve_egress"]

PREFIX: Final = "/corral/egress/v1"
KEY_FILE: Final = "vault.keys"
NOTHING_SAID: Final = OperatorHosts()
_HEAD_BYTES_MAX = 8192


async def serve_egress(
    *,
    data_dir: Path,
    unadopted_seconds: float = HANDS_UNADOPTED_SECONDS,
    given: Entrance | None = None,
    keys: Keys | None = None,
    operator: OperatorHosts = NOTHING_SAID,
    authorities: Path | None = None,
    resolve: Resolve | None = None,
    trusted: Sequence[Path] = (),
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Be the egress of `data_dir` until SIGTERM, SIGINT, or nobody has adopted it for too long.

    given: sockets (of `egress_paths`) and token, where our callers are another user's; made here otherwise.
    keys: the vault's private ones; a file in the private directory unless given. operator: what it says of
    hosts. authorities: more of them (PEM) for the certificates of MCP servers, beside the system's.
    trusted: likewise for those of hosts to which sandboxes send credentials.
    resolve: finds the addresses of names, instead of this machine's resolver.

    Raises: Conflict if another one holds the lock; InvalidRequest if the socket path is too long.
    """
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(owned(data_dir, "egress"))
        if given is None:
            given = stack.enter_context(entrance(data_dir, "egress", egress_paths(data_dir)))
        token, (listener, doors_listener, mcp_listener) = given.token, given.sockets
        ring = KeyRing(keys or FileKeys(private / KEY_FILE))
        spool = Spool(private / "audit", clock=SystemClock())
        servers = operator.of_servers()
        outside = Outside(
            Gate(policy=NetworkPolicy(hosts=None), operator=servers),
            resolve=resolve or Names(at_once_max=EGRESS_SERVER_LOOKUPS_MAX).resolve,
            authorities=authorities,
        )
        turn, ended = asyncio.Lock(), asyncio.Event()
        seals = Seals(ring, turn)
        credentials = CredentialDesk(ring, turn, ended=ended)
        tokens = TokenDesk(private / "tokens", seals, ended=ended)
        refresher = Refresher(outside, tokens, seals, SystemClock(), book=spool)
        mcp = McpDoor(
            token=token,
            operator=servers,
            book=spool,
            outside=outside,
            bearers=Bearers(credentials, refresher),
        )
        signing = Authorities.kept_in(private)
        openings = Openings(credentials, signing, book=spool, trusted=trusted)
        doors = Doors(token=token, operator=operator, book=spool, openings=openings, resolve=resolve)
        desks: Mapping[str, _Desk] = {
            "vault": VaultDesk(ring, turn),
            "credentials": credentials,
            "tokens": tokens,
            "validation": ValidationDesk(outside, refresher, seals),
            "authority": AuthorityDesk(signing),
            "audit": AuditDesk(spool),
        }

        def counts() -> Mapping[str, int]:
            return {
                "doors": doors.open_doors,
                "connections": doors.connections,
                "audit_bytes": spool.waiting_bytes,
            }

        egress = _Egress(token=token, desks=desks, counts=counts, ended=ended)
        server = await asyncio.start_unix_server(egress.answer, sock=listener, limit=_HEAD_BYTES_MAX)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, egress.ended.set)
        duties = [
            loop.create_task(doors.serve(doors_listener)),
            loop.create_task(mcp.serve(mcp_listener)),
            loop.create_task(spool.sync_forever()),
        ]
        try:
            on_ready()
            await egress.until_the_end(unadopted_seconds)
        finally:
            egress.ended.set()
            server.close()
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
            await refresher.aclose()
            await egress.last_answer()
            spool.close()


class _Desk(Protocol):
    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """Status line and body of the answer to POST .../<desk>/<what>."""


class _Egress:
    def __init__(
        self,
        *,
        token: str,
        desks: Mapping[str, _Desk],
        counts: Callable[[], Mapping[str, int]],
        ended: asyncio.Event,
    ) -> None:
        """counts: what the health tells, and `/metrics` shows as `egress_...`."""
        self._desks = desks
        self._counts = counts
        self._authorization = f"Bearer {token}".encode()
        self._holders = 0
        self._changed = asyncio.Event()
        self._answering = 0
        self.ended = ended

    async def until_the_end(self, unadopted_seconds: float) -> None:
        """Return when told to end, or when nobody has held us for this long."""
        while not self.ended.is_set():
            self._changed.clear()
            ends = [asyncio.ensure_future(event.wait()) for event in (self.ended, self._changed)]
            timeout = None if self._holders else unadopted_seconds
            done, pending = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for end in pending:
                end.cancel()
            if not done:
                return

    async def last_answer(self) -> None:
        """Wait for open answers to see that we end: they do at once."""
        while self._answering:
            self._changed.clear()
            await self._changed.wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, and the connection is closed."""
        self._answering += 1
        try:
            async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            line, *headers = head.split(b"\r\n")
            method, target, _ = line.split(b" ", 2)
            if not hmac.compare_digest(_header(headers, b"authorization"), self._authorization):
                self._start(writer, "401 Unauthorized", {"error": "wrong token"})
            elif (method, target) == (b"GET", f"{PREFIX}/health".encode()):
                self._start(writer, "200 OK", self._health())
            elif (method, target) == (b"GET", f"{PREFIX}/adopt".encode()):
                await self._hold(reader, writer)
            elif method == b"POST":
                asked = await _body(reader, headers)  # first: who is refused in the middle hears nothing
                if (desk := self._desks.get(_desk(target))) is not None:
                    what = target.rpartition(b"/")[2].decode("latin-1")
                    self._start(writer, *await desk.answer(what, asked))
                else:
                    self._start(writer, "404 Not Found", {"error": "no such path"})
            else:
                self._start(writer, "404 Not Found", {"error": "no such path"})
            await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or does not speak HTTP
        finally:
            writer.close()
            self._answering -= 1
            self._changed.set()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be adopted for as long as the other side stays and we live."""
        self._holders += 1
        self._changed.set()
        gone = asyncio.ensure_future(reader.read(1))
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            self._start(writer, "200 OK", self._health())
            while not (gone.done() or ended.done()):
                await writer.drain()
                await asyncio.wait(
                    [gone, ended], timeout=HANDS_HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                writer.write(b"\n")
        finally:
            gone.cancel()
            ended.cancel()
            self._holders -= 1

    def _health(self) -> dict[str, object]:
        return {
            "role": "egress",
            "pid": os.getpid(),
            "version": __version__,
            "is_supervised": self._holders > 0,
            "counts": dict(self._counts()),
        }

    def _start(self, writer: asyncio.StreamWriter, status: str, body: dict[str, object]) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + json.dumps(body).encode() + b"\n")


def _desk(target: bytes) -> str:
    """`vault` of /corral/egress/v1/vault/keys."""
    return target.rpartition(b"/")[0].decode("latin-1").removeprefix(f"{PREFIX}/")


def _header(headers: list[bytes], name: bytes) -> bytes:
    return next((h.split(b":", 1)[1].strip() for h in headers if h.lower().startswith(name + b":")), b"")


async def _body(reader: asyncio.StreamReader, headers: list[bytes]) -> bytes:
    """Raises ValueError: too long, or none that we can tell the end of."""
    length = int(_header(headers, b"content-length") or 0)
    if not 0 <= length <= EGRESS_REQUEST_BYTES_MAX:
        raise ValueError("the body is too long")
    async with asyncio.timeout(HANDS_CONNECT_SECONDS):
        return await reader.readexactly(length)
