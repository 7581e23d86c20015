"""The doors of sandboxes: who may come out, and for how long.

    hands host --connects--> doors.sock: one line of JSON, and with its first byte the listening socket that
                             was made inside the sandbox

        {"token": ..., "session_id": ..., "networking": {...}, "package_hosts": [...],
         "mcp_endpoints": [[host, port], ...], "trusts": true}

and is answered {"open": true} or {"error": what is wrong}, a line each. Then nothing is said any more: the
end of this connection is the end of the door, and of all that went through it. `trusts`: programs inside
take the certificates of the session's authority, so TLS may be opened towards hosts for which the session
has credentials.

Instead of a listening socket, one end of a connection (a socket pair) may come along: a door for that
connection alone, as a git has that clones for a session. `"looks_anew": true` in its line: the session's
credentials are looked up again, for they may have been changed a moment ago. `"errand": what` (see
`catalog.hosts.Errand`): it is no sandbox of the session that comes out, but a program of ours that fetches
something for it; the operator's hosts of that errand count, and not those of sandboxes.

A hands host keeps the listening socket, too: it brings it again to the next egress process when this one
ends, and connections that were made meanwhile wait in it.
"""

import asyncio
import errno
import hmac
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from corral.catalog.networking import NetworkPolicy
from corral.egress.book import Book
from corral.egress.names import Names, Resolve
from corral.egress.opened import Openings
from corral.egress.policy import Gate, OperatorHosts
from corral.egress.proxy import Proxy
from corral.kernel.ids import SessionId
from corral.kernel.limits import (
    EGRESS_CONNECTIONS_MAX,
    EGRESS_CONNECTIONS_PER_SESSION_MAX,
    EGRESS_GRANT_BYTES_MAX,
    EGRESS_RETRY_SECONDS,
    HANDS_CONNECT_SECONDS,
)

__all__ = ["Doors"]

