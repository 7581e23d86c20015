"""`bwrap`: namespaces, a system call filter, a dropped uid, no network device. The default provider."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.ports import Capabilities
from corral.hands.providers.binary import PythonInside, diagnose, find_python
from corral.hands.providers.blueprint import drawn
from corral.hands.providers.cgroup import Cgroups
from corral.hands.providers.home import HOST_UID, drops_uid
from corral.hands.providers.inside import install
from corral.hands.providers.interpreter import brought
from corral.hands.providers.launch import Blueprint, launch_command
from corral.hands.providers.layers import Layer
from corral.hands.providers.leftovers import clear_state
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.seccomp import seccomp_filter
from corral.hands.providers.system import MACHINE, System
from corral.hands.providers.walled import WalledProvider
from corral.hands.way_out import Egress
from corral.kernel.errors import SandboxUnavailable

__all__ = ["GAPS", "BwrapProvider"]

GAPS: Final = {
    "kernel": "the machine's own, behind a filter of system calls",
    "places": "the table of mounts names the directories that are bound, the workspace's among them",
}


class BwrapProvider(WalledProvider):
    """`hands.ports.Provider` by bubblewrap."""

    def __init__(
        self,
        *,
        state_dir: Path,
        pool_size: int = 1,
        egress: Egress | None = None,
        system: System = MACHINE,
    ) -> None:
        """system: whose programs agents have. Workspaces are tended with the machine's."""
        tending = None if system.root is None else BwrapWalls(state_dir.resolve())
        super().__init__(
            BwrapWalls(state_dir.resolve(), system),
            tending=tending,
            state_dir=state_dir,
            pool_size=pool_size,
            egress=egress,
            system=system,
        )


class BwrapWalls:
    """`hands.providers.walls.Walls`. `state_dir`: of the provider. system: whose programs are inside."""

    name = "bwrap"
    takes_descriptors = True
    has_own_kernel = False
    can_be_renamed = True
    has_layers = True
    home_mode = 0o711
    python: PythonInside

    def __init__(self, state_dir: Path, system: System = MACHINE) -> None:
        self._state_dir, self._system = state_dir, system
        self._drops_uid = drops_uid()
        self._cgroups = Cgroups()
        self.capabilities = Capabilities(
            isolation="namespaces, seccomp, unprivileged uid, no network device",
            gaps={**GAPS, **self._cgroups.gaps},
        )
        self._setting_up = asyncio.Lock()
        self._blueprint: Blueprint | None = None
        self._seccomp = b""

    async def set_up(self) -> None:
        async with self._setting_up:
            if self._blueprint is None:
                self._seccomp = seccomp_filter()
                self._blueprint = await asyncio.to_thread(self._make_blueprint)
                self.python = self._blueprint.python

    def processes_max(self, bounds: Bounds) -> int:
        return bounds.processes

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
    ) -> BwrapProcess:
        assert door is None, "it is given descriptors"
        blueprint = self._made
        return await BwrapProcess.start(
            lambda seccomp_fd, info_fd, procs_files: launch_command(
                blueprint,
                home=home,
                program=program,
                seccomp_fd=seccomp_fd,
                info_fd=info_fd,
                procs_files=procs_files,
                memory=memory,
                layer=layer,
                tmp_bytes=bounds.tmp_bytes,
            ),
            seccomp=self._seccomp,
            cgroups=self._cgroups,
            bounds=bounds,
            gives=gives,
        )

    def diagnose(self, complaint: str) -> SandboxUnavailable:
        return diagnose(complaint, self._made.bwrap.path)

    def absent(self) -> Sequence[Path]:
        """Unless the Python that we bind lies below one."""
        hidden = [self._state_dir, *map(Path, ("/etc/shadow", "/sys", "/home", "/root"))]
        prefix = self._made.python.prefix or Path("/usr")
        return [path for path in hidden if not prefix.is_relative_to(path)]

    def description(self) -> tuple[str, str]:
        bwrap = self._made.bwrap
        name = f"bwrap {'.'.join(map(str, bwrap.version))}"
        has_memory = self.capabilities.holds("memory")
        limits = "memory and process limits" if has_memory else "limits per process only"
        root = self._system.root
        own, where = (
            ("", "") if root is None else (", a root file system of yours", f", programs of {root}")
        )
        return f"{name}, {limits}{own}", f"{name} ({bwrap.path}), {limits}{where}"

    def close(self) -> None:
        if self._blueprint:
            self._blueprint.discard()

    @property
    def _made(self) -> Blueprint:
        assert self._blueprint, "set_up comes first"
        return self._blueprint

    def _make_blueprint(self) -> Blueprint:
        self._system.require(uid=HOST_UID if self._drops_uid else None, state_dir=self._state_dir)
        clear_state(self._state_dir)
        python = find_python()
        inside = install(self._state_dir, python)
        if self._system.root is not None:
            python = brought(python, self._state_dir)
        return drawn(self._state_dir, python=python, inside=inside, system=self._system)
