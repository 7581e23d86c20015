"""Talking to hands and egress over their sockets: health, adoption, and the end of one that is too old.

Blocking and from the standard library alone: the supervisor has one thread and must stay small. Whoever
asks needs the token beside the socket, which only the same user can read.
"""

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
from pathlib import Path
from typing import Any

from corral.daemon import private_path, socket_path, token_path
from corral.kernel.limits import HEALTH_REPLY_BYTES_MAX, HEALTH_REPLY_SECONDS
from corral.process import Role
from corral.supervisor.files import read
from corral.supervisor.users import signalled

__all__ = ["ask_json", "end", "lock_holder", "open_adoption", "request"]

_TOKEN_BYTES_MAX = 256  # it has 43


def request(data_dir: Path, role: Role, what: str) -> bytes:
    """GET from hands or egress, over its socket. Raises OSError, HTTPException, ValueError."""
    with contextlib.closing(_connect(data_dir, role)) as connection:
        connection.request("GET", f"/corral/{role}/v1/{what}", headers=_token(data_dir, role))
        response = connection.getresponse()
        body = response.read(HEALTH_REPLY_BYTES_MAX)
        if response.status != 200:
            raise ValueError(f"{role} answered {response.status}")
        return body


def ask_json(
    data_dir: Path, role: Role, what: str, body: bytes, *, seconds: float
) -> tuple[int, dict[str, Any]]:
    """POST JSON to hands or egress, over its socket: status and body. Raises OSError, HTTPException,
    ValueError."""
    with contextlib.closing(_connect(data_dir, role)) as connection:
        connection.sock.settimeout(seconds)
        connection.request("POST", f"/corral/{role}/v1/{what}", body, headers=_token(data_dir, role))
        response = connection.getresponse()
        return response.status, dict(json.loads(response.read()))


def open_adoption(data_dir: Path, role: Role) -> socket.socket:
    """Adopt the process for as long as this socket is open; it reads as ended when the process stops.
    Raises like `request`."""
    connection = _connect(data_dir, role)
    held = connection.sock.dup()  # the library closes its own when an answer has no length
    try:
        connection.request("GET", f"/corral/{role}/v1/adopt", headers=_token(data_dir, role))
        with connection.getresponse() as response:
            if response.status != 200:
                raise ValueError(f"{role} answered {response.status}")
        return held
    except BaseException:
        held.close()
        raise
    finally:
        connection.close()


def lock_holder(data_dir: Path, role: Role) -> int | None:
    """Pid of the process that holds the role's lock, which one that hangs does without answering."""
    with contextlib.suppress(OSError):
        inode = (private_path(data_dir, role) / "lock").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                return int(fields[4])
    return None


def _connect(data_dir: Path, role: Role) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(role, timeout=HEALTH_REPLY_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(HEALTH_REPLY_SECONDS)
    try:
        connection.sock.connect(str(socket_path(data_dir, role)))
    except OSError:
        connection.sock.close()
        raise
    return connection


def _token(data_dir: Path, role: Role) -> dict[str, str]:
    token = read(token_path(data_dir, role), _TOKEN_BYTES_MAX).decode("ascii", "replace")
    return {"Authorization": f"Bearer {token}"}


def end(pid: int, seconds: float) -> None:
    """SIGTERM, and SIGKILL after so many seconds, to a process that just answered on its own socket.
    Nothing happens to one that is not of who we act as."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if not signalled(lambda: signal.pidfd_send_signal(fd, signal.SIGTERM)):
                return
            with selectors.DefaultSelector() as selector:
                selector.register(fd, selectors.EVENT_READ)
                if not selector.select(seconds):
                    signalled(lambda: signal.pidfd_send_signal(fd, signal.SIGKILL))
                    selector.select(seconds)
        finally:
            os.close(fd)
