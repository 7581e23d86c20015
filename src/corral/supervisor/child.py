"""A process that the supervisor looks after: its program, its environment, and what is known about it."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from corral.hands.providers.engines import ENGINE_VARIABLES
from corral.process import Role
from corral.supervisor.logs import LogFile
from corral.supervisor.users import Users

__all__ = ["Child", "Command", "child_environment", "our_program"]

Command = Callable[[Role], Sequence[str]]  # the program of a role

_PASSED_ON: Final = (
    *(
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "XDG_DATA_HOME",
        "XDG_CACHE_HOME",
    ),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"),
    *("CORRAL_CRASH_AT", "CORRAL_FAULTS"),
)
# The way out of the machine: for the processes that go there, which the hands are not.
_PASSED_ON_NETWORK: Final = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *(
        name
        for base in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        for name in (base, base.lower())
    ),
)
# The server is sent secrets to seal. What it has let go of is overwritten at once, so they are not found
# there later. Of glibc; to others these words say nothing.
_OVERWRITES_FREED: Final = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_PERTURB_": "165",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # what is kept there would stay as it is
}


def our_program(role: Role) -> Sequence[str]:
    return [sys.executable, "-m", "corral.app", role]


def child_environment(role: Role | None, environ: Mapping[str, str]) -> dict[str, str]:
    """What a process gets of our environment: no key, no setting (those travel by pipe). role: None for
    the supervisor, who passes it on."""
    names = list(_PASSED_ON)
    if role != "hands":
        names += _PASSED_ON_NETWORK
    if role in (None, "hands"):
        names += ENGINE_VARIABLES
    found = {name: environ[name] for name in names if name in environ}
    return found | _OVERWRITES_FREED if role == "server" else found


@dataclass(kw_only=True)
class Child:
    """`process` is None for one that was adopted; `adoption` is the connection that holds it.

    spare: it has no Start yet; `is_ready` says that it has imported what it will need.
    failures: deaths in a row, for the backoff. deaf_since: it has its lock and answers nobody.
    heard_at: the last sign of life over the adopting connection, or to a question.
    """

    role: Role
    outlives: bool
    process: subprocess.Popen[bytes] | None = None
    pid: int | None = None
    version: str = ""
    report: bytes = b""
    is_ready: bool = False
    is_drained: bool = False
    is_spare: bool = False
    adoption: socket.socket | None = None
    started_at: float = 0.0
    next_try_at: float = 0.0
    deaf_since: float | None = None
    heard_at: float = 0.0
    failures: int = 0
    restarts: int = -1
    log: LogFile | None = None

    def spawn(
        self, command: Sequence[str], *, first_line: bytes, pass_fds: Sequence[int], users: Users
    ) -> None:
        """Start its program, as who it is to be, and tell it how to start; its standard output is ours to
        read."""
        stderr = self.log.open() if self.log else None
        environment = users.environment(self.role, child_environment(self.role, os.environ))
        with users.as_root():
            joins = users.control_groups(self.role)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=pass_fds,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the supervisor; hands and egress also outlive it
                bufsize=0,
                **users.identity(self.role),
            )
            for file in joins:
                with contextlib.suppress(OSError):  # it has ended; or sandboxes have their rlimits
                    file.write_text(str(self.process.pid))
        if stderr is not None:
            os.close(stderr)
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self.pid, self.report = self.process.pid, b""
        self.is_ready, self.is_drained = False, False
        self.tell(first_line)

    def tell(self, line: bytes) -> None:
        assert self.process and self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has died, which is found out elsewhere
            self.process.stdin.write(line)

    @property
    def is_promotable(self) -> bool:
        """Whether it runs and still has a way to report. Who has closed that is ending, reaped or not."""
        process = self.process
        return bool(process and process.stdout and not process.stdout.closed and process.poll() is None)

    @property
    def is_up(self) -> bool:
        return self.adoption is not None if self.outlives else self.process is not None and self.is_ready
