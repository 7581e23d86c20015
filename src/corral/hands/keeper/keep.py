"""Start the program, wait for its end or ours, end everything. See the package docstring.

Rules of this file:
- Where Landlock has scopes, the keeper has a domain of its own around the inner one: nobody inside can
  signal it, and its `kill(-1)` reaches all that is in there, as one step of the kernel, and nobody else. It
  asks the kernel whether that is so before it relies on it.
- Between fork and exec the walls go up in an order: what needs rights first, the filter of system calls
  last.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import struct
import sys
from typing import Any

from . import landlock

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER = 36
_SECCOMP_MODE_FILTER = 2
_CAPABILITIES = 64
_CAPABILITY_VERSION = 0x20080522
_SIGNALLED = 128
_NOT_STARTED = 127

_libc = ctypes.CDLL(None, use_errno=True)


def main(control: int) -> int:
    os.set_inheritable(control, False)
    told = _first_line(control)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    landlock.forbid_new_privileges()
    is_enclosed = landlock.enclose(told["abi"]) and not _reaches(os.getppid())
    deaths, note = os.pipe()
    os.set_blocking(note, False)
    os.set_blocking(deaths, False)
    signal.set_wakeup_fd(note, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    program = os.fork()
    if program == 0:
        _be_program(told)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):  # the other ends are to see the program's end, not ours
        os.dup2(null, fd)
    code = _wait(program, control, deaths)
    _end_all(is_enclosed)
    return code


def _first_line(control: int) -> dict[str, Any]:
    said = b""
    while not said.endswith(b"\n"):
        chunk = os.read(control, 1 << 16)
        if not chunk:
            sys.exit("the host closed the pipe before it said what to start")
        said += chunk
    told: dict[str, Any] = json.loads(said)
    return told


def _wait(program: int, control: int, deaths: int) -> int:
    """Until the program has ended, or is to. Returns its exit code."""
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(deaths, select.POLLIN)
    while True:
        with contextlib.suppress(ChildProcessError):
            while (died := os.waitpid(-1, os.WNOHANG))[0]:
                if died[0] == program:
                    code = os.waitstatus_to_exitcode(died[1])
                    return code if code >= 0 else _SIGNALLED - code
        for fd, _ in poller.poll():
            if fd == control:
                return _SIGNALLED + signal.SIGKILL
            with contextlib.suppress(BlockingIOError):
                os.read(deaths, 1 << 16)


# -- the end ------------------------------------------------------------------------------------------


def _end_all(is_enclosed: bool) -> None:
    while True:
        if is_enclosed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        else:
            _kill_descendants()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _reaches(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    return True


def _kill_descendants() -> None:
    """One by one, held still first: what is stopped makes no more of itself."""
    held: set[int] = set()
    while fresh := _descendants() - held:
        _signal_all(fresh, signal.SIGSTOP)
        held |= fresh
    _signal_all(held, signal.SIGKILL)


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> set[int]:
    """The living below us."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    above = [os.getpid()]
    while above:
        below = children.get(above.pop(), [])
        found.update(below)
        above += below
    return found


# -- between fork and exec ----------------------------------------------------------------------------


def _be_program(told: dict[str, Any]) -> None:
    """Become the program inside. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.umask(0o022)
        for path in told["joins"]:
            with open(path, "w") as group:
                group.write(str(os.getpid()))
        if told["uid"] is not None:
            _drop_to(told["uid"], told["groups"])
        _drop_capabilities()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user forgets it
        os.chdir(told["workdir"])
        landlock.confine(told["abi"], told["allowed"])
        _filter_system_calls(bytes.fromhex(told["seccomp"]))
        os.execve(told["program"][0], told["program"], told["environment"])
    except BaseException as error:
        os.write(2, f"the sandbox cannot be closed: {error}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _drop_to(uid: int, groups: list[int]) -> None:
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that this kernel does not know fail
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _drop_capabilities() -> None:
    """For a user who has some. What this one runs cannot get them back: no new privileges."""
    header, nothing = struct.pack("<Ii", _CAPABILITY_VERSION, 0), bytes(24)
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _filter_system_calls(rules: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(Program(len(rules) // 8, rules)))


def _prctl(option: int, *arguments: Any) -> None:
    padded = [*arguments, *[0] * (4 - len(arguments))]
    if _libc.prctl(option, *padded) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} is refused")
