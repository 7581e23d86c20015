"""The data directory as the supervisor owns it:

lock               held (flock) by supervisor and server: one of each, whoever was killed how
node               names this directory for ever
supervisor.json    what runs here now, and the key of the local command line; mode 0600
logs/              standard error of hands and egress
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from corral.daemon import made_token, require_short, socket_path
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import Ids
from corral.kernel.limits import TAKEOVER_SECONDS

_STATE = "supervisor.json"

__all__ = ["lock_data_dir", "make_tokens", "node_name", "read_state", "remove_state", "write_state"]


@contextlib.contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[int]:
    """Hold the data directory (made if missing, mode 0711); yields the lock's descriptor.

    Waits TAKEOVER_SECONDS for what a killed supervisor left behind. Raises Conflict naming the holder, and
    InvalidRequest if it cannot be one.
    """
    for role in ("hands", "egress"):
        require_short(socket_path(data_dir, role))
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"the data directory {str(data_dir)!r} cannot be used: {error.strerror}"
        ) from error
    try:
        deadline = time.monotonic() + TAKEOVER_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
                alive = holder.isdecimal() and _lives(int(holder))
                if alive or time.monotonic() > deadline:
                    raise Conflict(
                        f"{str(data_dir)!r} is being served already, by pid {holder or 'unknown'}; "
                        "see `corral status`, or give another --data-dir"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield fd
    finally:
        os.close(fd)


def _lives(pid: int) -> bool:
    """Whether the process runs; one that was killed and not yet reaped does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def node_name(data_dir: Path) -> str:
    path = data_dir / "node"
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(Ids().mint("node"))
        draft.rename(path)
    return path.read_text()


def make_tokens(data_dir: Path) -> None:
    """Make what callers of hands and egress present, before anybody starts: the server reads it at once.

    Killed at any point, there is all of a token or nothing. Repeat: safe; a token is made once.
    """
    for role in ("hands", "egress"):
        made_token(data_dir, role)


def write_state(data_dir: Path, state: Mapping[str, object]) -> None:
    """Replace supervisor.json, all or nothing."""
    path = data_dir / _STATE
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(state, file)
    draft.rename(path)


def remove_state(data_dir: Path) -> None:
    (data_dir / _STATE).unlink(missing_ok=True)


def read_state(data_dir: Path) -> dict[str, object] | None:
    """What the supervisor wrote; None if none runs, or its file is another user's."""
    try:
        state = json.loads((data_dir / _STATE).read_text())
        return state if _lives(int(state["pid"])) else None
    except (OSError, ValueError, KeyError):
        return None
