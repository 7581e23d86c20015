"""`landlock`: the fallback for machines that forbid user namespaces, as containers and Ubuntu 24.04 do.

Landlock rules for files and signals, a system call filter that leaves no sockets but pairs, a dropped uid
if we are root, rlimits, no new privileges. Weaker than any other provider, and chosen by name only (or by
`corral demo`, which says so): GAPS is what it does not do.

Nothing can be mounted, so a sandbox sees directories where they lie: /workspace is `files/` of the
workspace on the host, which file tools translate and commands do not. Each sandbox is kept by a process of
its own (`corral.hands.keeper`), which ends all of it.
"""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.keeper.landlock import ABI_SCOPES, abi
from corral.hands.ports import Capabilities
from corral.hands.providers.binary import CannotWork, PythonInside, find_python
from corral.hands.providers.cgroup import Cgroups, Group
from corral.hands.providers.home import (
    AGENT,
    HOST_UID,
    MEMORY,
    PATHS,
    SCRATCH,
    TMP,
    UPLOADS,
    WORKDIR,
    drops_uid,
)
from corral.hands.providers.inside import install
from corral.hands.providers.launch import environment
from corral.hands.providers.layers import Layer
from corral.hands.providers.leftovers import clear_state
from corral.hands.providers.process import StartedProcess, starting_in
from corral.hands.providers.seccomp import seccomp_filter
from corral.hands.providers.system import MACHINE, System
from corral.hands.providers.walled import WalledProvider
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import SANDBOXES_MAX

__all__ = ["GAPS", "LandlockProvider"]

GAPS: Final = {
    "kernel": "the machine's own, behind a filter of system calls",
    "names": "of files outside, names, sizes and times can be looked up by path; and, unless Corral was "
    "started as root, its user's directories can be watched, modes and times of its user's files changed",
    "places": "programs see its directories where they lie",
    "paths": "/workspace, /mnt and /tmp are elsewhere (the first command is told where; file tools know), "
    "and there is no /dev/shm",
    "processes": "what runs on the machine can be listed, with arguments",
    "end": "a keeper that is killed, by a machine out of memory or, before Linux 6.12, from inside, "
    "leaves behind what it kept",
    "network": "no network, and no sockets at all: nothing inside can listen either",
}
_AS_USER: Final = {"user": "it is the user that started Corral, within the other walls"}
_OLD_KERNEL: Final = {"signals": "processes of the same user can be signalled: Linux 6.12 prevents that"}
_SHARED_COUNT: Final = {"count": "one bound for all processes of its user: no cgroup can be made here"}
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_GROUPS: Final = range(0x70000000, 0x7FFF0000)  # gids that systemd documents as nobody's
_CLEAR: Final = '(chmod -R u+rwX "$0"; find "$0" -mindepth 1 -delete) 2>/dev/null'


class LandlockProvider(WalledProvider):
    """`hands.ports.Provider` by Landlock and seccomp."""

    def __init__(self, *, state_dir: Path, system: System = MACHINE) -> None:
        super().__init__(LandlockWalls(state_dir.resolve(), system), state_dir=state_dir)