_log = logging.getLogger(__name__)
_CHUNK_BYTES: Final = 64 * 1024
_PASSING: Final = (errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Doors:
    """Of one egress process. Use it as a context manager: all doors close at its end."""

    def __init__(
        self,
        *,
        token: str,
        operator: OperatorHosts,
        book: Book,
        openings: Openings,
        resolve: Resolve | None = None,
    ) -> None:
        """resolve: instead of this machine's resolver, of which each session has places of its own."""
        self._openings = openings
        self._token = token.encode()
        self._operator = operator
        self._book = book
        self._resolve = resolve
        self._names: WeakValueDictionary[SessionId, Names] = WeakValueDictionary()  # while they are used
        self._places = asyncio.Semaphore(EGRESS_CONNECTIONS_MAX)
        self._doors: set[asyncio.Task[None]] = set()
        self.connections = 0  # open now

    @property
    def open_doors(self) -> int:
        return len(self._doors)

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled; then every door is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                control, _ = await loop.sock_accept(listener)
                control.setblocking(False)
                door = loop.create_task(self._door(control), name="door")
                self._doors.add(door)
                door.add_done_callback(self._doors.discard)
        finally:
            for door in list(self._doors):
                door.cancel()
            await asyncio.gather(*self._doors, return_exceptions=True)

    # -- one door -------------------------------------------------------------------------------------

    async def _door(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            try:
                async with asyncio.timeout(HANDS_CONNECT_SECONDS):
                    said, end = await _received(control)
            except (OSError, TimeoutError, ValueError):
                return
            if end is None:
                await _say(control, {"error": "no listening socket came along"})
                return
            with end:
                try:
                    proxy = self._proxy(said)
                except (ValueError, KeyError, TypeError) as error:
                    await _say(control, {"error": f"not a door of ours ({error})"})
                    return
                await _say(control, {"open": True})
                let_out = self._let_out if _is_listening(end) else self._let_one_out
                coming_out = loop.create_task(let_out(end, proxy))
                gone = loop.create_task(loop.sock_recv(control, 1))  # its end, however it comes
                try:
                    await asyncio.wait({coming_out, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    coming_out.cancel()
                    gone.cancel()
                    await asyncio.gather(coming_out, gone, return_exceptions=True)
        except OSError:
            pass  # the hands host is gone
        finally:
            control.close()

    def _proxy(self, said: bytes) -> Proxy:
        """Raises ValueError, KeyError, TypeError."""
        grant: Mapping[str, Any] = json.loads(said)
        if not hmac.compare_digest(str(grant["token"]).encode(), self._token):
            raise ValueError("wrong token")
        errand = grant.get("errand")
        operator = self._operator if errand is None else self._operator.of_errand(errand)
        policy = NetworkPolicy.of(
            grant["networking"],
            package_hosts=[*map(str, grant["package_hosts"]), *operator.packages],
            mcp_endpoints=[(str(host), int(port)) for host, port in grant.get("mcp_endpoints", ())],
        )
        gate = Gate(policy=policy, operator=operator)
        session_id = SessionId(str(grant["session_id"]))
        resolve = self._resolve or self._names.setdefault(session_id, Names()).resolve
        opening = None
        if grant.get("trusts") is True:
            opening = self._openings.of(session_id, looks_anew=grant.get("looks_anew") is True)
        return Proxy(session_id, gate, book=self._book, resolve=resolve, opening=opening)

    async def _let_out(self, listening: socket.socket, proxy: Proxy) -> None:
        """Serve what comes out of one sandbox. It waits in the socket while the sandbox, or all of them
        together, have too much open; each sandbox waits for one place at a time, so they take turns."""
        loop = asyncio.get_running_loop()
        own_places = asyncio.Semaphore(EGRESS_CONNECTIONS_PER_SESSION_MAX)
        serving: set[asyncio.Task[None]] = set()

        async def serve(end: socket.socket) -> None:
            self.connections += 1
            try:
                await proxy.serve(end)
            finally:
                self.connections -= 1
                own_places.release()
                self._places.release()

        try:
            while True:
                await own_places.acquire()
                try:
                    end = await self._accepted(listening)
                except BaseException:
                    own_places.release()
                    raise
                task = loop.create_task(serve(end))
                serving.add(task)
                task.add_done_callback(serving.discard)
        except OSError:
            _log.warning("the listening socket of a sandbox broke")
        finally:
            for task in list(serving):
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _let_one_out(self, end: socket.socket, proxy: Proxy) -> None:
        """Serve one connection."""
        async with self._places:
            self.connections += 1
            try:
                await proxy.serve(end)
            finally:
                self.connections -= 1

    async def _accepted(self, listening: socket.socket) -> socket.socket:
        """The next connection, and a place for it. Raises OSError: the socket is of no use any more."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                end, _ = await loop.sock_accept(listening)
                break
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                await asyncio.sleep(EGRESS_RETRY_SECONDS)
        try:
            await self._places.acquire()
            end.setblocking(False)
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            end.close()
            raise
        return end


async def _received(control: socket.socket) -> tuple[bytes, socket.socket | None]:
    """The line, and the socket that came with it. Raises OSError, ValueError."""
    said, descriptors = b"", list[int]()
    try:
        while not said.endswith(b"\n"):
            await _readable(control)
            try:
                chunk, more, _, _ = socket.recv_fds(control, _CHUNK_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                continue
            descriptors += more
            said += chunk
            if not chunk or len(said) > EGRESS_GRANT_BYTES_MAX or len(descriptors) > 1:
                raise ValueError("not a grant")
    except BaseException:
        for descriptor in descriptors:
            socket.close(descriptor)
        raise
    if not descriptors:
        return said, None
    end = socket.socket(fileno=descriptors[0])
    if not (_is_listening(end) or _is_connection(end)):
        end.close()
        return said, None
    end.setblocking(False)
    return said, end


def _is_listening(listening: socket.socket) -> bool:
    """A TCP or unix socket that accepts: nothing else is called a door, whatever it is."""
    try:
        return (
            listening.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
            and listening.type == socket.SOCK_STREAM
            and listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        )
    except OSError:
        return False


def _is_connection(end: socket.socket) -> bool:
    """One end of a socket pair."""
    try:
        end.getpeername()
        return end.family == socket.AF_UNIX and end.type == socket.SOCK_STREAM
    except OSError:
        return False


async def _readable(end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(end, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(end)


async def _say(control: socket.socket, answer: Mapping[str, object]) -> None:
    await asyncio.get_running_loop().sock_sendall(control, json.dumps(answer).encode() + b"\n")
