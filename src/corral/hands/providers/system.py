"""Whose programs a sandbox has: this machine's, or those of a root file system that the operator names.

A root is a directory as `docker export`, `debootstrap` or `podman mount` makes it. Sandboxes see it
read-only, and of it all but what is their own (_HIDDEN). What Corral itself runs in them it brings along
(`interpreter`), so a root needs nothing but bash.
"""

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from corral.hands.providers.binary import CannotWork

__all__ = ["MACHINE", "USR", "System"]

USR: Final = "/usr"
_SHELL: Final = "/bin/bash"
_ELSEWHERE: Final = "name another with --sandbox-root or CORRAL_SANDBOX_ROOT"
_FOLDERS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC: Final = (  # of the machine's /etc: what programs need to run, and nothing that says who lives here
    "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "os-release",
    "protocols", "services", "ssl/certs", "ssl/openssl.cnf",
)  # fmt: skip
_HIDDEN: Final = {  # of a root, by directory: what a sandbox has of its own, or nobody needs
    "": set("boot dev home lost+found media mnt proc root run sys tmp var workspace".split()),  # noqa: SIM905
    "etc": {
        "group", "group-", "gshadow", "gshadow-", "hostname", "hosts", "mtab", "nsswitch.conf", "passwd",
        "passwd-", "resolv.conf", "shadow", "shadow-", "subgid", "subuid",
    },
    "opt": {"corral"},
}  # fmt: skip
_LINKS_MAX: Final = 40  # as the kernel follows
_EXECUTABLE: Final = 0o111  # other modes depend on who unpacked it
_ELF: Final = slice(0, 4), slice(4, 5), slice(18, 20)  # magic, class, machine


@dataclass(frozen=True, slots=True)
class System:
    """root: a directory, None for the machine's own programs. What its methods raise is OSError."""

    root: Path | None = None

    @classmethod
    def at(cls, root: Path | None) -> "System":
        """A link is followed once: what it leads to later is for the next process."""
        return cls(None if root is None else root.resolve())

    @property
    def roots(self) -> Sequence[Path]:
        """Directories of the host that others may not reach, of which something is seen."""
        return () if self.root is None else (self.root,)

    def path(self, place: str) -> Path:
        """Where on the host a place of it lies."""
        return Path(place) if self.root is None else self.root / place.lstrip("/")

    def mounts(self) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
        """What a sandbox sees of it: what is bound read-only, (source, place), and symbolic links, (target,
        place)."""
        places = _machines() if self.root is None else _those_of(self.root)
        read_only, links = [], []
        for place in places:
            path = self.path(place)
            if path.is_symlink() and (self.root is not None or place in _FOLDERS):
                links.append((str(path.readlink()), place))
            elif path.exists():
                read_only.append((path, place))
        return read_only, links

    def fingerprint(self) -> str:
        """Of a root: another one where a file that sandboxes may see is another. Names, sizes and times are
        read, which takes a second for 100,000 files, and is repeated when the root was written to at its
        top. Blocks. Raises OSError."""
        assert self.root is not None
        tops = (".", "etc", "usr", "usr/bin", "usr/lib", "usr/local/bin", "var/lib/dpkg/status")
        return _fingerprint(self.root, tuple(_stamp(self.root / top) for top in tops))

    def require(self, *, uid: int | None, state_dir: Path) -> None:
        """Raises CannotWork for a root that sandboxes cannot have. uid: of sandboxes, if it is not ours."""
        if self.root is None:
            return
        if self.root == Path("/") or state_dir.is_relative_to(self.root):
            raise CannotWork(
                "the root file system for sandboxes holds Corral's own data",
                found=f"{state_dir} lies in {self.root}",
                remedy=_ELSEWHERE,
            )
        if not self.path(USR).is_dir() or self.path(USR).is_symlink():
            raise CannotWork(
                "there is no root file system for sandboxes",
                found=f"{self.root} has no directory usr",
                remedy=f"unpack one there (`docker export NAME | tar -x -C {self.root}`), or {_ELSEWHERE}",
            )
        shell = _followed(self.root, _SHELL)
        if shell is None or not os.access(shell, os.X_OK):
            raise CannotWork(
                "the root file system for sandboxes has no bash",
                found=f"there is no {_SHELL} in {self.root}",
                remedy=f"install bash in it, or {_ELSEWHERE}",
            )
        if _kind_of(shell) != _kind_of(Path("/proc/self/exe")):
            raise CannotWork(
                "the root file system for sandboxes is of another architecture",
                found=f"{shell} is no program of a {os.uname().machine}",
                remedy=f"unpack one for {os.uname().machine}, or {_ELSEWHERE}",
            )
        for place in ("/", "/bin", "/etc", "/lib", USR, "/usr/bin", "/usr/lib"):
            seen = self.path(place).lstat() if self.path(place).exists() else None
            if seen is not None and not stat.S_ISLNK(seen.st_mode) and _may_write(seen, uid):
                raise CannotWork(
                    "the root file system for sandboxes can be changed by anybody",
                    found=f"{self.path(place)}: mode {stat.S_IMODE(seen.st_mode):o}, uid {seen.st_uid}",
                    remedy=f"`chown root` and `chmod o-w` what is in {self.root}, or {_ELSEWHERE}",
                )


