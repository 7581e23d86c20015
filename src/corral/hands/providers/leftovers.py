"""What hosts that were killed have left on this machine, and how it goes.

A directory that a host makes for itself says in its name whose it is, see `kernel.owned_names`.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from corral.hands.providers.home import remove_empty
from corral.hands.way_out import DOORS
from corral.kernel.owned_names import is_orphaned

__all__ = ["clear_stages", "clear_state", "end_orphans"]


def clear_state(state_dir: Path) -> None:
    """Pools, probes and doors below the state directory."""
    for stale in _stale(state_dir, "pool-"):
        for home in stale.iterdir():
            remove_empty(home)
        stale.rmdir()
    for stale in (*_stale(state_dir, "probe-"), *_stale(state_dir, DOORS)):  # no agent ever wrote there
        shutil.rmtree(stale, ignore_errors=True)


def clear_stages(where: Path) -> list[str]:
    """Stages, which are empty: what was in them ended with its sandbox. Returns their paths."""
    stages = _stale(where, "corral-stage-")
    for stale in stages:
        with contextlib.suppress(OSError):
            stale.rmdir()
    return [str(stale) for stale in stages]


def _stale(where: Path, prefix: str) -> list[Path]:
    """`<prefix><name of its process>` of hosts that have ended."""
    found = where.glob(f"{prefix}*-*")
    return [path for path in found if is_orphaned(path.name.removeprefix(prefix))]


def end_orphans(marks: Sequence[str]) -> None:
    """Kill what a killed host has left of its boots: `--die-with-parent` ends bwrap, but the init that it
    was about to release waits for its word for ever. Nothing of an agent runs in one.

    marks: paths that only our own commands hold.
    """
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "comm").read_text() == "bwrap\n":
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                if any(mark in command for mark in marks) and not _has_host(int(folder.name)):
                    os.kill(int(folder.name), signal.SIGKILL)


def _has_host(pid: int) -> bool:
    """Whether a process other than bwrap and process 1 is above it. Raises OSError when it is gone.

    Where orphans go to another process than 1 (a service manager, a container's init), that one is above
    them; but the bwrap that a host started begins a session, and theirs has lost it.
    """
    if (session := os.getsid(pid)) != pid and _has_ended(session):
        return False
    while pid > 1:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        if not name.endswith("(bwrap"):
            return True
        pid = int(rest.split()[1])
    return False


def _has_ended(pid: int) -> bool:
    """Whether a process is gone, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
