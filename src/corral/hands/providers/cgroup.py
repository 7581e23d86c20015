"""A cgroup per sandbox, where this process may make one: v2, v1 or v1 hybrid; memory and processes.

Groups lie below `corral/` at the top of what is mounted here (in a container that is the container's own),
not below our own group: a v2 group that holds processes cannot pass controllers on. Where nothing is
writable there are only the rlimits, and `Capabilities.gaps` says so.
"""

import contextlib
from pathlib import Path
from typing import Final

from corral.kernel.limits import SANDBOX_MEMORY_BYTES, SANDBOX_PROCESSES_MAX
from corral.kernel.owned_names import is_orphaned, owned_name

__all__ = ["Cgroups", "Group"]

_V2: Final = {
    "memory.max": SANDBOX_MEMORY_BYTES,
    "memory.swap.max": 0,
    "pids.max": SANDBOX_PROCESSES_MAX,
}
_V1: Final = {
    "memory": {
        "memory.limit_in_bytes": SANDBOX_MEMORY_BYTES,
        "memory.memsw.limit_in_bytes": SANDBOX_MEMORY_BYTES,
    },
    "pids": {"pids.max": SANDBOX_PROCESSES_MAX},
}
_OPTIONAL: Final = {"memory.swap.max", "memory.memsw.limit_in_bytes"}  # kernels without swap accounting


class Group:
    """One sandbox's directories, one per hierarchy."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders

    @property
    def procs_files(self) -> list[Path]:
        """Where a process writes its pid to join."""
        return [folder / "cgroup.procs" for folder in self._folders]

    def remove(self) -> None:
        """Once its last process is gone. Repeat: safe."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class Cgroups:
    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._settings = {
            top / "corral": values for top, values in _hierarchies(root).items() if _is_ours(top, values)
        }
        for parent in self._settings:  # left behind by hosts that were killed
            for group in parent.iterdir():
                if group.is_dir() and is_orphaned(group.name):
                    with contextlib.suppress(OSError):
                        group.rmdir()

    @property
    def limits_memory(self) -> bool:
        return any(name.startswith("memory.") for values in self._settings.values() for name in values)

    @property
    def limits_processes(self) -> bool:
        return any("pids.max" in values for values in self._settings.values())

    def create(self) -> Group:
        """A new group with its limits; an empty one where there is nothing to write to."""
        folders, name = [], owned_name()
        for parent, values in self._settings.items():
            folder = parent / name
            folder.mkdir()
            folders.append(folder)
            for setting, value in values.items():
                try:
                    (folder / setting).write_text(str(value))
                except OSError:
                    if setting not in _OPTIONAL:
                        Group(folders).remove()
                        raise
        return Group(folders)


def _hierarchies(root: Path) -> dict[Path, dict[str, int]]:
    if (root / "cgroup.controllers").exists():
        return {root: _V2}
    return {root / name: values for name, values in _V1.items() if (root / name / "cgroup.procs").exists()}


def _is_ours(top: Path, values: dict[str, int]) -> bool:
    """Whether groups with these settings can be made below `top`, tried for real."""
    parent = top / "corral"
    try:
        parent.mkdir(exist_ok=True)
        if values is _V2:
            for folder in (top, parent):
                (folder / "cgroup.subtree_control").write_text("+memory +pids")
        trial = parent / owned_name()
        trial.mkdir()
        try:
            return all((trial / name).exists() for name in values if name not in _OPTIONAL)
        finally:
            trial.rmdir()
    except OSError:
        return False