class LandlockWalls:
    """`hands.providers.walls.Walls`. `state_dir`: of the provider. system: only the machine's works."""

    name = "landlock"
    takes_descriptors = True
    has_own_kernel = False
    can_be_renamed = False  # what is inside knows its directories by their names
    has_layers = False  # they have a place that cannot be mounted
    home_mode = 0o710  # `_enter`
    python: PythonInside

    def __init__(self, state_dir: Path, system: System = MACHINE) -> None:
        self._state_dir = state_dir
        self._system = system
        self._drops_uid = drops_uid()
        self._cgroups = Cgroups()
        self._abi = abi()
        self._setting_up = asyncio.Lock()
        self._inside: Path | None = None
        self._seccomp = b""
        gaps = dict(GAPS)
        gaps |= {} if self._drops_uid else _AS_USER
        gaps |= {} if self._abi >= ABI_SCOPES else _OLD_KERNEL
        gaps |= {} if self._cgroups.limits_processes else _SHARED_COUNT
        gaps |= self._cgroups.gaps
        user = "unprivileged uid" if self._drops_uid else "the uid of Corral"
        self.capabilities = Capabilities(
            isolation=f"Landlock, seccomp, {user}, no sockets; no namespaces: a fallback", gaps=gaps
        )

    def processes_max(self, bounds: Bounds) -> int:
        """The kernel counts all of a user's here, whatever sandbox they are in."""
        if self._cgroups.limits_processes:
            return bounds.processes * SANDBOXES_MAX
        return bounds.processes + _threads_of(HOST_UID if self._drops_uid else os.getuid())

    async def set_up(self) -> None:
        async with self._setting_up:
            if self._inside is None:
                self._inside = await asyncio.to_thread(self._make)

    def owner(self, home: Path) -> int | None:
        return HOST_UID if self._drops_uid else None

    def seen(self, home: Path, path: str) -> str:
        for documented, here in self._places(home).items():
            if path == documented or path.startswith(f"{documented}/"):
                return str(here) + path[len(documented) :]
        return path

    async def freshen(self, home: Path) -> None:
        scratch = home / SCRATCH
        self._make_scratch(scratch)
        if any(scratch.iterdir()):
            process = await self.start(home, ["/bin/sh", "-c", _CLEAR, str(scratch)], {})
            try:
                await process.exit_code()
            finally:
                await process.close()

    async def start(
        self,
        home: Path,
        program: Sequence[str],
        memory: Mapping[str, bool],
        layer: Layer | None = None,
        *,
        gives: Sequence[int] = (),
        door: Path | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> "KeptProcess":
        assert self._inside, "set_up comes first"
        assert layer is None and not gives and door is None, "it has no layers, and no way out"
        with starting_in(self._cgroups, bounds) as group:
            self._make_scratch(home / SCRATCH)
            told = {
                "program": program,
                "environment": environment(self.python) | {"TMPDIR": str(home / SCRATCH)},
                "workdir": self.seen(home, WORKDIR),
                "uid": HOST_UID if self._drops_uid else None,
                "groups": [self._enter(home)] if self._drops_uid else [],
                "joins": [str(file) for file in group.procs_files],
                "abi": self._abi,
                "allowed": self._allowed(home, memory),
                "seccomp": self._seccomp.hex(),
            }
            keeper = [str(self.python.path), "-IS", str(self._inside / "keeper")]
            return await KeptProcess.start(keeper, told=json.dumps(told), group=group)

    def diagnose(self, complaint: str) -> SandboxUnavailable:
        return CannotWork(
            "Landlock or seccomp is refused",
            found=complaint,
            remedy="a container's own filter of system calls may forbid those of Landlock: allow them",
        )

    def absent(self) -> Sequence[Path]:
        """Unless the Python that is used lies below one."""
        ours = [self._state_dir, Path(f"/proc/{os.getpid()}/environ"), Path(f"/proc/{os.getpid()}/mem")]
        hidden = [*ours, *map(Path, ("/etc/shadow", "/etc/passwd", "/sys", "/home", "/root", "/"))]
        prefix = self.python.prefix or Path("/usr")
        return [path for path in hidden if path == Path("/") or not prefix.is_relative_to(path)]

    def description(self) -> tuple[str, str]:
        name = f"landlock (version {self._abi} of its interface)"
        return f"{name}: a fallback", f"{name}, a fallback"

    def close(self) -> None:
        return

    # -- inside ----------------------------------------------------------------------------------------

    def _make(self) -> Path:
        if self._system.root is not None:
            raise CannotWork(
                "landlock mounts nothing, so its sandboxes have the machine's own programs only",
                remedy="leave --sandbox-root (CORRAL_SANDBOX_ROOT) away, or use --sandbox bwrap",
            )
        if not self._abi:
            raise CannotWork(
                "this kernel has no Landlock",
                remedy="use Linux 5.13 or newer, with `landlock` in its lsm= parameter",
            )
        self._seccomp = seccomp_filter(has_namespaces=False)
        self.python = find_python()
        clear_state(self._state_dir)
        if self._drops_uid:
            for path in filter(None, (self._state_dir, self.python.prefix)):
                _require_reachable(path)
        return install(self._state_dir, self.python)

    def _places(self, home: Path) -> dict[str, Path]:
        kept = {place: home / name for name, place in (*PATHS.items(), UPLOADS, MEMORY)}
        agent = {AGENT: self._inside / "agent"} if self._inside else {}  # known after `set_up`
        return kept | agent | {TMP: home / SCRATCH}

    def _allowed(self, home: Path, memory: Mapping[str, bool]) -> list[tuple[str, str]]:
        """What the keeper is to allow: (path, mode)."""
        assert self._inside
        programs = [str(source) for source, _ in self._system.mounts()[0]]
        programs += [
            str(self._inside / "agent"),
            *([str(self.python.prefix)] if self.python.prefix else []),
        ]
        writable = [home / name for name in (*PATHS, SCRATCH)]
        writable += [home / MEMORY[0] / slug for slug, is_writable in memory.items() if is_writable]
        readable = [home / UPLOADS[0], home / MEMORY[0], Path("/proc")]
        return [
            *((path, "run") for path in programs),
            *((str(path), "read") for path in readable),
            *((str(path), "write") for path in writable),
            *((f"/dev/{device}", "device") for device in _DEVICES),
        ]

    def _make_scratch(self, scratch: Path) -> None:
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o700)  # the agent may have locked itself out
        if self._drops_uid:
            os.chown(scratch, HOST_UID, HOST_UID)

    def _enter(self, home: Path) -> int:
        """The group that alone, but for us, passes through `home`. All sandboxes have one uid, and whoever
        gets at a file by its path can change its mode and times: so none gets at those of another."""
        group = home.stat().st_gid
        if group not in _GROUPS:
            group = secrets.choice(_GROUPS)
            os.chown(home, -1, group)
        return group