MACHINE: Final = System()


def _machines() -> list[str]:
    return [USR, *_FOLDERS, *(f"/etc/{name}" for name in _ETC)]


def _those_of(root: Path) -> Iterator[str]:
    for name in filter(lambda name: _is_seen("", name), _names(root)):
        if name in _HIDDEN and (root / name).is_dir() and not (root / name).is_symlink():
            yield from (f"/{name}/{each}" for each in _names(root / name) if _is_seen(name, each))
        else:
            yield f"/{name}"


def _is_seen(folder: str, name: str) -> bool:
    """folder: relative to the root."""
    return name not in _HIDDEN.get(folder, ()) and (folder != "" or not name.startswith("."))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _followed(root: Path, place: str) -> Path | None:
    """Where a place of a root lies, with its links read as they are in there."""
    here, left, followed = root, list(reversed(PurePosixPath(place).parts[1:])), 0
    while left:
        name = left.pop()
        if name == "..":
            here = here if here == root else here.parent
        elif (here / name).is_symlink():
            followed += 1
            if followed > _LINKS_MAX:
                return None
            target = PurePosixPath((here / name).readlink())
            here = root if target.is_absolute() else here
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        else:
            here /= name
    return here if here.is_file() else None


def _kind_of(program: Path) -> list[bytes]:
    with program.open("rb") as file:
        head = file.read(20)
    return [head[part] for part in _ELF]


def _may_write(seen: os.stat_result, uid: int | None) -> bool:
    return bool(seen.st_mode & stat.S_IWOTH) or (uid is not None and seen.st_uid == uid)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        seen = path.stat()
    except OSError:
        return ()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _fingerprint(root: Path, stamps: tuple[tuple[int, ...], ...]) -> str:
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError):  # what apt goes by
        digest.update((root / "var/lib/dpkg/status").read_bytes())
    left = [(root, "")]
    while left:
        folder, prefix = left.pop()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if not _is_seen(prefix.rstrip("/"), entry.name):
                continue
            seen, name = entry.stat(follow_symlinks=False), prefix + entry.name
            what: object = ""
            if stat.S_ISREG(seen.st_mode):
                what = (seen.st_size, int(seen.st_mtime))  # archives keep seconds
            elif stat.S_ISLNK(seen.st_mode):
                what = str(Path(entry).readlink())
            elif stat.S_ISDIR(seen.st_mode) and os.access(entry, os.R_OK | os.X_OK):
                left.append((Path(entry), f"{name}/"))
            kind = stat.S_IFMT(seen.st_mode) | seen.st_mode & _EXECUTABLE
            digest.update(f"{name!r} {kind:o} {what!r}\n".encode())
    return digest.hexdigest()
