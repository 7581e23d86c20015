"""Names that say which process something belongs to, so that others can tell what a killed one has left.

    <pid>-<start of that process in ticks since boot>-<random>

The pid alone would not do: in a container the same few come again with every start, and what an earlier
server left would be taken for that of the process which has its pid now.
"""

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["is_orphaned", "owned_name"]


def owned_name() -> str:
    """A new name for something of this process."""
    pid = os.getpid()
    return f"{pid}-{_start(str(pid))}-{secrets.token_hex(8)}"


def is_orphaned(name: str) -> bool:
    """Whether the process that named it has ended; True for what no Corral ever named. Of processes that
    this one can see."""
    pid, *rest = name.split("-")
    start = _start(pid) if pid.isdecimal() else None
    if start is None:
        return True
    # Earlier versions named things by the pid alone; one may still run beside this one.
    return len(rest) == 2 and rest[0] != start


def _start(pid: str) -> str | None:
    """When it began; None for one that is gone, or is only waited for."""
    with contextlib.suppress(OSError):
        # state ppid pgrp ... starttime: the name before them may hold anything, also parentheses
        fields = Path("/proc", pid, "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None
