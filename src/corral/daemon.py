"""What a process that owns a directory has: the directory, its lock, a token, a socket.

<data_dir>/<role>/private/     mode 0700, of the process's user; what it keeps is here, too
    lock                       held (flock) while the process lives: one per role and data directory
<data_dir>/<role>/callers/     mode 0700, of the user of its callers, who may be another
    token                      what callers present; made once, mode 0600
    <role>.sock                mode 0600; egress has more of them

A process makes its entrance (token and sockets) itself, unless its callers are another user's: then their
supervisor makes it and hands it down, so that nothing is open to both.
"""

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.kernel.errors import Conflict, InvalidRequest

__all__ = [
    "SOCKET_PATH_BYTES_MAX",
    "Entrance",
    "asked",
    "doors_path",
    "egress_paths",
    "entrance",
    "listen_at",
    "listening",
    "made_once",
    "made_token",
    "mcp_path",
    "owned",
    "private_path",
    "require_short",
    "socket_path",
    "token_path",
]

SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of Linux, less its final zero
_BACKLOG = 2048  # connections: as many calls may begin at once


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Entrance:
    """What a process takes calls with: listening sockets, in the order of their paths, and what callers
    present."""

    token: str
    sockets: Sequence[socket.socket]


def private_path(data_dir: Path, role: str) -> Path:
    """What a role has for itself."""
    return data_dir / role / "private"


def socket_path(data_dir: Path, role: str) -> Path:
    """Where a role listens; its token is beside it."""
    return data_dir / role / "callers" / f"{role}.sock"


def doors_path(data_dir: Path) -> Path:
    """Where hands bring egress the doors of their sandboxes."""
    return socket_path(data_dir, "egress").with_name("doors.sock")


def mcp_path(data_dir: Path) -> Path:
    """Where hands bring egress their requests to MCP servers."""
    return socket_path(data_dir, "egress").with_name("mcp.sock")


def egress_paths(data_dir: Path) -> Sequence[Path]:
    """All sockets of egress."""
    return socket_path(data_dir, "egress"), doors_path(data_dir), mcp_path(data_dir)


def token_path(data_dir: Path, role: str) -> Path:
    return socket_path(data_dir, role).with_name("token")


@contextlib.contextmanager
def owned(data_dir: Path, role: str) -> Iterator[Path]:
    """Be the one process of this role; yields its private directory. Raises Conflict if another lives,
    InvalidRequest if the directory is another user's."""
    private = _made_private(private_path(data_dir, role))
    fd = os.open(private / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another {role} process is running on {str(data_dir)!r}") from error
        yield private
    finally:
        os.close(fd)


def require_short(path: Path) -> None:
    """Raises InvalidRequest if no socket can have this path."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise InvalidRequest(
            f"{str(path)!r} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a unix socket's path; "
            "choose a shorter data directory"
        )


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening socket, as `listen_at` makes it; its path goes with it."""
    listener = listen_at(path)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def listen_at(path: Path) -> socket.socket:
    """A listening socket for its owner alone. Whoever calls is sure that nobody else listens there.

    Raises InvalidRequest if the path is too long, or in another user's directory.
    """
    require_short(path)
    _made_private(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def entrance(data_dir: Path, role: str, paths: Sequence[Path]) -> Iterator[Entrance]:
    """An entrance of one's own. Raises InvalidRequest, as `listen_at`."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listening(path)) for path in paths]
        yield Entrance(token=made_token(data_dir, role), sockets=sockets)


def made_token(data_dir: Path, role: str) -> str:
    """The role's token, made at the first call."""
    path = token_path(data_dir, role)
    _made_private(path.parent)
    return made_once(path, lambda: secrets.token_urlsafe(32))


def made_once(path: Path, mint: Callable[[], str]) -> str:
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


async def asked(
    data_dir: Path, role: str, what: str, body: bytes, *, seconds: float
) -> tuple[int, dict[str, Any]]:
    """POST JSON to the process of a role, over its socket: status and body of its answer.

    Raises OSError, TimeoutError, ValueError.
    """
    import asyncio  # here: the supervisor, which must stay small, has neither
    import json

    head = (
        f"POST /corral/{role}/v1/{what} HTTP/1.1\r\nHost: {role}\r\nConnection: close\r\n"
        f"Authorization: Bearer {token_path(data_dir, role).read_text()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_unix_connection(socket_path(data_dir, role))
        try:
            writer.write(head.encode() + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    start, _, content = answer.partition(b"\r\n\r\n")
    words = start.split(b" ", 2)
    if len(words) < 2:
        raise ConnectionResetError(f"the {role} process ended before it answered")
    return int(words[1]), dict(json.loads(content))


def _made_private(directory: Path) -> Path:
    """Raises InvalidRequest if it is another user's, who could see and change what we put there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (owner := directory.stat().st_uid) != os.geteuid() != 0:
        raise InvalidRequest(
            f"{str(directory)!r} belongs to uid {owner}, and this process is uid {os.geteuid()}: start"
            " Corral as who it was made by, or with the settings user and egress_user"
        )
    directory.chmod(0o700)
    return directory
