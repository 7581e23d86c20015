"""The process around a hands host: lock, token, socket, adoption, an orderly end.

Below `<data_dir>/hands` (mode 0711: a sandbox's own uid passes through to its workspace):

    private/               mode 0700
        lock               held (flock) while the host lives: one host per data directory
        token              what clients present; made once, mode 0600
        host_id            made once; a journal that was lost is a new journal of the same host
        journal.sqlite     see journal.py
        hands.sock         mode 0600
    workspaces/            one directory per session
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.hands.ports import Provider
from corral.hands.rpc import Adoption, app
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import Ids
from corral.kernel.limits import HANDS_DRAIN_SECONDS, HANDS_UNADOPTED_SECONDS

__all__ = ["read_token", "serve_hands", "socket_path"]

_SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, less its final zero


def socket_path(data_dir: Path) -> Path:
    return data_dir / "hands" / "private" / "hands.sock"


def read_token(data_dir: Path) -> str:
    """What HandsClient must present. Raises FileNotFoundError before the host's first start."""
    return (data_dir / "hands" / "private" / "token").read_text()


async def serve_hands(
    *,
    data_dir: Path,
    provider: Callable[[Path], Provider],
    unadopted_seconds: float = HANDS_UNADOPTED_SECONDS,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Be the hands host of `data_dir` until SIGTERM, SIGINT, or nobody has adopted it for too long.

    provider: called once the lock is held, with the state directory (`<data_dir>/hands`).
    on_ready: called when the socket accepts.
    Raises: Conflict if another host holds the lock; InvalidRequest if the socket path is too long.
    """
    state_dir = data_dir / "hands"
    private = state_dir / "private"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.chmod(0o700)
    state_dir.chmod(0o711)
    with _locked(private / "lock"):
        token = _durable_text(private / "token", lambda: secrets.token_urlsafe(32))
        host_id = _durable_text(private / "host_id", lambda: Ids().mint("host"))
        with _listening(socket_path(data_dir)) as listener:
            journal = Journal(private / "journal.sqlite")
            try:
                async with HandsHost(
                    provider(state_dir), journal=journal, host_id=host_id, state_dir=state_dir
                ) as host:
                    await _serve(
                        host, listener, token=token, unadopted_seconds=unadopted_seconds, on_ready=on_ready
                    )
            finally:
                await journal.aclose()


async def _serve(
    host: HandsHost,
    listener: socket.socket,
    *,
    token: str,
    unadopted_seconds: float,
    on_ready: Callable[[], None],
) -> None:
    adoption = Adoption()
    server = _Server(
        uvicorn.Config(
            app(host, token=token, adoption=adoption),
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=3600,  # the client owns its connections
            timeout_graceful_shutdown=int(HANDS_DRAIN_SECONDS),
        )
    )
    loop, told_to_end = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told_to_end.set)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        ends = [
            tasks.create_task(told_to_end.wait()),
            tasks.create_task(adoption.lost_for(unadopted_seconds)),
        ]
        on_ready()
        await asyncio.wait([serving, *ends], return_when=asyncio.FIRST_COMPLETED)
        await host.stop()  # each running call gets its result, and its reply over the open connections
        adoption.end()
        server.should_exit = True
        for end in ends:
            end.cancel()


class _Server(uvicorn.Server):
    """Signals are ours: the host must stop before its server does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another hands host is running on {str(path.parent.parent)!r}") from error
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise InvalidRequest(
            f"{str(path)!r} is longer than the {_SOCKET_PATH_BYTES_MAX} bytes of a unix socket's path; "
            "choose a shorter data directory"
        )
    path.unlink(missing_ok=True)  # we hold the lock, so nobody listens there
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(2048)
        listener.setblocking(False)
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _durable_text(path: Path, mint: Callable[[], str]) -> str:
    """The content of a small private file, made once; killed at any point, there is all or nothing."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(mint())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    return path.read_text()
