"""`docker` and `podman`: sandboxes that are containers of an engine on this machine.

A container has the walls of bwrap, put up by whoever runs the engine: namespaces, no capability, our system
call filter, no network device, a read-only root. It is made of an image that the operator names; unless
they do, of a system's programs (`system`) over an image with nothing in it, so that no registry is needed.

What is mounted is on this machine, so the engine must be here, too. A descriptor cannot be passed through
one: the agent hands its listening socket out through a door (`hands.way_out`).
"""

import asyncio
import hashlib
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.ports import Capabilities
from corral.hands.providers.binary import CannotWork, PythonInside, find_python
from corral.hands.providers.engine import ContainerProcess, Engine, diagnosed, examined, find_engine
from corral.hands.providers.engines import EngineName
from corral.hands.providers.home import (
    AGENT,
    FILE_SYSTEMS,
    HOST_UID,
    MEMORY,
    PATHS,
    TMP,
    UPLOADS,
    WORKDIR,
    drops_uid,
)
from corral.hands.providers.images import id_of, own_image, require_bash
from corral.hands.providers.inside import install
from corral.hands.providers.interpreter import brought
from corral.hands.providers.launch import environment, trusted
from corral.hands.providers.layers import Layer
from corral.hands.providers.leftovers import clear_state
from corral.hands.providers.seccomp import seccomp_profile
from corral.hands.providers.system import MACHINE, System
from corral.hands.providers.walled import WalledProvider
from corral.hands.way_out import DOOR, Egress
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import (
    SANDBOX_OPEN_FILES_MAX,
    SANDBOXES_MAX,
)

__all__ = ["GAPS", "ContainerProvider"]

GAPS: Final = {
    "kernel": "the machine's own, behind a filter of system calls",
    "places": "the table of mounts names the directories that are bound, the workspace's among them",
}
_AS_USER: Final = {"user": "it is the user that started Corral, within the other walls"}
_NO_CGROUP: Final = {
    "memory": "each process has a bound, all together have none: the engine can make no cgroup here",
    "cpu": "each process is one among the machine's: the engine can make no cgroup here",
}
_NO_COUNT: Final = {"count": "one bound for all processes of its user: the engine can make no cgroup here"}
_CPUS_MIN: Final = 0.01  # that the engines take