class KeptProcess(StartedProcess):
    """A sandbox and its keeper."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, control: int, stderr: int, group: Group
    ) -> None:
        super().__init__(process, stderr=stderr, group=group)
        self._control = control

    @classmethod
    async def start(cls, keeper: Sequence[str], *, told: str, group: Group) -> "KeptProcess":
        """told: one line. Raises OSError."""
        inner, control = os.pipe2(os.O_CLOEXEC)
        stderr, stderr_inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(control, False)  # it fits into the pipe, or the start fails
            line = told.encode() + b"\n"
            if os.write(control, line) < len(line):
                raise OSError(errno.E2BIG, "a sandbox with so many mounts cannot be described")
            process = await asyncio.create_subprocess_exec(
                *keeper,
                str(inner),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr_inner,
                pass_fds=(inner,),
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(control)
            os.close(stderr)
            raise
        finally:
            os.close(inner)
            os.close(stderr_inner)
        return cls(process, control=control, stderr=stderr, group=group)

    def kill(self) -> None:
        """The keeper ends all of it, then itself. Repeat: safe."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1


def _require_reachable(path: Path) -> None:
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise CannotWork(
                "the data directory or Python cannot be reached by the user of sandboxes",
                found=f"only its owner passes through {folder}",
                remedy=f"choose a --data-dir that others can pass through, such as /var/lib/corral, or "
                f"`chmod o+x {folder}`",
            )


def _threads_of(uid: int) -> int:
    count = 0
    for status in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            if status.stat().st_uid == uid:
                count += sum(1 for _ in status.iterdir())
    return count
