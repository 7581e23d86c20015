"""The egress process: lock, token, socket, adoption, an orderly end. It carries nothing yet: sandboxes have
no network, and this is the place where their only exit will be.

Below `<data_dir>/egress/private` (mode 0700): `lock` (flock, one egress per data directory), `token` (what
callers present, mode 0600) and `egress.sock` (mode 0600). Two questions are answered there:

    GET /corral/egress/v1/health     {"role", "pid", "version", "is_adopted"}
    GET /corral/egress/v1/adopt      the same line, then a line feed every HANDS_HEARTBEAT_SECONDS for as
                                     long as the asker stays; without one, the process ends by itself
"""

import asyncio
import contextlib
import fcntl
import hmac
import json
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from corral import __version__
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.limits import HANDS_CONNECT_SECONDS, HANDS_HEARTBEAT_SECONDS, HANDS_UNADOPTED_SECONDS

__all__ = ["serve_egress"]

PREFIX: Final = "/corral/egress/v1"
_HEAD_BYTES_MAX = 8192
_SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, less its final zero


async def serve_egress(
    *,
    data_dir: Path,
    unadopted_seconds: float = HANDS_UNADOPTED_SECONDS,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Be the egress of `data_dir` until SIGTERM, SIGINT, or nobody has adopted it for too long.

    Raises: Conflict if another one holds the lock; InvalidRequest if the socket path is too long.
    """
    private = data_dir / "egress" / "private"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.chmod(0o700)
    path = private / "egress.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise InvalidRequest(
            f"{str(path)!r} is longer than the {_SOCKET_PATH_BYTES_MAX} bytes of a unix socket's path; "
            "choose a shorter data directory"
        )
    with _locked(private / "lock"):
        egress = _Egress(token=_token(private / "token"))
        path.unlink(missing_ok=True)  # we hold the lock, so nobody listens there
        umask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(egress.answer, path, limit=_HEAD_BYTES_MAX)
        finally:
            os.umask(umask)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, egress.ended.set)
        try:
            on_ready()
            await egress.until_the_end(unadopted_seconds)
        finally:
            egress.ended.set()
            server.close()
            await egress.last_answer()
            path.unlink(missing_ok=True)


class _Egress:
    def __init__(self, *, token: str) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._holders = 0
        self._changed = asyncio.Event()
        self._answering = 0
        self.ended = asyncio.Event()

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
            given = next(
                (h.split(b":", 1)[1].strip() for h in headers if h.lower().startswith(b"authorization:")),
                b"",
            )
            if not hmac.compare_digest(given, self._authorization):
                self._start(writer, "401 Unauthorized", {"error": "wrong token"})
            elif (method, target) == (b"GET", f"{PREFIX}/health".encode()):
                self._start(writer, "200 OK", self._health())
            elif (method, target) == (b"GET", f"{PREFIX}/adopt".encode()):
                await self._hold(reader, writer)
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
            "is_adopted": self._holders > 0,
        }

    def _start(self, writer: asyncio.StreamWriter, status: str, body: dict[str, object]) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + json.dumps(body).encode() + b"\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another egress is running on {str(path.parent.parent)!r}") from error
        yield
    finally:
        os.close(fd)


def _token(path: Path) -> str:
    """Made once; killed at any point, there is all of it or nothing."""
    if not path.exists():
        draft = path.with_name("token.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        draft.rename(path)
    return path.read_text()
