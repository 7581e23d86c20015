"""Installing packages: what comes out is a layer, packed as a tar.

Everything that a package brings runs in a throw-away sandbox, and what it leaves is read in another one.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.catalog.hosts import HostList
from corral.catalog.packages import PLACE, Wanted
from corral.confine.confinement import Confinement, Places
from corral.confine.scratch import Scratch
from corral.confine.tunnel import Tunnel
from corral.confine.watch import DiskWatch
from corral.confine.way import Trouble, Way
from corral.hands.providers.layers import Layer
from corral.hands.providers.overlay import Overlay
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.system import MACHINE, System
from corral.hands.way_out import Egress
from corral.kernel import limits
from corral.kernel.disk_trees import is_real_directory
from corral.kernel.errors import SandboxUnavailable, WorldError
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, WorkspaceId
from corral.kernel.shares import Shares
from corral.packages.registries import HoldsCredentials, lay_out, masked

__all__ = ["Bounds", "Installer", "PackagesFailed"]

log = logging.getLogger(__name__)

_RUNNER: Final = "corral.packages.runner"
_CONFIG: Final = "/run/corral/packages"
_ADMIN: Final = "/var/lib/dpkg"  # what the system has; read-only
_BASE: Final = "/run/corral/dpkg"  # where the runner copies that from
_TOO_LARGE: Final = 3  # exit code of the runner
_CHUNK_BYTES: Final = 256 * 1024
_NO_ROOM: Final = "The server that installs packages is short of disk space."
_TOO_MUCH: Final = "The packages are larger than a sandbox takes."
_SETTINGS: Final = "see CORRAL_PACKAGES_HOSTS, CORRAL_PACKAGES_PRIVATE_HOSTS and CORRAL_EGRESS_DENIED_HOSTS"
_OF_THE_WAY: Final[dict[Trouble, str]] = {
    "refused": "This server does not go where the packages lead; its operator can see why.",
    "unreachable": "A host that packages come from cannot be reached.",
    "silent": "A host that packages come from does not answer.",
    "too_large": "The packages are more than this server downloads.",
    "shut": "The server cannot install packages now: its egress process is away, or lets nothing out.",
}


class PackagesFailed(WorldError):
    """The message is for the session's user. `detail` is for the log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Of one installation. kernel/limits.py has the reasons."""

    seconds: float = limits.PACKAGES_SECONDS_MAX
    received_bytes_max: int = limits.PACKAGES_RECEIVED_BYTES_MAX
    layer_bytes_max: int = limits.LAYER_BYTES_MAX
    layer_entries_max: int = limits.LAYER_ENTRIES_MAX
    at_once: int = limits.PACKAGES_BUILDS_AT_ONCE
    disk_free_bytes_min: int = limits.DISK_FREE_BYTES_MIN


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where one installation is made."""

    top: Path

    @property
    def layer(self) -> Path:
        return self.top / "layer"

    @property
    def scratch(self) -> Path:
        return self.top / "scratch"

    @property
    def config(self) -> Path:
        return self.top / "config"

    @property
    def writable(self) -> Mapping[str, Path]:
        return {PLACE: self.layer, "/scratch": self.scratch}


class Installer:
    """Of one node; other processes may share `root`."""

    def __init__(
        self,
        root: Path,
        *,
        hosts: HostList,
        egress: Egress | None,
        authorities: Path | None = None,
        config: Path | None = None,
        bounds: Bounds | None = None,
        system: System = MACHINE,
    ) -> None:
        """hosts: where packages may come from. egress: through which they do; None on a node that has none:
        then nothing is installed. config: a directory as `registries` describes it. system:
        what they are installed on."""
        self._hosts = hosts
        self._egress = egress
        self._bounds = bounds or Bounds()
        self._config = config
        self._confinement = Confinement(root, modules=[_RUNNER], authorities=authorities, system=system)
        self._system = system
        self._scratch = Scratch(root / "scratch", make=self._confinement.make_writable)
        self._builds = Shares(self._bounds.at_once)

    async def install(
        self,
        packages: Wanted,
        *,
        session_id: SessionId,
        workspace_id: WorkspaceId = DEFAULT_WORKSPACE,
    ) -> AsyncGenerator[bytes, None]:
        """The layer as a tar, relative to its own top. Close it if it is left early. session_id: on whose
        errand. workspace_id: who waits for a place, with the others.

        Raises PackagesFailed, also in its middle: then it is not whole.
        """
        async with self._builds.one(workspace_id), self._scratch.folder() as top:
            bench = await asyncio.to_thread(self._lay_out, top)
            try:
                async with asyncio.timeout(self._bounds.seconds):
                    await self._install(packages, bench, Way.on("packages", self._egress, session_id))
            except TimeoutError:
                raise PackagesFailed(
                    f"The packages were not installed within {self._bounds.seconds:g} s."
                ) from None
            places = Places(writable={PLACE: bench.layer})
            async with self._running({"do": "pack"}, places) as process:
                while chunk := await process.reader.read(_CHUNK_BYTES):
                    yield chunk
                if (code := await process.exit_code()) != 0:
                    raise self._unpacked(process, code)

    async def missing(self) -> Mapping[str, str]:
        """Package managers that do not work here, by name: the program that the system of sandboxes lacks.
        Looked for in a sandbox. Raises PackagesFailed."""
        async with self._running({"do": "look"}, Places()) as process:
            said = await process.said(bytes_max=limits.PACKAGES_ANSWER_BYTES_MAX)
            if (code := await process.exit_code()) != 0:
                raise self._unpacked(process, code)
        missing = {str(manager): str(program) for manager, program in json.loads(said).items()}
        return missing if self._has_dpkg() else {**missing, "apt": "dpkg"}

    async def aclose(self) -> None:
        """Repeat: safe."""
        await self._confinement.aclose()

    # -- one installation ---------------------------------------------------------------------------

    async def _install(self, packages: Wanted, bench: "_Bench", way: Way) -> None:
        """Those of the system first: others are built against them."""
        files, overlay = {_CONFIG: bench.config}, None
        if "apt" in packages:
            await self._install_system(packages["apt"], bench, way)
            made = Layer.at(bench.layer)
            files |= {place: path for path, place in made.files}
            overlay = made.overlay
        if rest := {manager: wanted for manager, wanted in packages.items() if manager != "apt"}:
            places = Places(read_only=files, writable=bench.writable, inside=bench.top, overlay=overlay)
            await self._run({"do": "install", "packages": rest}, places, bench, way)

    async def _install_system(self, packages: Sequence[str], bench: "_Bench", way: Way) -> None:
        admin = self._system.path(_ADMIN)
        if not self._has_dpkg():
            raise PackagesFailed(
                "apt packages cannot be installed: the system of sandboxes is neither Debian nor Ubuntu."
            )
        read_only = {"/etc/apt": bench.config / "apt", _ADMIN: admin}
        places = Places(read_only=read_only, writable=bench.writable)
        await self._run({"do": "fetch", "packages": packages}, places, bench, way)
        made, work = bench.layer / "apt", bench.scratch / "overlay"
        if not all(map(is_real_directory, (made, made / "usr", made / "etc", made / "var", work))):
            raise PackagesFailed("apt packages cannot be installed.", detail="what was fetched is odd")
        places = Places(
            read_only={_BASE: admin},
            writable={"/etc": made / "etc", "/var": made / "var", "/scratch": bench.scratch},
            inside=bench.top,
            overlay=Overlay(upper=made / "usr", work=work),
            is_root=True,
        )
        await self._run({"do": "unpack", "packages": packages}, places, bench)

    def _has_dpkg(self) -> bool:
        return (self._system.path(_ADMIN) / "status").is_file()

    async def _run(
        self, asked: Mapping[str, Any], places: Places, bench: "_Bench", way: Way | None = None
    ) -> None:
        """way: None for what needs none."""
        tunnel = None if way is None else self._tunnel(way)
        watch = DiskWatch(
            bench.top,
            bytes_max=2 * self._bounds.layer_bytes_max,
            entries_max=2 * self._bounds.layer_entries_max,
            has_room=lambda: self._scratch.free_bytes() > self._bounds.disk_free_bytes_min,
        )
        async with (
            contextlib.nullcontext() if tunnel is None else tunnel.door() as door,
            self._running(asked, places, door=door) as process,
            watch.over(process),
        ):
            said = await process.said(bytes_max=limits.PACKAGES_ANSWER_BYTES_MAX)
            code = await process.exit_code()
            unstarted = self._confinement.explain(process) if code != 0 else None
        if unstarted is not None:
            raise _unavailable(unstarted)
        if watch.trouble is not None:
            raise PackagesFailed(_NO_ROOM if watch.trouble == "no_room" else _TOO_MUCH)
        try:
            answer = json.loads(said)
            if "failed" not in answer:
                return
            manager, missing, words = str(answer["failed"]), answer["missing"], str(answer["said"])
        except (ValueError, KeyError, TypeError):
            raise PackagesFailed(
                "The packages could not be installed.",
                detail=f"the runner ended with {code}: {said[-1000:]!r}",
            ) from None
        if missing is not None:
            raise PackagesFailed(
                f"{manager} packages cannot be installed: the system of sandboxes has no"
                f" {str(missing)[:50]!r}; the server's operator can install it for all users."
            )
        shown = masked(words, config=bench.config, hosts=self._hosts)
        raise _failed(manager, words, shown, tunnel)

    def _tunnel(self, way: Way) -> Tunnel:
        return Tunnel(
            way,
            bytes_max=self._bounds.received_bytes_max,
            sent_bytes_max=limits.PACKAGES_SENT_BYTES_MAX,
            silent_seconds=limits.PACKAGES_STALL_SECONDS,
            connections_max=limits.PACKAGES_CONNECTIONS_MAX,
        )

    def _lay_out(self, top: Path) -> "_Bench":
        bench = _Bench(top)
        self._confinement.make_writable(bench.layer)
        self._confinement.make_writable(bench.scratch)
        try:
            lay_out(self._config, bench.config)
        except (HoldsCredentials, OSError) as error:
            raise PackagesFailed(
                "The server's settings of package managers cannot be used; its operator can see why.",
                detail=str(error),
            ) from error
        return bench

    @asynccontextmanager
    async def _running(
        self, asked: Mapping[str, Any], places: Places, *, door: int | None = None
    ) -> AsyncGenerator[BwrapProcess, None]:
        bounds = {
            "file_bytes": 2 * self._bounds.layer_bytes_max,  # what is too large is said in our words
            "cpu_seconds": int(self._bounds.seconds) + 1,
            "processes": limits.SANDBOX_PROCESSES_MAX,
            "memory_bytes": limits.SANDBOX_MEMORY_BYTES,
            "open_files": limits.SANDBOX_OPEN_FILES_MAX,
            "said_bytes": limits.PACKAGES_SAID_BYTES,
            "bytes": self._bounds.layer_bytes_max,
            "entries": self._bounds.layer_entries_max,
        }
        program = f"import {_RUNNER} as it; it.main()"
        words = json.dumps({**asked, "bounds": bounds, "door": door})
        gives = () if door is None else (door,)
        try:
            async with self._confinement.python(program, places=places, gives=gives) as process:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it never started
                    process.writer.write(words.encode() + b"\n")
                    await process.writer.drain()
                yield process
        except SandboxUnavailable as error:
            raise _unavailable(error) from error

    def _unpacked(self, process: BwrapProcess, code: int) -> PackagesFailed:
        """Why a layer could not be packed."""
        if (unstarted := self._confinement.explain(process)) is not None:
            return _unavailable(unstarted)
        if code == _TOO_LARGE:
            return PackagesFailed(_TOO_MUCH)
        return PackagesFailed("The packages could not be packed.", detail=f"the runner ended with {code}")


def _failed(manager: str, said: str, shown: str, tunnel: Tunnel | None) -> PackagesFailed:
    """What the network says explains more than what the package manager makes of it.

    said: its last words. shown: as much of them as users may see."""
    if tunnel is not None and tunnel.trouble is not None:
        settings = f" ({_SETTINGS})" if tunnel.trouble == "refused" else ""
        said = f"{tunnel.trouble}: {tunnel.detail}{settings}; {said}"
        if (message := _OF_THE_WAY.get(tunnel.trouble)) is not None:
            return PackagesFailed(message, detail=said)
    words = "".join(each if each.isprintable() else " " for each in shown)
    last = " ".join(words.split())[-limits.PACKAGES_SAID_CHARS :]
    return PackagesFailed(f"{manager} could not install its packages: {last}", detail=said)


def _unavailable(error: SandboxUnavailable) -> PackagesFailed:
    return PackagesFailed(
        "The server cannot install packages now; its operator can see why.", detail=str(error)
    )
