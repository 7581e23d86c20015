"""How the supervisor and the processes it starts talk to each other. Everything travels by pipe: no secret
is ever in an argument list or an environment.

    supervisor --stdin--> child     one line of JSON: `Start`, secrets included; then the pipe stays open.
                                    End of file: the supervisor is gone. Before it there may be a line
                                    {"prepare": [role, ...]}: a spare, which imports what it will need and
                                    waits.
    child --stdout--> supervisor    one line of JSON: {"ready": {...}} or {"failed": "what to mend"}; before
                                    it {"prepared": {}} from a spare; after it, from a server that was told
                                    to end, {"drained": {}}.
    child --stderr--> the log       structured lines; see `log_to_stderr`.

A child is `python -m corral.app ROLE`; its main function is `run(role, serve)`. The server dies with its
supervisor; hands and egress are sessions of their own and outlive it (docs/ARCHITECTURE.md).
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from corral.config import Config, LogLevel, Secret
from corral.kernel.errors import Conflict, CorralError, StoreUnavailable
from corral.kernel.limits import GC_ALLOCATIONS
from corral.kernel.request import request_id

__all__ = [
    "EXIT_FAILED",
    "EXIT_TAKEN",
    "Role",
    "Start",
    "begin",
    "end_with_parent",
    "harden",
    "log_to_stderr",
    "look_for_garbage_rarely",
    "prepare_line",
    "raise_open_files",
    "report_drained",
    "report_failed",
    "report_ready",
    "run",
    "supervisor_gone",
]

Role = Literal["server", "hands", "egress"]
EXIT_FAILED: Final = 78  # EX_CONFIG: starting again would fail in the same way
EXIT_AGAIN: Final = 1  # it may pass: started again, as after a crash
EXIT_TAKEN: Final = 75  # EX_TEMPFAIL: another process still has this role

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a process is told when it starts.

    config:      without secrets for hands and egress.
    node:        names this data directory for ever; the owner of a lease is `{node}.{incarnation}`.
    incarnation: names this start of the server; leases of other incarnations of the node are dead, because
                 only one supervisor at a time holds the data directory.
    local_key:   API key of the command line on this machine; new with each supervisor, never stored by the
                 server, kept for the user in `supervisor.json` (mode 0600).
    listen_fd:   the listening TCP socket; it stays the supervisor's, so connections wait while the server
                 is replaced.
    token, sockets: of egress, where it runs as another user than its callers: its entrance, made by the
                 supervisor (`corral.daemon`); sockets are descriptors.
    """

    role: Role
    config: Config
    node: str = ""
    incarnation: str = ""
    local_key: Secret | None = None
    listen_fd: int | None = None
    token: Secret | None = None
    sockets: tuple[int, ...] = ()

    @property
    def owner(self) -> str:
        """Of the leases of this start."""
        return f"{self.node}.{self.incarnation}"

    def encode(self) -> bytes:
        """One line, secrets revealed: for a pipe only."""
        data = {
            "role": self.role,
            "config": self.config.to_json(),
            "node": self.node,
            "incarnation": self.incarnation,
            "local_key": self.local_key.reveal() if self.local_key else None,
            "listen_fd": self.listen_fd,
            "token": self.token.reveal() if self.token else None,
            "sockets": self.sockets,
        }
        return json.dumps(data, default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Start":
        """Inverse of `encode`. Raises ValueError, KeyError."""
        data = json.loads(line)
        if data["role"] not in get_args(Role):
            raise ValueError(f"unknown role {data['role']!r}")
        return cls(
            role=data["role"],
            config=Config.from_json(data["config"]),
            node=data["node"],
            incarnation=data["incarnation"],
            local_key=Secret(data["local_key"]) if data["local_key"] else None,
            listen_fd=data["listen_fd"],
            token=Secret(data["token"]) if data["token"] else None,
            sockets=tuple(data["sockets"]),
        )


def prepare_line(roles: Sequence[str]) -> bytes:
    """What makes a new server process a spare: it prepares for these roles of a node, and waits."""
    return json.dumps({"prepare": list(roles)}).encode() + b"\n"


Prepare = Callable[[Sequence[str]], None]


def begin(role: Role, *, prepare: Prepare | None = None) -> Start:
    """The first thing a child does: close itself to other processes, and read how it is meant to start.
    Raises EOFError if the supervisor ended before it said so."""
    harden()
    raise_open_files()
    if role == "server":
        end_with_parent(signal.SIGKILL)
    _keep_reports_apart()
    lines = _lines(0)
    line = next(lines)
    if prepare is not None and "prepare" in (asked := json.loads(line)):
        prepare(asked["prepare"])
        _say({"prepared": {}})
        line = next(lines)
    start = Start.decode(line)
    if start.role != role:
        raise ValueError(f"started as {role!r} with the settings of {start.role!r}")
    # podman's helpers are setuid: they map the users of its containers.
    kinds = {start.config.sandbox, *start.config.sandbox_choices}
    if start.config.user is not None and (role != "hands" or "podman" not in kinds):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    log_to_stderr(start.config.log_level, role=role)
    return start


def run(
    role: Role,
    serve: Callable[[Start], Coroutine[object, object, None]],
    *,
    prepare: Prepare | None = None,
) -> int:
    """The main function of a child; returns its exit status. `serve` calls `report_ready` once it serves.

    prepare: imports what `serve` will need for these roles of a node; for a role that has spares.
    Conflict means that another process still has this role, which passes (EXIT_TAKEN: tried again); a
    store that is away for now likewise (EXIT_AGAIN); every other CorralError is for the user to mend.
    """
    try:
        start = begin(role, prepare=prepare)
    except EOFError:  # a spare whose supervisor was killed: there is nothing to start, or to tell of
        return 0
    if role == "server":
        look_for_garbage_rarely()
    try:
        if role == "egress":  # the smallest process: it has no use for a fast loop yet
            asyncio.run(serve(start))
        else:
            import uvloop  # not for the supervisor, which imports this module too

            uvloop.run(serve(start))
    except Conflict as error:
        logging.getLogger(__name__).warning("%s", error)
        return EXIT_TAKEN
    except StoreUnavailable as error:
        if not error.retryable:
            report_failed(str(error))
            return EXIT_FAILED
        logging.getLogger(__name__).error("%s", error)  # a database that is being restarted, as we are
        return EXIT_AGAIN
    except CorralError as error:
        report_failed(str(error))
        return EXIT_FAILED
    return 0


def look_for_garbage_rarely() -> None:
    """For the server: a folded log is many objects and no garbage; looking for it costs a third again."""
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


def report_ready(**facts: object) -> None:
    """Tell the supervisor that this process serves. Server: `api_key` if one was made just now (shown once,
    else None)."""
    _say({"ready": facts})


def report_failed(message: str) -> None:
    """Tell the supervisor that starting again cannot help, and what to mend; then exit with EXIT_FAILED."""
    _say({"failed": message})


def report_drained() -> None:
    """Tell the supervisor that nothing is going on here any more, but that others should end first."""
    _say({"drained": {}})


async def supervisor_gone() -> None:
    """Return when the supervisor has ended, however it ended."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if not os.read(0, 4096):
            gone.set()

    loop.add_reader(0, look)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(0)


def harden() -> None:
    """No core dump, no ptrace, no /proc/PID/{environ,mem} for others of the same user. Linux only."""
    _prctl(_PR_SET_DUMPABLE, 0)


def raise_open_files() -> None:
    """As many open files as we may have: every event stream is one, the usual 1,024 are few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS: "unlimited" is more than it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_with_parent(number: signal.Signals) -> None:
    """Get this signal when the thread that started this process ends; kept through exec. Linux only."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def log_to_stderr(level: LogLevel, *, role: str) -> None:
    """Lines a human can read and a machine can split: `time level role logger message`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(role))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level == "info":  # what libraries call information is detail to us
        for name in ("alembic", "httpx2", "uvicorn"):
            logging.getLogger(name).setLevel(logging.WARNING)


class _LineFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = record.getMessage()
        if (request := request_id.get()) and request not in text:
            text = f"[{request}] {text}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        # Nothing in a record can steer a terminal or look like another record: text may come from a model.
        safe = "".join(c if c.isprintable() else "\n    " if c == "\n" else "?" for c in text)
        return f"{when[:-6]}Z {record.levelname.lower():<7} {self._role:<10} {record.name}: {safe}"


_reports_fd = 1


def _keep_reports_apart() -> None:
    """What libraries print goes to the log; standard output, as it was given to us, is for reports."""
    global _reports_fd
    _reports_fd = os.dup(1)
    os.dup2(2, 1)


def _say(line: Mapping[str, object]) -> None:
    data = json.dumps(line, default=str).encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):  # the supervisor died meanwhile; the next one adopts
        while data:
            data = data[os.write(_reports_fd, data) :]


def _lines(fd: int) -> Iterator[bytes]:
    data = b""
    while True:
        line, end, rest = data.partition(b"\n")
        if end:
            data = rest
            yield line
            continue
        chunk = os.read(fd, 65536)
        if not chunk:
            raise EOFError("the supervisor ended before it said how to start")
        data += chunk
