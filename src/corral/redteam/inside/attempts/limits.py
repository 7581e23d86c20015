"""More than one's share: bounded here, too, so that a sandbox without bounds takes no machine along."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import signal
import time

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Held, Untried, Won
from corral.redteam.inside.means import Tries

_MEGABYTE = 1 << 20


def _forks(box: Box) -> None:
    """Children that wait, until there can be no more. They end with us."""
    most = int(box["processes_max"]) + 64
    children: list[int] = []
    try:
        while len(children) < most:
            try:
                pid = os.fork()
            except OSError as error:
                raise Held(
                    f"{errno.errorcode.get(error.errno or 0)} after {len(children)} processes"
                ) from None
            if pid == 0:
                signal.alarm(20)
                signal.pause()
                os._exit(0)
            children.append(pid)
        raise Won(f"{len(children)} processes")
    finally:
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)


def _takes_memory(box: Box) -> None:
    """One process alone, a little more than a sandbox may have; asked for, and not touched."""
    size = int(box["memory_bytes"]) + 512 * _MEGABYTE
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, MemoryError) as error:
        raise Held(f"{size >> 20} MB were refused: {error}") from None
    raise Won(f"{size >> 20} MB were given")


def _uses_memory(box: Box) -> None:
    """Such as no bound of a process counts, touched page by page; only where there is a bound of all."""
    if "memory" in box["gaps"]:
        raise Untried("it would be the machine's: there is no bound of a whole sandbox")
    size = int(box["memory_bytes"]) + 256 * _MEGABYTE
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # it is to be this process that ends
    shared = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        shared[at] = 1
    raise Won(f"{size >> 20} MB were used")


def _opens_files(box: Box) -> None:
    most = int(box["open_files_max"]) + 64
    opened: list[int] = []
    try:
        while len(opened) < most:
            try:
                opened.append(os.dup(0))
            except OSError as error:
                raise Held(f"{errno.errorcode.get(error.errno or 0)} after {len(opened)} files") from None
        raise Won(f"{len(opened)} files")
    finally:
        for fd in opened:
            os.close(fd)


def _large_file(box: Box) -> None:
    """With a hole in it: its size is refused, and no disk is used."""
    path = os.path.join(os.getcwd(), ".redteam-large")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open(path, "wb") as file:
            try:
                file.truncate(int(box["file_bytes_max"]) + 1)
            except OSError as error:
                raise Held(f"{errno.errorcode.get(error.errno or 0)}") from None
        raise Won("a larger file than any may be")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _fills_tmp(box: Box) -> None:
    """/tmp is memory, where it is a file system of its own; written with a bound of ours."""
    if os.statvfs("/tmp").f_fsid == os.statvfs(".").f_fsid:
        raise Held("it is no memory")
    most, written, chunk = int(box["tmp_bytes"]) + 64 * _MEGABYTE, 0, bytes(8 * _MEGABYTE)
    path = "/tmp/.redteam-full"
    try:
        with open(path, "wb", buffering=0) as file:
            while written < most:
                try:
                    written += file.write(chunk)
                except OSError as error:
                    raise Held(
                        f"{errno.errorcode.get(error.errno or 0)} after {written >> 20} MB"
                    ) from None
        raise Won(f"{written >> 20} MB")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _raises_limit(name: str) -> Tries:
    def tries(box: Box) -> None:
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        if hard == resource.RLIM_INFINITY:
            raise Won("it has no bound")
        try:
            resource.setrlimit(which, (hard + 1, hard + 1))
        except (ValueError, OSError) as error:
            raise Held(str(error)) from None
        raise Won("it was raised")

    return tries


def _lowers_nice(box: Box) -> None:
    """To go before everybody else on the machine."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    if os.getpriority(os.PRIO_PROCESS, 0) < min(before, 0):
        raise Won("it goes before others")
    box.note("nothing came of it")


def _spares_itself(box: Box) -> None:
    """From being killed when memory runs out, so that others are."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as score:
        before = int(score.read())
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("-1000")
    with open("/proc/self/oom_score_adj", encoding="ascii") as score:
        if int(score.read()) < min(before, 0):
            raise Won("it is spared")
    box.note("nothing came of it")


def _dumps_core(box: Box) -> None:
    """A core file, or a program of the machine that is given one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGABRT)
        time.sleep(5)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WCOREDUMP(status):
        raise Won("memory was dumped")
    box.note(f"no memory was dumped (bounds {soft}, {hard})")


ATTEMPTS = {
    "limits": [
        Attempt("forks", "has more processes than it may", _forks, "count", seconds=25, ends=True),
        Attempt("memory", "asks for more memory than a sandbox may have", _takes_memory, is_of_kernel=True),
        Attempt(
            "shared-memory",
            "uses more memory than a sandbox may have",
            _uses_memory,
            "memory",
            seconds=30,
            ends=True,
            dies=True,
        ),
        Attempt("files", "has more open files than it may", _opens_files),
        Attempt("large-file", "makes a larger file than any may be", _large_file),
        Attempt("tmp", "puts more into /tmp than goes in", _fills_tmp, "paths", seconds=20),
        *(
            Attempt(f"raise-{name.lower()}", f"raises its bound RLIMIT_{name}", _raises_limit(name))
            for name in ("NPROC", "NOFILE", "DATA", "FSIZE")
        ),
        Attempt("nice", "goes before everybody else", _lowers_nice, is_of_kernel=True),
        Attempt("spared", "is spared when memory runs out", _spares_itself, is_of_kernel=True),
        Attempt("core", "has its memory dumped", _dumps_core),
    ],
}
