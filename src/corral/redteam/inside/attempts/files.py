"""The file system: mounts, what is read-only, ways around paths; what others of the machine have in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.calls import call
from corral.redteam.inside.ends import Won
from corral.redteam.inside.means import (
    Tries,
    calls,
    connects_unix,
    lists,
    makes,
    opens_for_writing,
    reads,
    tells,
)

_READ_ONLY = (
    "/usr/bin/env",
    "/bin/sh",
    "/etc/passwd",
    "/etc/hosts",
    "/usr/lib/os-release",
    "/etc/ssl/openssl.cnf",
)
SECRET_FILES = (
    "/etc/shadow", "/etc/gshadow", "/etc/machine-id", "/etc/hostname", "/etc/fstab", "/etc/ssh/sshd_config",
    "/root/.bashrc", "/root/.profile", "/var/log/dpkg.log", "/var/lib/dpkg/status", "/etc/resolv.conf",
    "/etc/sudoers", "/etc/crontab",
)  # fmt: skip
_SOCKETS = (
    "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify", "/run/nscd/socket",
    "/tmp/.X11-unix/X0", "/run/snapd.socket",
)  # fmt: skip
_MS_BIND, _MS_REMOUNT, _MNT_DETACH = 4096, 32, 2


def _mounts_here(kind: bytes, source: bytes = b"none", flags: int = 0) -> Tries:
    def tries(box: Box) -> None:
        place = os.path.join(os.getcwd(), ".redteam-mount").encode()
        os.makedirs(place, exist_ok=True)
        try:
            call("mount", source, place, kind, flags, 0)
            with contextlib.suppress(OSError):
                call("umount2", place, _MNT_DETACH)
            raise Won(f"{kind.decode()} was mounted")
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(place)

    return tries


def _leaves_chroot(box: Box) -> None:
    place = os.path.join(os.getcwd(), ".redteam-root")
    os.makedirs(place, exist_ok=True)
    try:
        call("chroot", place.encode())
        raise Won("a root directory was set")
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(place)


def _opens_by_number(box: Box) -> None:
    """A file by its inode, past every directory: what led out of early containers."""
    handle = (ctypes.c_ubyte * 64)()
    ctypes.memmove(handle, (ctypes.c_uint32 * 2)(8, 1), 8)
    ctypes.memmove(
        ctypes.addressof(handle) + 8, (ctypes.c_uint32 * 2)(2, 0), 8
    )  # the root of a file system
    here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    fd = call("open_by_handle_at", here, handle, os.O_RDONLY)
    raise Won(f"a directory of the machine as descriptor {fd}: {os.listdir(f'/proc/self/fd/{fd}')[:5]}")


def _links_to(path: str) -> Tries:
    """A hard link that would carry a file of the machine into the workspace."""

    def tries(box: Box) -> None:
        where, link = box.fill(path), os.path.join(os.getcwd(), ".redteam-link")
        os.link(where, link)
        os.unlink(link)
        raise Won(f"{where} has a second name here")

    return tries


def _climbs(box: Box) -> None:
    """By any number of "..", from every directory that one may enter."""
    for start in ("/", "/proc/self/root", "/proc/self/cwd", ".", "/tmp", "/dev", "/run"):
        with contextlib.suppress(OSError):
            fd = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):
                path = "../" * 40 + box["outside_secret"].lstrip("/")
                box.read(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd))
            os.close(fd)
    box.note("every way up ends in the sandbox")


def _follows_link(target: str) -> Tries:
    def tries(box: Box) -> None:
        link = os.path.join(os.getcwd(), ".redteam-symlink")
        with contextlib.suppress(OSError):
            os.unlink(link)
        os.symlink(box.fill(target), link)
        try:
            box.read(link)
            box.note("it leads elsewhere")
        finally:
            os.unlink(link)

    return tries


def _overwrites(path: str) -> Tries:
    """A file of the machine that everybody may write: it was put there for this."""

    def tries(box: Box) -> None:
        fd = os.open(box.fill(path), os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"overwritten by redteam")
        os.close(fd)
        raise Won("it was overwritten")

    return tries


def _alters(path: str) -> Tries:
    def tries(box: Box) -> None:
        where = box.fill(path)
        os.utime(where, (0, 0))
        os.chmod(where, 0o600)
        raise Won("its times and mode were changed")

    return tries


def _tells_by_mounts(box: Box) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        said = mounts.read()
    box.look(said.encode())
    if box["data_dir"] in said:
        raise Won("the table of mounts names the data directory")
    box.note("the table of mounts names nothing of Corral's")


def _secret_in_all_files(box: Box) -> None:
    """All that can be read in the whole file system, up to a bound."""
    files = size = 0
    skipped = ("/proc", "/sys", "/usr", "/lib", "/lib64", "/bin", "/sbin")
    for folder, folders, names in os.walk("/"):
        if folder in skipped or files > 5000 or size > 200 << 20:
            folders.clear()
            continue
        folders[:] = [each for each in folders if os.path.join(folder, each) not in skipped]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and not os.path.islink(path):
                    size += len(box.read(path, bytes_max=1 << 20))
                    files += 1
    box.note(f"{files} files, {size} bytes")


def _watches(path: str) -> Tries:
    """Who comes and goes in a directory of the machine."""

    def tries(box: Box) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.inotify_init1(0)
        if fd < 0 or libc.inotify_add_watch(fd, box.fill(path).encode(), 0x300) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        raise Won("it can be watched")

    return tries


def _shared_folder(box: Box) -> None:
    """/dev/shm is the sandbox's own, if it has one: what was put there outside is not in it."""
    box.read(box["shared_file"])
    box.note("another file")


