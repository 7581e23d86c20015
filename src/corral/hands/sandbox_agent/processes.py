"""What the sandbox's kernel side offers: limits, a private memory, and killing all that a call started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

from .wire import Limits

_PR_SET_DUMPABLE = 4


def harden(limits: Limits) -> None:
    """Hard limits for everything below, and no access to this process through /proc."""
    for which, value in (
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))
    # A command runs with our uid: without this it could write frames into our stdout or read our memory.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def reap() -> list[int]:
    """Bury the dead: ours, and all orphans of the sandbox, whose process 1 we are. Returns their pids."""
    dead = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            dead.append(pid)
    return dead


def kill_tree(leader: int) -> None:
    """Kill a session leader, its session and its descendants: `timeout` and `set -m` leave its group.

    A group is killed as one step of the kernel, so a fork bomb cannot outrun it.
    """
    groups = _groups_below(leader)
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)  # a child that has not yet become a leader
    killed: set[int] = set()
    new = {leader, *groups}
    while new:
        for group in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        killed |= new
        new = _groups_below(leader) - killed


def _groups_below(leader: int) -> set[int]:
    """Process groups of the living processes in the leader's session or below it."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    groups: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                state, parent, group, session = f.read().rpartition(b")")[2].split()[:4]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            pid = int(name)
            parents[pid], groups[pid], sessions[pid] = int(parent), int(group), int(session)

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == leader:
                return True
        return False

    below = {groups[p] for p in parents if sessions[p] == leader or descends(p)}
    return below - {os.getpgid(0), 0, 1}
