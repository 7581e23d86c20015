"""A root file system for sandboxes, put together from the packages of the Debian that the tests run on, as
debootstrap would from a registry.

    made_root(directory, "coreutils", "python3")   # these, what they depend on, bash, and a mark of its own
    made_root_for_gvisor(directory, "git")         # what the runsc of Debian 12 can serve
"""

import functools
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

__all__ = ["MARK", "made_root", "made_root_for_gvisor"]

MARK = "corral-root-of-the-tests"
_NEEDLESS = ("/usr/share/doc/", "/usr/share/info/", "/usr/share/locale/", "/usr/share/man/", "/boot/")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def made_root(root: Path, *packages: str) -> Path:
    """Skips the test where the machine is no Debian, or lacks one of them."""
    if shutil.which("dpkg-query") is None:
        pytest.skip("no Debian, from whose packages a root could be made")
    wanted = _with_all_that_they_need(("base-files", "bash", *packages))
    (root / "usr").mkdir(parents=True)
    for name in _MERGED:
        if Path("/", name).is_symlink():
            (root / "usr" / name).mkdir()
            (root / name).symlink_to(f"usr/{name}")
    for path in _files_of(tuple(sorted(wanted))):
        _copy(path, root)
    (root / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").write_text("".join(wanted.values()))
    without_lock = shutil.ignore_patterns("Lock")  # which is root's alone
    shutil.copytree("/var/lib/dpkg/triggers", root / "var/lib/dpkg/triggers", ignore=without_lock)
    info = root / "var/lib/dpkg/info"
    info.mkdir(exist_ok=True)
    for package in wanted:
        for path in Path("/var/lib/dpkg/info").glob(f"{package}[.:]*"):
            shutil.copy2(path, info)
    (root / "usr/bin" / MARK).write_text("#!/bin/sh\necho marked\n")
    (root / "usr/bin" / MARK).chmod(0o755)
    return root


def made_root_for_gvisor(root: Path, *packages: str) -> Path:
    """With a Python, and what the contract's commands need; `ls` and `stat` are those of busybox: the runsc
    of Debian 12 refuses what Debian 12's own ask of it. packages: more of them, if this machine has them.
    Skips the test likewise."""
    essential = "coreutils dash debianutils diffutils findutils grep hostname libc-bin sed tar util-linux"
    essential += " curl python3-pip ca-certificates"
    made_root(root, *essential.split(), *(each for each in packages if each in _installed()))
    bundle = Path("etc/ssl/certs/ca-certificates.crt")  # put together when a package is installed
    (root / bundle).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path("/") / bundle, root / bundle)
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is no busybox (`apt install busybox-static`)")
    shutil.copy2(busybox, root / "usr/bin/busybox")
    for name in ("ls", "stat"):
        (root / "usr/bin" / name).unlink()
        (root / "usr/bin" / name).symlink_to("busybox")
    return root


@functools.cache
def _installed() -> dict[str, str]:
    paragraphs = Path("/var/lib/dpkg/status").read_text(errors="replace").split("\n\n")
    named = {
        paragraph.split("\n", 1)[0].removeprefix("Package: "): paragraph + "\n\n"
        for paragraph in paragraphs
    }
    return {name: text for name, text in named.items() if "\nStatus: install ok installed\n" in text}


def _with_all_that_they_need(packages: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    left = list(packages)
    while left:
        package = left.pop()
        if package in found:
            continue
        if package not in _installed():
            pytest.skip(f"the Debian of this machine has no {package}")
        found[package] = _installed()[package]
        for line in re.findall(r"^(?:Pre-)?Depends: (.*)$", found[package], re.MULTILINE):
            for alternatives in line.split(","):
                names = [_name(each) for each in alternatives.split("|")]
                left += [name for name in map(_provider, names) if name is not None][:1]
    return found


def _name(relation: str) -> str:
    return re.split(r"[ :(]", relation.strip())[0]


def _provider(name: str) -> str | None:
    if name in _installed():
        return name
    for package, text in _installed().items():
        for provided in re.findall(r"^Provides: (.*)$", text, re.MULTILINE):
            if name in map(_name, provided.split(",")):
                return package
    return None


def _files_of(packages: tuple[str, ...]) -> list[str]:
    said = subprocess.run(
        ["dpkg-query", "-L", *packages], capture_output=True, text=True, check=True
    ).stdout
    return [path for path in said.splitlines() if path.startswith("/") and not path.startswith(_NEEDLESS)]


def _copy(path: str, root: Path) -> None:
    """Not what is there already, or went."""
    place = root / path.lstrip("/")
    try:
        seen = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISLNK(seen.st_mode) and not os.access(path, os.R_OK):
        return  # what is root's alone
    if stat.S_ISDIR(seen.st_mode):
        place.mkdir(parents=True, exist_ok=True)
    elif not os.path.lexists(place) and stat.S_IFMT(seen.st_mode) in (stat.S_IFREG, stat.S_IFLNK):
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