def _listed_sockets(box: Box) -> None:
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        said = table.read()
    for name in (box["abstract_socket"], box["unix_socket"], box["hands_socket"]):
        if name in said:
            raise Won(f"{name} is listed")
    box.note(f"{len(said.splitlines()) - 1} sockets, none of the machine's")


def _passes_descriptor(box: Box) -> None:
    """A socket of ours under a path that somebody outside would look at."""
    path = os.path.join(box["outside"], "redteam.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.bind(path)
        raise Won(f"{path} is ours")


def _mount_call(name: str, *arguments: object) -> Tries:
    """On what is no mount point: nothing would come of it, but the kernel says no before it sees that."""
    return calls(name, *arguments)


ATTEMPTS = {
    "mounts": [
        Attempt("tmpfs", "mounts a tmpfs in its workspace", _mounts_here(b"tmpfs"), is_of_kernel=True),
        Attempt("proc", "mounts another /proc", _mounts_here(b"proc"), is_of_kernel=True),
        Attempt("sysfs", "mounts /sys", _mounts_here(b"sysfs"), is_of_kernel=True),
        Attempt("devtmpfs", "mounts the machine's devices", _mounts_here(b"devtmpfs"), is_of_kernel=True),
        Attempt("cgroup", "mounts the control groups", _mounts_here(b"cgroup2"), is_of_kernel=True),
        Attempt(
            "overlay", "mounts an overlay over the system", _mounts_here(b"overlay"), is_of_kernel=True
        ),
        Attempt(
            "bind",
            "binds the root into its workspace",
            _mounts_here(b"none", b"/", _MS_BIND),
            is_of_kernel=True,
        ),
        Attempt(
            "remount",
            "changes what a mount allows",
            _mount_call("mount", b"none", b".", 0, _MS_REMOUNT | _MS_BIND, 0),
            is_of_kernel=True,
        ),
        Attempt(
            "unmount",
            "takes a mount away, for what is below",
            _mount_call("umount2", b".", _MNT_DETACH),
            is_of_kernel=True,
        ),
        Attempt("pivot-root", "changes its root", _mount_call("pivot_root", b".", b"."), is_of_kernel=True),
        Attempt(
            "open-tree",
            "takes a copy of the tree of mounts",
            _mount_call("open_tree", -100, b"/", 1),
            is_of_kernel=True,
        ),
        Attempt(
            "move-mount",
            "moves a mount",
            _mount_call("move_mount", -100, b".", -100, b".", 0),
            is_of_kernel=True,
        ),
        Attempt(
            "fsopen",
            "makes a file system by the newer calls",
            _mount_call("fsopen", b"tmpfs", 0),
            is_of_kernel=True,
        ),
        Attempt(
            "mount-setattr",
            "changes what a mount forbids",
            _mount_call("mount_setattr", -100, b"/", 0, 0, 0),
            is_of_kernel=True,
        ),
        Attempt("chroot", "sets a root directory of its own", _leaves_chroot, is_of_kernel=True),
        Attempt("by-number", "opens a directory by its inode", _opens_by_number),
        Attempt(
            "number-of",
            "asks for the number by which a file could be opened",
            calls("name_to_handle_at", -100, b"/", 0, 0, 0),
            is_of_kernel=True,
        ),
        Attempt("table", "finds the data directory in the table of mounts", _tells_by_mounts, "places"),
        *(
            Attempt(f"writes{path.replace('/', '-')}", f"opens {path} for writing", opens_for_writing(path))
            for path in _READ_ONLY
        ),
        *(
            Attempt(
                f"makes{path.replace('/', '-')}",
                f"makes a file in {path or '/'}",
                makes(f"{path}/redteam-made"),
            )
            for path in (
                "",
                "/usr/bin",
                "/usr/lib",
                "/etc",
                "/run",
                "/run/corral",
                "/dev",
                "/proc",
                "/sys",
                "/var/lib",
                "/home",
                "/root",
                "/boot",
            )
        ),
        Attempt("agent-code", "changes the agent's own program", opens_for_writing("{agent_program}")),
        Attempt("uploads", "changes what the host alone may put there", makes("{uploads}/redteam-made")),
    ],
    "files": [
        *(
            Attempt(f"reads{path.replace('/', '-')}", f"reads {path} of the machine", reads(path), "files")
            for path in SECRET_FILES
        ),
        Attempt(
            "secret",
            "reads a secret that everybody on the machine may read",
            reads("{outside_secret}"),
            "files",
        ),
        Attempt("climbs", "climbs to it from every directory", _climbs, "files"),
        Attempt("follows", "follows a link of its own to it", _follows_link("{outside_secret}"), "files"),
        Attempt("links", "gives it a second name in the workspace", _links_to("{outside_secret}"), "files"),
        Attempt(
            "links-system",
            "gives a program of the system a second name",
            _links_to("/usr/bin/env"),
            "files",
        ),
        Attempt(
            "overwrites",
            "overwrites a file that everybody may write",
            _overwrites("{outside_victim}"),
            "files",
            watches=("outside",),
        ),
        Attempt(
            "makes",
            "makes a file where everybody may make some",
            makes("{outside}/redteam-made"),
            "files",
            watches=("outside",),
        ),
        Attempt(
            "alters",
            "changes times and mode of a file of the machine",
            _alters("{outside_victim}"),
            "names",
            watches=("outside",),
        ),
        Attempt("lists", "lists a directory of the machine", lists("{outside}"), "files"),
        Attempt("tells", "tells that a path of the machine is there", tells("{outside_secret}"), "names"),
        Attempt("tells-data", "tells that the data directory is there", tells("{data_dir}"), "names"),
        Attempt("watches", "watches a directory of the machine", _watches("{outside}"), "names"),
        Attempt("shared-folder", "reads what the machine has in /dev/shm", _shared_folder, "files"),
        Attempt(
            "everything",
            "reads all that can be read, and looks for secrets",
            _secret_in_all_files,
            seconds=25,
        ),
    ],
    "unix-sockets": [
        Attempt(
            "outside",
            "connects to a socket that everybody may connect to",
            connects_unix("{unix_socket}"),
            watches=("unix",),
        ),
        *(
            Attempt(
                name,
                f"connects to the socket of {what}",
                connects_unix(f"{{{name.replace('-', '_')}_socket}}"),
            )
            for name, what in (
                ("hands", "the hands host"),
                ("egress", "the egress process"),
                ("doors", "the doors of egress"),
            )
        ),
        *(
            Attempt(
                path.strip("/").replace("/", "-").replace(".", ""),
                f"connects to {path}",
                connects_unix(path),
            )
            for path in _SOCKETS
        ),
        Attempt("listed", "lists the sockets of the machine", _listed_sockets, "network"),
        Attempt(
            "own-outside", "puts a socket of its own outside", _passes_descriptor, watches=("outside",)
        ),
    ],
    "abstract-sockets": [
        Attempt(
            "outside",
            "connects to an abstract socket of the machine",
            connects_unix("@{abstract_socket}"),
            watches=("abstract",),
        ),
        Attempt(
            "neighbour",
            "connects to an abstract socket of another sandbox",
            connects_unix("@{neighbour_abstract}"),
            watches=("neighbour",),
        ),
        Attempt("display", "connects to the machine's display", connects_unix("@/tmp/.X11-unix/X0")),
        Attempt(
            "bus", "connects to a bus of the machine", connects_unix("@/org/freedesktop/systemd1/notify")
        ),
    ],
}
