"""`gvisor`: a kernel in user space: what runs inside never speaks to the machine's.

runsc runs within the walls of `bwrap`, without a network device, on the very tree that bwrap puts
together; so what goes for mounts, for the dropped uid, and for the end of a sandbox holds for both. runsc
is root of a user namespace there, and gVisor knows the agent as root, which gives that up before anything
else runs (`sandbox_agent.rights`).

Whatever runsc the machine has is used: whether it works under this kernel, with the programs that sandboxes
get, is tried (`GvisorProvider.probe`).
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.ports import Capabilities
from corral.hands.providers import bwrap
from corral.hands.providers.binary import CannotWork
from corral.hands.providers.bwrap import BwrapWalls
from corral.hands.providers.home import MEMORY, PATHS, TMP, UPLOADS, WORKDIR
from corral.hands.providers.launch import Kernel, environment, launch_command
from corral.hands.providers.layers import Layer
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.system import MACHINE, System
from corral.hands.providers.walled import WalledProvider
from corral.hands.sandbox import AgentSandbox
from corral.hands.way_out import Egress
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import GVISOR_TASKS, GVISOR_TASKS_PER_PROCESS

__all__ = ["GAPS", "GvisorProvider"]

GAPS: Final[Mapping[str, str]] = {}
_PLACE: Final = "/run/corral/kernel/runsc"
_BUNDLE: Final = "/run/corral/bundle"
_OPTIONS: Final = (  # each is given if this runsc has it
    ("network", "none"),
    ("rootless", "true"),
    ("ignore-cgroups", "true"),  # they are ours
    ("directfs", "false"),
    ("overlay2", "none"),
    ("host-uds", "open"),  # of sockets in the tree, that of the door
)
_ASK_SECONDS: Final = 10.0
_INSTALL: Final = "install runsc (Debian: `apt install runsc`, others: https://gvisor.dev)"
_NEWER: Final = "install a newer runsc (https://gvisor.dev)"
_TRIAL: Final = "! type -P ls >/dev/null || ls -l / /usr >/dev/null"
"""What any session begins with. Some builds of gVisor fail it: 2022's refuse what newer programs ask of
`statx`, others do not get on with newer kernels."""


class GvisorProvider(WalledProvider):
    """`hands.ports.Provider` by gVisor."""

    def __init__(
        self,
        *,
        state_dir: Path,
        pool_size: int = 1,
        egress: Egress | None = None,
        system: System = MACHINE,
    ) -> None:
        """system: whose programs agents have. Workspaces are tended by bwrap, with the machine's."""
        walls = GvisorWalls(state_dir.resolve(), system)
        super().__init__(
            walls,
            tending=BwrapWalls(state_dir.resolve()),
            state_dir=state_dir,
            pool_size=pool_size,
            egress=egress,
            system=system,
        )
        self._kernel_walls = walls

    async def _check(self, sandbox: AgentSandbox) -> list[str]:
        leaks = await super()._check(sandbox)
        if (said := await sandbox.trial(_TRIAL)) is not None:
            raise self._kernel_walls.unfit(said)
        return leaks


