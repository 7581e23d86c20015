"""What a process that owns a directory has: the directory, its lock, a token, a socket.

<data_dir>/<role>/private/     mode 0700
    lock                       held (flock) while the process lives: one per role and data directory
    token                      what callers present; made once, mode 0600
    <role>.sock                mode 0600
"""

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from corral.kernel.errors import Conflict, InvalidRequest

__all__ = [
    "SOCKET_PATH_BYTES_MAX",
    "asked",
    "doors_path",
    "listening",
    "made_once",
    "made_token",
    "mcp_path",
    "owned",
    "require_short",
    "socket_path",
    "token_path",
]

SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of Linux, less its final zero
_BACKLOG = 2048  # connections: as many calls may begin at once


def socket_path(data_dir: Path, role: str) -> Path:
    """Where a role listens; its lock and its token are beside it."""
    return data_dir / role / "private" / f"{role}.sock"


def doors_path(data_dir: Path) -> Path:
    """Where hands bring egress the doors of their sandboxes."""
    return socket_path(data_dir, "egress").with_name("doors.sock")


def mcp_path(data_dir: Path) -> Path:
    """Where hands bring egress their requests to MCP servers."""
    return socket_path(data_dir, "egress").with_name("mcp.sock")


def token_path(data_dir: Path, role: str) -> Path:
    return socket_path(data_dir, role).with_name("token")


@contextlib.contextmanager
def owned(data_dir: Path, role: str) -> Iterator[Path]:
    """Be the one process of this role; yields its private directory. Raises Conflict if another lives."""
    private = _private(data_dir, role)
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
    """A listening socket for its owner alone. Whoever calls holds the lock, so nobody else listens there.

    Raises InvalidRequest if the path is too long.
    """
    require_short(path)
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
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def made_token(data_dir: Path, role: str) -> str:
    """The role's token, made at the first call."""
    return made_once(_private(data_dir, role) / "token", lambda: secrets.token_urlsafe(32))


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


def _private(data_dir: Path, role: str) -> Path:
    private = socket_path(data_dir, role).parent
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.chmod(0o700)
    return private
