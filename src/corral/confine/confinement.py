"""One program, alone in a throw-away sandbox.

Rules of this file:
- Fails closed: where no sandbox can be made, nothing runs.
- The program gets the system's programs read-only, a private /tmp, and the given directories; no network
  device, and nothing of our environment.
- What it prints to stdout is hostile. What it prints to stderr is bwrap's, or lost.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Final

from corral.hands.providers.binary import PythonInside, diagnose, find_python
from corral.hands.providers.blueprint import drawn
from corral.hands.providers.cgroup import Cgroups
from corral.hands.providers.home import HOST_UID, drops_uid
from corral.hands.providers.inside import copied
from corral.hands.providers.interpreter import brought
from corral.hands.providers.launch import Blueprint, bwrap_arguments, confined
from corral.hands.providers.overlay import Overlay
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.seccomp import seccomp_filter
from corral.hands.providers.system import MACHINE, System
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import CONFINED_NICENESS

__all__ = ["AUTHORITIES", "Confinement", "Places"]

AUTHORITIES: Final = "/run/corral/authorities.pem"
_MODULES: Final = "/run/corral/modules"
_IMPORTS: Final = f"import sys; sys.path.insert(0, {_MODULES!r})\n"
_DOOR: Final = "corral.confine.door"
_TMP: Final = "/tmp"  # noqa: S108  (inside: a private tmpfs)
_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": _TMP, "LC_ALL": "C"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories of the host by the place where the program sees them.

    inside: a directory with most of them; those of an overlay must be of one mount. Only there may files be
    among them.
    overlay: what lies over the system's programs. is_root: the program is root in there, of its own files.
    """

    read_only: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    inside: Path | None = None
    overlay: Overlay | None = None
    is_root: bool = False

    @property
    def roots(self) -> list[Path]:
        """Directories; what is bound is one of these, or lies in one."""
        bound = [*self.read_only.values(), *self.writable.values()]
        if self.inside is None:
            return bound
        return [self.inside, *(path for path in bound if not path.is_relative_to(self.inside))]


class Confinement:
    """Of one process.

    root: a directory of ours; made when needed. modules: of ours, by their names, that programs can import,
    beside the door. They run with the libraries that `places` bring, and with no others. authorities: more
    of them (PEM, at AUTHORITIES inside), which may sign the certificates of the hosts that are asked.
    python: finds the interpreter inside. system: whose programs are inside.
    """

    def __init__(
        self,
        root: Path,
        *,
        modules: Sequence[str] = (),
        authorities: Path | None = None,
        python: Callable[[], PythonInside] = find_python,
        system: System = MACHINE,
    ) -> None:
        self._root = root
        self._modules = (_DOOR, *modules)
        self._find_python = python
        self._system = system
        self._authorities = authorities
        self._drops_uid = drops_uid()
        self._setting_up = asyncio.Lock()
        self._blueprint: Blueprint | None = None
        self._cgroups: Cgroups | None = None

    def make_writable(self, folder: Path) -> None:
        """Make a directory that the program inside may write in. It must not exist."""
        folder.mkdir(mode=0o700)
        if self._drops_uid:
            os.chown(folder, HOST_UID, HOST_UID)

    @asynccontextmanager
    async def python(
        self, source: str, *arguments: str, places: Places, gives: Sequence[int] = ()
    ) -> AsyncGenerator[BwrapProcess, None]:
        """Run a Python program; all of it is gone afterwards. gives: descriptors that it gets, as that of a
        door, under the same numbers. Raises SandboxUnavailable if it cannot be started."""
        blueprint = await self._set_up()
        program = [*blueprint.python.command, "-IS", "-c", _IMPORTS + source, *arguments]
        process = await self._start(blueprint, program, places=places, gives=gives)
        try:
            yield process
        finally:
            await process.close()

    def explain(self, process: BwrapProcess) -> SandboxUnavailable | None:
        """Why a program that ended was never started, if it was not."""
        assert self._blueprint is not None
        complaint = process.complaint()
        return diagnose(complaint, self._blueprint.bwrap.path) if complaint else None

    async def aclose(self) -> None:
        """Repeat: safe."""
        if self._blueprint is not None:
            self._blueprint.discard()

    # -- one start ----------------------------------------------------------------------------------

    async def _start(
        self, blueprint: Blueprint, program: Sequence[str], *, places: Places, gives: Sequence[int]
    ) -> BwrapProcess:
        assert self._cgroups is not None
        own = {place: blueprint.inside / Path(place).name for place in (AUTHORITIES, _MODULES)}
        read_only = {**own, **places.read_only}

        def command(seccomp_fd: int, info_fd: int, procs_files: Sequence[Path]) -> Sequence[str]:
            chain = confined(
                blueprint,
                roots=places.roots,
                arguments=lambda seen: bwrap_arguments(
                    blueprint,
                    seen,
                    read_only=[(seen(source), place) for place, source in read_only.items()],
                    writable=[(seen(source), place) for place, source in places.writable.items()],
                    workdir=_TMP,
                    env=_ENVIRONMENT,
                    overlay=places.overlay,
                    is_root=places.is_root,
                    seccomp_fd=seccomp_fd,
                    info_fd=info_fd,
                ),
                program=program,
                procs_files=procs_files,
            )
            return ["nice", "-n", str(CONFINED_NICENESS), *chain]

        return await BwrapProcess.start(
            command, seccomp=seccomp_filter(), cgroups=self._cgroups, gives=gives
        )

    # -- set-up, once -------------------------------------------------------------------------------

    async def _set_up(self) -> Blueprint:
        async with self._setting_up:
            if self._blueprint is None:
                self._blueprint = await asyncio.to_thread(self._draw)
            return self._blueprint

    def _draw(self) -> Blueprint:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._cgroups = Cgroups()
        files = {"authorities.pem": _authorities(self._authorities), **_sources(self._modules)}
        self._system.require(uid=HOST_UID if self._drops_uid else None, state_dir=self._root)
        python = self._find_python()
        inside = copied(self._root, python, files)
        if self._system.root is not None:
            python = brought(python, self._root)
        return drawn(self._root, python=python, inside=inside, system=self._system)


def _sources(modules: Sequence[str]) -> dict[str, bytes]:
    """`modules/`: these modules and packages, below packages that are empty otherwise."""
    files: dict[str, bytes] = {}
    for name in modules:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None, name
        origin, place = Path(spec.origin), f"modules/{name.replace('.', '/')}"
        for parent in list(PurePosixPath(place).parents)[:-2]:
            files.setdefault(f"{parent}/__init__.py", b"")
        if spec.submodule_search_locations is None:
            files[f"{place}.py"] = origin.read_bytes()
        else:
            files |= {f"{place}/{path.name}": path.read_bytes() for path in origin.parent.glob("*.py")}
    return dict(sorted(files.items()))


def _authorities(more: Path | None) -> bytes:
    """The system's, and the operator's own."""
    system = ssl.get_default_verify_paths().cafile
    candidates = [Path(system)] if system else []
    candidates.append(Path("/etc/ssl/certs/ca-certificates.crt"))
    found = next((path.read_bytes() for path in candidates if path.is_file()), b"")
    return b"\n".join([found, more.read_bytes() if more is not None else b""])
