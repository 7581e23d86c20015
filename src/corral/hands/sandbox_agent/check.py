"""Self-check of a new sandbox: each escape is tried; the names of those that worked are the answer."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable

from .wire import Place

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_PTRACE_TRACEME = 0
_AF_VSOCK = 40  # not namespaced: on a virtual machine it reaches the hypervisor
_SOMEWHERE = ("192.0.2.1", 9)  # TEST-NET-1: no packet is needed, a route would be enough


def run(place: Place, absent: list[str], closed: list[str], stranger: int) -> str:
    """ "sealed", or the escapes that worked, one per line. Of the host: `absent` are paths that must not be
    visible, `closed` those that must not open, `stranger` is a process that must not hear our signals."""
    libc = ctypes.CDLL(None, use_errno=True)
    tries: dict[str, Callable[[], bool]] = {
        "unshare user namespace": lambda: libc.unshare(_CLONE_NEWUSER) == 0,
        "unshare mount namespace": lambda: libc.unshare(_CLONE_NEWNS) == 0,
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        "ptrace": lambda: libc.ptrace(_PTRACE_TRACEME, 0, None, None) == 0,
        "vsock": lambda: _opens(_AF_VSOCK),
        "network route": _has_route,
        "foreign processes in /proc": lambda: _sees_strangers(place),
        "write to /usr": lambda: os.access("/usr", os.W_OK),
        "write to /": lambda: os.access("/", os.W_OK),
        "root inside": lambda: os.getuid() == 0,
        "capabilities": lambda: _has_capabilities("CapEff", "CapPrm"),
        "capabilities in reach": lambda: _has_capabilities("CapBnd"),
        "no seccomp filter": lambda: "Seccomp:\t2" not in _status(),
        "signal to a foreign process": _signals(stranger),
        **{f"host path {path}": _exists(path) for path in absent},
        **{f"reads {path}": _reads(path) for path in closed},
    }
    return "\n".join(name for name, worked in tries.items() if worked()) or "sealed"


def _exists(path: str) -> Callable[[], bool]:
    return lambda: os.path.lexists(path)


def _reads(path: str) -> Callable[[], bool]:
    def attempt() -> bool:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            return True
        return False

    return attempt


def _signals(pid: int) -> Callable[[], bool]:
    def attempt() -> bool:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return True
        return False

    return attempt


def _opens(family: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM):
        return True
    return False


def _has_route() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(_SOMEWHERE)
        return True
    return False


def _status() -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as f:
        return f.read()


def _has_capabilities(*names: str) -> bool:
    lines = [line for line in _status().splitlines() if line.startswith(names)]
    return any(int(line.split()[1], 16) for line in lines)


def _sees_strangers(place: Place) -> bool:
    """The agent, this child and perhaps a carrier: nobody else is in a new sandbox."""
    carriers = 1 if place.way_out and place.way_out["carries"] else 0
    return sum(name.isdigit() for name in os.listdir("/proc")) > 2 + carriers