class GvisorWalls(BwrapWalls):
    """`hands.providers.walls.Walls`."""

    name = "gvisor"
    takes_descriptors = False
    has_own_kernel = True

    def __init__(self, state_dir: Path, system: System = MACHINE) -> None:
        super().__init__(state_dir, system)
        gaps = {wall: why for wall, why in self.capabilities.gaps.items() if wall not in bwrap.GAPS}
        self.capabilities = Capabilities(
            isolation="a kernel in user space, within namespaces, unprivileged uid, no network device",
            gaps={**gaps, **GAPS},
        )
        self._kernel: Kernel | None = None
        self._version = ""

    async def set_up(self) -> None:
        if self._kernel is None:
            self._kernel, self._version = await asyncio.to_thread(_found)
        await super().set_up()

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
    ) -> BwrapProcess:
        assert not gives, "it takes no descriptors"
        blueprint, kernel = self._made, self._kernel
        config = _config(program, environment(blueprint.python, layer), memory, bounds)
        return await BwrapProcess.start(
            lambda config_fd, info_fd, procs_files: launch_command(
                blueprint,
                home=home,
                program=program,
                seccomp_fd=config_fd,
                info_fd=info_fd,
                procs_files=procs_files,
                memory=memory,
                layer=layer,
                tmp_bytes=bounds.tmp_bytes,
                kernel=kernel,
                door=door,
            ),
            seccomp=json.dumps(config).encode(),
            cgroups=self._cgroups,
            bounds=replace(bounds, processes=bounds.processes * GVISOR_TASKS_PER_PROCESS + GVISOR_TASKS),
        )

    def diagnose(self, complaint: str) -> SandboxUnavailable:
        if complaint.startswith("bwrap:"):
            return super().diagnose(complaint)
        return CannotWork(f"gVisor {self._version} does not start", found=complaint, remedy=_NEWER)

    def unfit(self, said: str) -> SandboxUnavailable:
        """Why what any session begins with fails. said: by that."""
        first, _, _ = said.partition("\n")
        if "Invalid argument" not in first:
            return self.diagnose(said)
        return CannotWork(
            f"gVisor {self._version} refuses what the programs of sandboxes ask of it",
            found=f"runsc {self._version} refuses flags of statx that `ls` uses here: {first}",
            remedy=f"{_NEWER}, or name a root file system whose programs do without: --sandbox-root"
            " (CORRAL_SANDBOX_ROOT), with those of Debian 11, or of Alpine",
        )

    def absent(self) -> Sequence[Path]:
        """gVisor has a /sys of its own, with nothing in it."""
        hidden = [path for path in super().absent() if path != Path("/sys")]
        return [*hidden, Path("/sys/kernel"), Path("/sys/class")]

    def description(self) -> tuple[str, str]:
        summary, detail = super().description()
        assert self._kernel, "set_up comes first"
        return (
            f"gVisor {self._version}, in {summary}",
            f"gVisor {self._version} ({self._kernel.path}), in {detail}",
        )


def _found() -> tuple[Kernel, str]:
    """The runsc that there is, and its version. Raises CannotWork."""
    where = shutil.which("runsc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/bin:/usr/bin")
    if where is None:
        raise CannotWork("there is no runsc", remedy=_INSTALL)
    try:
        version, flags = (_said([where, word]) for word in ("--version", "flags"))
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotWork("runsc does not run", found=f"{where}: {error}", remedy=_NEWER) from error
    has = set(re.findall(r"^ *-([\w-]+)", flags, re.MULTILINE))
    options = [f"--{name}={value}" for name, value in _OPTIONS if name in has]
    if "host-uds" not in has:
        options.append("--fsgofer-host-uds")
    command = [_PLACE, f"--root={TMP}/runsc", *options, "run", f"--bundle={_BUNDLE}", "sandbox"]
    kernel = Kernel(
        path=Path(where).resolve(), place=_PLACE, command=command, bundle=f"{_BUNDLE}/config.json"
    )
    named = re.search(r"version (\S+)", version)
    return kernel, named[1] if named else "of an unknown version"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
    return done.stdout + done.stderr


def _config(
    program: Sequence[str], env: Mapping[str, str], memory: Mapping[str, bool], bounds: Bounds
) -> dict[str, Any]:
    """What runsc runs, in the words of the Open Container Initiative: on the tree that is there. What may
    change from outside are mounts of their own: gVisor takes the rest for its alone."""
    writable = {UPLOADS[1]: False, **dict.fromkeys(PATHS.values(), True)}
    writable |= {f"{MEMORY[1]}/{slug}": is_writable for slug, is_writable in memory.items()}
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    size = f"size={bounds.tmp_bytes}"
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [*program],
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": WORKDIR,
            "noNewPrivileges": True,
            "capabilities": {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "/", "readonly": True},
        "hostname": "corral",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", **tmpfs, "options": ["ro", "mode=0555"]},
            {"destination": TMP, **tmpfs, "options": ["mode=1777", size]},
            {"destination": "/dev/shm", **tmpfs, "options": ["mode=1777", size]},  # noqa: S108
            *(
                {
                    "destination": place,
                    "type": "bind",
                    "source": place,
                    "options": ["rbind", "rw" if is_writable else "ro"],
                }
                for place, is_writable in writable.items()
            ),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }
