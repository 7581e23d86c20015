"""What can be done to other processes: ptrace, signals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.calls import call
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import Tries
from corral.redteam.inside.theirs import pid_of, require_theirs

_PTRACE_ATTACH, _PTRACE_SEIZE = 16, 0x4206


def _attaches(to: str, request: int) -> Tries:
    """Nothing is stopped: seized, a process goes on; only the victim is attached to."""

    def tries(box: Box) -> None:
        pid = pid_of(box, to)
        call("ptrace", request, pid, 0, 0)
        raise Won(f"attached to {to}")

    return tries


def _copies_memory(to: str, name: str) -> Tries:
    def tries(box: Box) -> None:
        import ctypes

        pid = pid_of(box, to)
        buffer = ctypes.create_string_buffer(64)
        local = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 64)
        remote = (ctypes.c_ulong * 2)(0x400000, 64)
        try:
            raise Won(f"{call(name, pid, local, 1, remote, 1, 0)} bytes of {to}")
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise Won(f"{name} was allowed, and found nothing there") from None
            raise

    return tries


def _signals(to: str, number: int) -> Tries:
    def tries(box: Box) -> None:
        pid = box[f"{to}_pid"]
        _require_theirs_or_hidden(box, to)
        os.kill(pid, number)
        raise Won(f"signal {number} was sent to {to}")

    return tries


def _require_theirs_or_hidden(box: Box, name: str) -> None:
    """A process of our own that happens to have the number is not signalled."""
    with contextlib.suppress(FileNotFoundError):
        require_theirs(box, name)


def _signals_by_descriptor(box: Box) -> None:
    _require_theirs_or_hidden(box, "victim")
    pidfd = call("pidfd_open", box["victim_pid"], 0)
    call("pidfd_send_signal", pidfd, signal.SIGTERM, 0, 0)
    raise Won("a signal was sent through a descriptor")


def _ends_groups(box: Box) -> None:
    _require_theirs_or_hidden(box, "victim")
    os.kill(-box["victim_pid"], signal.SIGTERM)
    raise Won("a signal was sent to a group outside")


ATTEMPTS: dict[str, list[Attempt]] = {
    "ptrace": [
        *(
            Attempt(
                f"seize-{to}",
                f"traces {to}",
                _attaches(to, _PTRACE_SEIZE),
                is_of_kernel=to in ("shell", "agent"),
            )
            for to in ("agent", "shell", "supervisor", "server", "hands", "egress", "victim")
        ),
        Attempt(
            "attach-victim", "stops a process outside, to trace it", _attaches("victim", _PTRACE_ATTACH)
        ),
        *(
            Attempt(f"{name.replace('_', '-')}-{to}", f"{name} of {to}", _copies_memory(to, name))
            for name in ("process_vm_readv", "process_vm_writev")
            for to in ("agent", "victim")
        ),
    ],
    "signals": [
        *(
            Attempt(f"asks-{to}", f"asks whether {to} would hear a signal", _signals(to, 0), "signals")
            for to in ("hands", "egress", "server", "neighbour")
        ),
        Attempt(
            "ends-victim",
            "ends a process outside",
            _signals("victim", signal.SIGTERM),
            "signals",
            watches=("victim",),
        ),
        Attempt(
            "ends-neighbour",
            "ends a process of another sandbox",
            _signals("neighbour", signal.SIGTERM),
            "signals",
            watches=("neighbour",),
        ),
        Attempt(
            "ends-group", "ends a group of processes outside", _ends_groups, "signals", watches=("victim",)
        ),
        Attempt(
            "by-descriptor",
            "ends a process outside through a descriptor of it",
            _signals_by_descriptor,
            "signals",
            watches=("victim",),
        ),
    ],
}
