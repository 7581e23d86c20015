"""A cgroup per sandbox, where this process may make one, v2, v1 or v1 hybrid: memory, processes, cpus.

Groups lie below `corral/` at the top of what is mounted here (in a container that is the container's own),
not below our own group: a v2 group that holds processes cannot pass controllers on. Where nothing is
writable there are only the rlimits, and `gaps` says so.

    corral/          all sandboxes: together they weigh as much as a few processes of the machine
      <name>/        one: as much as any other, and no more than its bounds
    corral-<uid>/    likewise, of hands that root starts as another user; it is theirs (`delegate`)
      hands/         v2: their own process
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.catalog.sandbox import Bounds
from corral.kernel.limits import SANDBOX_CPU_PERIOD_SECONDS, SANDBOXES_CPU_SHARES
from corral.kernel.owned_names import is_orphaned, owned_name

__all__ = ["Cgroups", "Group", "delegate"]

_ROOT: Final = Path("/sys/fs/cgroup")
_DELEGATED: Final = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")  # beside the directory
_CONTROLLERS: Final = ("cpu", "memory", "pids")
_PERIOD: Final = int(SANDBOX_CPU_PERIOD_SECONDS * 1_000_000)  # the kernel's unit is a microsecond
_OPTIONAL: Final = {"memory.swap.max", "memory.memsw.limit_in_bytes"}  # kernels without swap accounting
_GAPS: Final = {
    "memory": "each process has a bound, all together have none: no cgroup can be made here",
    "cpu": "each process is one among the machine's: no cgroup can be made here",
}


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
    def __init__(self, root: Path = _ROOT, *, uid: int | None = None) -> None:
        """uid: whose groups these are; ours unless given."""
        uid = os.geteuid() if uid is None else uid
        self._name = f"corral-{uid}" if uid else "corral"
        self._is_v2 = (root / "cgroup.controllers").exists()
        tops = {root: _CONTROLLERS} if self._is_v2 else {root / name: (name,) for name in _CONTROLLERS}
        self._parents: dict[Path, list[str]] = {}  # and the controllers that work there
        for top, controllers in tops.items():
            if (top / "cgroup.procs").exists() and (works := self._opened(top, controllers)):
                self._parents[top / self._name] = works
        for parent in self._parents:  # left behind by hosts that were killed
            for group in parent.iterdir():
                if group.is_dir() and is_orphaned(group.name):
                    with contextlib.suppress(OSError):
                        group.rmdir()

    @property
    def limits_memory(self) -> bool:
        return self._has("memory")

    @property
    def limits_processes(self) -> bool:
        return self._has("pids")

    @property
    def gaps(self) -> Mapping[str, str]:
        """`Capabilities.gaps` of sandboxes that rely on these groups."""
        return {controller: words for controller, words in _GAPS.items() if not self._has(controller)}

    def create(self, bounds: Bounds) -> Group:
        """A new group with these bounds; an empty one where nothing can be written to. Raises OSError."""
        folders, name = [], owned_name()
        for parent, controllers in self._parents.items():
            folder = parent / name
            folder.mkdir()
            folders.append(folder)
            for controller in controllers:
                for setting, value in self._settings(controller, bounds).items():
                    try:
                        (folder / setting).write_text(str(value))
                    except OSError:
                        if setting not in _OPTIONAL:
                            Group(folders).remove()
                            raise
        return Group(folders)

    def give(self, uid: int, gid: int) -> Sequence[Path]:
        """As `delegate`."""
        joins = []
        for parent in self._parents:
            for each in (parent, *(parent / name for name in _DELEGATED)):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(each, uid, gid)
            if self._is_v2:
                leaf = parent / "hands"
                leaf.mkdir(exist_ok=True)
                joins.append(leaf / "cgroup.procs")
        return joins

    def _has(self, controller: str) -> bool:
        return any(controller in controllers for controllers in self._parents.values())

    def _settings(self, controller: str, bounds: Bounds) -> Mapping[str, int | str]:
        """By file, in the order in which they are written."""
        quota = None if bounds.cpus is None else max(1000, int(bounds.cpus * _PERIOD))  # the kernel's least
        match controller:
            case "memory" if self._is_v2:
                return {"memory.max": bounds.memory_bytes, "memory.swap.max": 0}
            case "memory":
                size = bounds.memory_bytes
                return {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
            case "cpu" if self._is_v2:
                return {"cpu.max": f"{'max' if quota is None else quota} {_PERIOD}"}
            case "cpu":
                return {"cpu.cfs_period_us": _PERIOD, "cpu.cfs_quota_us": -1 if quota is None else quota}
            case _:
                return {"pids.max": bounds.processes}

    def _opened(self, top: Path, controllers: tuple[str, ...]) -> list[str]:
        """Those of which groups can be made below `top`, tried for real."""
        parent = top / self._name
        try:
            parent.mkdir(exist_ok=True)
            if self._is_v2:
                for controller in controllers:
                    with contextlib.suppress(OSError):  # it may not be ours to pass on
                        for folder in (top, parent):
                            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            elif controllers == ("cpu",):
                weight, file = str(SANDBOXES_CPU_SHARES), parent / "cpu.shares"
                if file.read_text().strip() != weight:  # which root has written where it delegates
                    file.write_text(weight)
            trial = parent / owned_name()
            trial.mkdir()
            try:
                return [name for name in controllers if self._works(trial, name)]
            finally:
                trial.rmdir()
        except OSError:
            return []

    def _works(self, trial: Path, controller: str) -> bool:
        settings = [name for name in self._settings(controller, Bounds()) if name not in _OPTIONAL]
        return all((trial / name).exists() for name in settings)


def delegate(uid: int, gid: int, root: Path = _ROOT) -> Sequence[Path]:
    """Let hands of this user make groups for their sandboxes; for root, before it starts them. Returns the
    files to which their pid is written next: in v2 a process is moved by who may write where its old and
    its new group meet. Nothing where root cannot make groups. Repeat: safe."""
    return Cgroups(root, uid=uid).give(uid, gid)