class ContainerProvider(WalledProvider):
    """`hands.ports.Provider` by docker or podman."""

    def __init__(
        self,
        name: EngineName,
        *,
        state_dir: Path,
        pool_size: int = 1,
        egress: Egress | None = None,
        system: System = MACHINE,
        image: str | None = None,
    ) -> None:
        """system, or image: whose programs agents have. Workspaces are tended with the machine's."""
        place = state_dir.resolve()
        is_machine = system.root is None and image is None
        super().__init__(
            ContainerWalls(name, place, system, image),
            tending=None if is_machine else ContainerWalls(name, place),
            state_dir=state_dir,
            pool_size=pool_size,
            egress=egress,
            system=system,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """What all sandboxes share. image: its id. fixed: words of `run` that are the same for each."""

    engine: Engine
    version: str
    has_limits: bool
    image: str
    fixed: tuple[str, ...]


class ContainerWalls:
    """`hands.providers.walls.Walls`. `state_dir`: of the provider. system, or image: whose programs are
    inside."""

    can_be_renamed = True  # mounts follow the directory
    takes_descriptors = False
    has_own_kernel = False
    has_layers = False  # packages are the image's
    home_mode = 0o711
    python: PythonInside

    def __init__(
        self, name: EngineName, state_dir: Path, system: System = MACHINE, image: str | None = None
    ) -> None:
        self.name: str = name
        self._engine: EngineName = name
        self._state_dir, self._system, self._image = state_dir, system, image
        self._drops_uid = drops_uid()
        self._uid, self._gid = (HOST_UID, HOST_UID) if self._drops_uid else (os.getuid(), os.getgid())
        self._setting_up = asyncio.Lock()
        self._made: _Made | None = None
        self.capabilities = self._capabilities()

    def processes_max(self, bounds: Bounds) -> int:
        """The kernel counts all of a user's, and of a user namespace, whatever sandbox they are in."""
        return bounds.processes * (1 if self._has_user_namespace else SANDBOXES_MAX)

    @property
    def _has_user_namespace(self) -> bool:
        """Each of its own. Without root podman can do no other."""
        return self._engine == "podman" and not self._drops_uid

    async def set_up(self) -> None:
        async with self._setting_up:
            if self._made is None:
                self._made = await self._make()

    def owner(self, home: Path) -> int | None:
        return HOST_UID if self._drops_uid else None

    def seen(self, home: Path, path: str) -> str:
        return path

    async def freshen(self, home: Path) -> None:
        return  # /tmp is memory of the sandbox

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
    ) -> ContainerProcess:
        assert self._made, "set_up comes first"
        assert layer is None and not gives, "it has no layers, and takes no descriptors"
        binds = [*self._binds(home, memory), *([_bind(door, DOOR)] if door else [])]
        mounts = [word for bind in binds for word in ("--mount", bind)]
        first, *rest = program
        options = [
            *self._made.fixed,
            *self._limits(bounds, has_limits=self._made.has_limits),
            *mounts,
            "--workdir",
            WORKDIR,
            "--entrypoint",
            first,
        ]
        return await self._made.engine.start([*options, self._made.image, *rest])

    def diagnose(self, complaint: str) -> SandboxUnavailable:
        """An engine that is started again may have lost what was made of it: it is looked at anew."""
        self._made = None
        return diagnosed(self._engine, complaint)

    def absent(self) -> Sequence[Path]:
        """Of an image, not what any system has."""
        hidden = [self._state_dir, *map(Path, ("/sys/kernel", "/sys/class"))]
        if self._image is not None:
            return hidden
        hidden += map(Path, ("/etc/shadow", "/home", "/root"))
        prefix = self.python.prefix or Path("/usr")
        return [path for path in hidden if not prefix.is_relative_to(path)]

    def description(self) -> tuple[str, str]:
        assert self._made, "set_up comes first"
        name, root = f"{self.name} {self._made.version}", self._system.root
        programs = f"the image {self._image}" if self._image else f"programs of {root or 'this machine'}"
        return name, f"{name} ({self._made.engine.path}), {programs}"

    def close(self) -> None:
        return

    # -- inside ----------------------------------------------------------------------------------------

    async def _make(self) -> _Made:
        if os.geteuid() == 0 and not self._drops_uid:
            raise CannotWork(
                "there is no unprivileged user for sandboxes",
                found="root of a user namespace that knows too few uids",
                remedy="start Corral as an ordinary user, or as root of the machine",
            )
        self._system.require(uid=HOST_UID if self._drops_uid else None, state_dir=self._state_dir)
        if self._image is not None and self._system.root is not None:
            raise CannotWork(
                "sandboxes can have the programs of an image or of a root file system, not both",
                remedy="leave --sandbox-image (CORRAL_SANDBOX_IMAGE) away, or --sandbox-root"
                " (CORRAL_SANDBOX_ROOT)",
            )
        state = hashlib.sha256(os.fsencode(self._state_dir)).hexdigest()[:16]
        engine = find_engine(self._engine, state)
        version, has_limits = await examined(engine)
        self.capabilities = self._capabilities(has_limits=has_limits)
        await asyncio.to_thread(clear_state, self._state_dir)
        await engine.end_orphans()
        here = await asyncio.to_thread(find_python)
        files = {"seccomp.json": seccomp_profile().encode(), "resolv.conf": b""}
        inside = await asyncio.to_thread(
            install, self._state_dir, here, uid=self._uid, gid=self._gid, more=files
        )
        is_machine = self._image is None and self._system.root is None
        self.python = here if is_machine else await asyncio.to_thread(brought, here, self._state_dir)
        programs, links = self._system.mounts() if self._image is None else ([], [])
        # resolv.conf: there is nobody to ask, and docker would tell the machine's servers
        ours = [*sorted((inside / "etc").iterdir()), inside / "resolv.conf"]
        binds = [*programs, *self.python.mounts, (inside / "agent", AGENT)]
        binds += [(file, f"/etc/{file.name}") for file in ours]
        fixed = [
            *self._options(inside / "seccomp.json"),
            *(word for source, place in binds for word in ("--mount", _bind(source, place))),
            *(word for item in environment(self.python).items() for word in ("--env", "=".join(item))),
        ]
        image = await id_of(engine, self._image or await own_image(engine, links))
        if self._image is not None:
            options = [*fixed, *self._limits(DEFAULT_BOUNDS, has_limits=has_limits)]
            await require_bash(engine, image, options, self._image)
        return _Made(engine=engine, version=version, has_limits=has_limits, image=image, fixed=tuple(fixed))

    def _capabilities(self, *, has_limits: bool = True) -> Capabilities:
        user = "unprivileged uid" if self._drops_uid else "the uid of Corral"
        gaps = {**GAPS, **({} if self._drops_uid else _AS_USER)}
        if not has_limits:
            gaps |= _NO_CGROUP if self._has_user_namespace else _NO_CGROUP | _NO_COUNT
        return Capabilities(
            isolation=f"a container of {self.name}: namespaces, seccomp, {user}, no network device",
            gaps=gaps,
        )

    def _limits(self, bounds: Bounds, *, has_limits: bool) -> list[str]:
        """Options of `run`."""
        memory, count = f"{bounds.memory_bytes}b", str(bounds.processes)
        groups = ["--memory", memory, "--memory-swap", memory, "--pids-limit", count]
        if bounds.cpus is not None:
            groups += ["--cpus", str(max(bounds.cpus, _CPUS_MIN))]
        return [
            *(groups if has_limits else []),
            *("--tmpfs", f"{TMP}:rw,nosuid,nodev,exec,mode=1777,size={bounds.tmp_bytes}"),
            *("--shm-size", str(bounds.tmp_bytes)),
            *("--ulimit", _ulimit("nproc", resource.RLIMIT_NPROC, self.processes_max(bounds))),
        ]

    def _options(self, profile: Path) -> list[str]:
        """Of `run`, the same for docker and podman but for what podman does by itself."""
        podman = ["--read-only-tmpfs=false", "--systemd=false", "--security-opt", f"mask={FILE_SYSTEMS}"]
        if self._has_user_namespace:
            podman.append("--userns=keep-id")  # files of the workspace are ours
        return [
            "--pull", "never", "--log-driver", "none", "--no-healthcheck", "--stop-signal", "KILL",
            "--network", "none", "--hostname", "corral", "--user", f"{self._uid}:{self._gid}",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--security-opt", f"seccomp={profile}",
            "--security-opt", "label=disable",  # SELinux would have to be told of each directory
            "--read-only", "--tmpfs", "/sys:ro,size=4k", "--ulimit", "core=0:0",
            "--ulimit", _ulimit("nofile", resource.RLIMIT_NOFILE, SANDBOX_OPEN_FILES_MAX),
            *(podman if self.name == "podman" else []),
        ]  # fmt: skip

    def _binds(self, home: Path, memory: Mapping[str, bool]) -> list[str]:
        """What of the workspace it sees, where: no place lies beneath one that the agent can write."""
        kept_in, place = MEMORY
        return [
            _bind(home / UPLOADS[0], UPLOADS[1]),
            *(_bind(source, place) for source, place in trusted(home, self._system)),
            *(_bind(home / name, path, is_writable=True) for name, path in PATHS.items()),
            *(
                _bind(home / kept_in / slug, f"{place}/{slug}", is_writable=is_writable)
                for slug, is_writable in sorted(memory.items())
            ),
        ]


def _bind(source: Path, place: str, *, is_writable: bool = False) -> str:
    fields = ["type=bind", f"source={source}", f"target={place}", *([] if is_writable else ["readonly"])]
    return ",".join(f'"{field}"' if "," in field else field for field in fields)


def _ulimit(name: str, kind: int, value: int) -> str:
    """An engine may not raise what is already bounded."""
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return f"{name}={bound}:{bound}"
