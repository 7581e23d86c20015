"""One git, alone in a throw-away sandbox.

Rules of this file:
- Fails closed: where no sandbox can be made, nothing runs.
- The program gets the system's programs read-only, a private /tmp, and the given directories; no network
  device, and nothing of our environment.
- What it prints to stdout is hostile. What it prints to stderr is bwrap's, or lost.
"""

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.hands.providers.binary import PythonInside, diagnose, find_bwrap, find_python
from corral.hands.providers.cgroup import Cgroups, Group
from corral.hands.providers.home import HOST_UID, drops_uid
from corral.hands.providers.launch import Blueprint, confined, system_mounts
from corral.hands.providers.leftovers import clear_stages, end_orphans
from corral.hands.providers.process import BwrapProcess
from corral.hands.providers.seccomp import seccomp_filter
from corral.kernel.errors import SandboxUnavailable
from corral.kernel.limits import REPOSITORY_NICENESS, SANDBOX_TMP_BYTES

__all__ = ["AUTHORITIES", "Confinement", "Places"]

AUTHORITIES: Final = "/run/corral/authorities.pem"
_TMP: Final = "/tmp"  # noqa: S108  (inside: a private tmpfs)
_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": _TMP, "LC_ALL": "C"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories of the host by the place where the program sees them."""

    read_only: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)


class Confinement:
    """Of one process. `root`: a directory of ours. `authorities`: more of them (PEM), which may sign the
    certificates of the hosts that are asked. `python`: finds the interpreter inside."""

    def __init__(
        self,
        root: Path,
        *,
        authorities: Path | None = None,
        python: Callable[[], PythonInside] = find_python,
    ) -> None:
        self._root = root
        self._find_python = python
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
        """Run a Python program; all of it is gone afterwards. gives: descriptors that it gets.

        Raises SandboxUnavailable if it cannot be started."""
        blueprint = await self._set_up()
        program = [str(blueprint.python.path), "-IS", "-c", source, *arguments]
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
        if self._blueprint is not None and self._blueprint.stage is not None:
            with contextlib.suppress(OSError):
                self._blueprint.stage.rmdir()

    # -- one start ----------------------------------------------------------------------------------

    async def _start(
        self, blueprint: Blueprint, program: Sequence[str], *, places: Places, gives: Sequence[int]
    ) -> BwrapProcess:
        assert self._cgroups is not None
        group = Group([])
        try:
            group = self._cgroups.create()

            def command(seccomp_fd: int, info_fd: int) -> Sequence[str]:
                chain = confined(
                    blueprint,
                    roots=[
                        self._pem.parent,
                        *blueprint.bwrap.roots,
                        *places.read_only.values(),
                        *places.writable.values(),
                        *([blueprint.python.prefix] if blueprint.python.prefix else []),
                    ],
                    arguments=lambda seen: _arguments(
                        blueprint, places, {AUTHORITIES: self._pem}, seen, seccomp_fd, info_fd
                    ),
                    program=program,
                    procs_files=group.procs_files,
                )
                return ["nice", "-n", str(REPOSITORY_NICENESS), *chain]

            return await BwrapProcess.start(command, seccomp=seccomp_filter(), group=group, gives=gives)
        except BaseException as error:
            group.remove()
            if isinstance(error, OSError):
                raise SandboxUnavailable(
                    "the machine refuses to start a sandbox", detail=str(error)
                ) from error
            raise

    # -- set-up, once -------------------------------------------------------------------------------

    @property
    def _pem(self) -> Path:
        return self._root / "certificates" / "authorities.pem"

    async def _set_up(self) -> Blueprint:
        async with self._setting_up:
            if self._blueprint is None:
                self._blueprint = await asyncio.to_thread(self._make_blueprint)
            return self._blueprint

    def _make_blueprint(self) -> Blueprint:
        self._cgroups = Cgroups()
        bwrap, python = find_bwrap(HOST_UID if self._drops_uid else None), self._find_python()
        marks, stage = [str(self._root)], None
        if self._drops_uid:
            where = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
            marks += clear_stages(where)
            stage = Path(tempfile.mkdtemp(prefix=f"corral-stage-{os.getpid()}-", dir=where))
            stage.chmod(0o711)
        end_orphans(marks)
        self._pem.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        draft = self._pem.with_suffix(f".{os.getpid()}")
        draft.write_bytes(_authorities(self._authorities))
        draft.chmod(0o644)
        draft.rename(self._pem)
        return Blueprint(bwrap=bwrap, python=python, inside=self._root, stage=stage)


def _arguments(
    blueprint: Blueprint,
    places: Places,
    files: Mapping[str, Path],
    seen: Callable[[Path], str],
    seccomp_fd: int,
    info_fd: int,
) -> list[str]:
    read_only, links = system_mounts()
    read_only += [(seen(source), place) for place, source in {**files, **places.read_only}.items()]
    if blueprint.python.prefix:
        read_only.append((seen(blueprint.python.prefix), str(blueprint.python.prefix)))
    writable = [(seen(source), place) for place, source in places.writable.items()]
    bwrap = blueprint.bwrap
    sized = ["--size", str(SANDBOX_TMP_BYTES)] if bwrap.has("--size") else []
    return [
        "--unshare-all", "--unshare-user", "--as-pid-1", "--die-with-parent", "--new-session",
        "--hostname", "corral", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
        *(["--disable-userns"] if bwrap.has("--disable-userns") else []),
        "--proc", "/proc", "--dev", "/dev", *sized, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",  # noqa: S108
        *sized, "--tmpfs", _TMP,
        *[word for target, link in links for word in ("--symlink", target, link)],
        *[word for source, place in read_only for word in ("--ro-bind", source, place)],
        *[word for source, place in writable for word in ("--bind", source, place)],
        "--remount-ro", "/", "--chdir", _TMP, "--clearenv",
        *[word for name, value in _ENVIRONMENT.items() for word in ("--setenv", name, value)],
        "--seccomp", str(seccomp_fd), "--info-fd", str(info_fd),
    ]  # fmt: skip


def _authorities(more: Path | None) -> bytes:
    """The system's, and the operator's own."""
    system = ssl.get_default_verify_paths().cafile
    candidates = [Path(system)] if system else []
    candidates.append(Path("/etc/ssl/certs/ca-certificates.crt"))
    found = next((path.read_bytes() for path in candidates if path.is_file()), b"")
    return b"\n".join([found, more.read_bytes() if more is not None else b""])
