"""What processes of this machine hold: their memory, environments, arguments and open files, searched for
secrets."""

import contextlib
from pathlib import Path

__all__ = ["below", "holds", "memory"]

_CHUNK_BYTES = 1 << 24


def memory(pid: int) -> "list[bytes]":
    """What can be read of a process's memory, in pieces that overlap."""
    found = []
    maps = Path(f"/proc/{pid}/maps").read_text()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in maps.splitlines():
            area, mode, *_ = fields = line.split()
            is_program = "w" not in mode and fields[-1].startswith("/")  # of a file, and nobody changes it
            if is_program or "r" not in mode or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            for at in range(start, end, _CHUNK_BYTES):
                with contextlib.suppress(OSError, OverflowError, ValueError):
                    file.seek(at)
                    found.append(file.read(min(_CHUNK_BYTES + 256, end - at)))
    return found


def holds(pid: int, secrets: "dict[str, bytes]") -> set[str]:
    """Which of these are in its memory, its environment, its command line or a file that it has open."""
    pieces = memory(pid)
    for name in ("environ", "cmdline"):
        pieces.append(Path(f"/proc/{pid}/{name}").read_bytes())
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.is_file():
                pieces.append(descriptor.read_bytes())
    return {name for name, secret in secrets.items() if any(secret in piece for piece in pieces)}


def below(pid: int) -> set[int]:
    """The process and everything that it started."""
    found, new = {pid}, {pid}
    while new:
        children = set()
        for parent in new:
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    children |= {int(word) for word in task.read_text().split()}
        new = children - found
        found |= new
    return found
