"""What packages are installed on: the part of this machine that its sandboxes see and packages depend on.

A layer made on one machine serves another of the same ground. Patches of the system leave the ground as it
is, but for packages of the system itself.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from corral.catalog.packages import Wanted
from corral.hands.providers.binary import CannotWork, find_python
from corral.hands.providers.launch import environment
from corral.hands.providers.system import MACHINE, System

__all__ = ["ground"]

_FORM: Final = 1  # of layers: another one is another ground
_SYSTEM: Final = Path("/etc/os-release")
_SYSTEM_PACKAGES: Final = Path("/var/lib/dpkg/status")
_RUNTIMES: Final = {"gem": "ruby", "npm": "node"}  # what runs the packages of a manager, and dates them
_SECONDS_MAX: Final = 10.0


def ground(packages: Wanted, system: System = MACHINE) -> str:
    """What these packages depend on, in a few words that differ where they would not work. Reads some small
    files; a runtime is asked for its version once. Blocks: up to _SECONDS_MAX for one that hangs, which is
    asked again the next time. Of a root file system, every file counts: `System.fingerprint`.
    Raises CannotWork without a Python, or a root that cannot be read."""
    if system.root is not None:
        try:
            return f"{_FORM}\n{platform.machine()}\n{system.fingerprint()}"
        except OSError as error:
            raise CannotWork(
                "the root file system for sandboxes cannot be read",
                found=str(error),
                remedy="look at what --sandbox-root or CORRAL_SANDBOX_ROOT names",
            ) from error
    python = find_python()
    facts = [str(_FORM), platform.machine(), _digest(_SYSTEM)]
    if "apt" in packages:
        facts.append(_digest(_SYSTEM_PACKAGES))
    if "pip" in packages:
        facts.append(str(python.path.resolve()))
    for manager, runtime in _RUNTIMES.items():
        found = shutil.which(runtime, path=environment(python)["PATH"])
        if manager in packages and found is not None:
            try:
                facts.append(_version(found, Path(found).stat().st_mtime_ns))
            except (OSError, subprocess.SubprocessError):
                facts.append("")
    return "\n".join(facts)


def _digest(path: Path) -> str:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return ""
    return _digest_at(path, seen.st_mtime_ns, seen.st_size)


@functools.lru_cache(maxsize=4)
def _digest_at(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=4)
def _version(program: str, mtime_ns: int) -> str:
    """What it raises is not kept."""
    done = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=True,
        env={"PATH": os.defpath},
    )
    return done.stdout.strip()
