"""What should be gone when everything has stopped: processes, mounts, sockets; and what should never have
been anywhere: secrets."""

import contextlib
import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

__all__ = ["SMALL_DISK", "end", "left_behind", "orphans", "reap", "secrets_in"]

SMALL_DISK: Final = "corral-chaos"  # the source of the one mount that is ours, see `cluster`
_CHUNK_BYTES: Final = 1024 * 1024
_COMMAND_CHARS: Final = 100  # shown of each end of a command: what it is, and what it was to run


def left_behind(root: Path) -> Iterator[str]:
    """Sentences about what is still there of the nodes below `root`, all of which have been stopped."""
    for process in orphans(root):
        with contextlib.suppress(psutil.Error):
            yield f"process {process.pid} still runs{_whose(process, root)}: {_shown(process)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(root) in line and SMALL_DISK not in line:
            yield f"still mounted: {line}"
    for path in _files(root):
        if stat.S_ISSOCK(path.lstat().st_mode) and "corral-pg-" not in str(path):
            yield f"a socket is left: {path.relative_to(root)}"


def orphans(root: Path) -> list[psutil.Process]:
    """Processes of nodes below `root`: they name it, or work in it, or are what became of ours."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        named = [*(process.info["cmdline"] or ()), process.info["cwd"] or ""]
        if any(str(root) in each for each in named) and not _is_postgres(process):
            found[process.pid] = process
    for process in _adopted():
        found.setdefault(process.pid, process)
    found.pop(os.getpid(), None)
    return list(found.values())


def end(root: Path) -> None:
    """Kill what `left_behind` has named: it is in the report, and is of no use to anybody."""
    for process in orphans(root):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _whose(process: psutil.Process, root: Path) -> str:
    """How old it is, and which node's."""
    age = f" after {time.time() - process.create_time():.0f} s"
    for word in [process.cwd(), *process.cmdline()]:
        if str(root) in word:
            path = f"{word.partition(str(root))[2].lstrip('/')}/"
            return f"{age}, of {path.partition('/')[0]}"
    return age


def _shown(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if len(command) <= 2 * _COMMAND_CHARS:
        return command
    return f"{command[:_COMMAND_CHARS]} ... {command[-_COMMAND_CHARS:]}"


def _adopted() -> list[psutil.Process]:
    """Children that came to us when their parent died: we are their reaper (`run`)."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any(word.startswith("corral.") or "bwrap" in word for word in _cmdline(child))
    ]


def reap(ours: Collection[int | None]) -> None:
    """Wait for what came to us and has ended, as process 1 does; not for what we started (`ours`)."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            name = child.name()
            is_a_node = name == "bwrap" or name.startswith(("python", "corral"))
            if is_a_node and child.pid not in ours and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _is_postgres(process: psutil.Process) -> bool:
    return any("postgres" in Path(word).name or "corral-pg-" in word for word in _cmdline(process)[:4])


def secrets_in(root: Path, secrets: Mapping[str, str]) -> Iterator[str]:
    """Where a secret stands in a file below `root`. `secrets`: what it is -> the secret."""
    wanted = {name: secret.encode() for name, secret in secrets.items()}
    longest = max(map(len, wanted.values()))
    for path in _files(root):
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        found: set[str] = set()
        with contextlib.suppress(OSError), path.open("rb") as file:
            kept = b""
            while chunk := file.read(_CHUNK_BYTES):
                data = kept + chunk
                found |= {name for name, secret in wanted.items() if secret in data}
                kept = data[-longest:]
        for name in sorted(found):
            yield f"{name} stands in {path.relative_to(root)}"


def _files(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in names:
            yield Path(directory, name)
