"""Trees on disk that somebody else has made: measured and removed, however deep they are. All of it blocks.

The standard library's own (`os.fwalk`, `shutil.rmtree`) recurse and keep a descriptor per level: a tree
some hundred levels deep ends them. Here one directory is open at a time, and no link is ever followed.
"""

import contextlib
import ctypes
import os
import secrets
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

__all__ = ["disk_bytes", "is_larger", "is_real_directory", "remove_tree", "sync_disk"]

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK_BYTES: Final = 512  # unit of st_blocks


def is_real_directory(path: Path) -> bool:
    """False for a link to one, and for nothing."""
    try:
        fd = os.open(path, _OPEN)
    except OSError:
        return False
    os.close(fd)
    return True


def sync_disk(folder: Path) -> None:
    """What was written on the file system of this directory outlives a power cut from now on. Blocks for as
    long as the disk takes. Raises OSError."""
    fd = os.open(folder, _OPEN)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(fd)


def disk_bytes(top: Path, *, entries_max: int | None = None) -> int:
    """What a tree takes on disk, its top not counted. Only sizes are read, no file is opened.

    entries_max: no more entries are counted, give or take a directory of so many. A tree that changes
    meanwhile may be counted in part.
    """
    total = entries = 0
    with closing(_folders(top, entries_max)) as folders:
        for size, count in folders:
            total, entries = total + size, entries + count
            if entries_max is not None and entries > entries_max:
                break
    return total


def is_larger(*tops: Path, bytes_max: int, entries_max: int) -> bool:
    """Whether trees together take more on disk, or have more in them; counted no further than that. As
    `disk_bytes` else."""
    total = entries = 0
    for top in tops:
        with closing(_folders(top, entries_max + 1)) as folders:
            for size, count in folders:
                total, entries = total + size, entries + count
                if total > bytes_max or entries > entries_max:
                    return True
    return False


def _folders(top: Path, most: int | None) -> Generator[tuple[int, int], None, None]:
    """Bytes and number of what is directly in each directory of the tree, of one at most so many."""
    try:
        here = os.open(top, _OPEN)
    except OSError:
        return
    above: list[tuple[tuple[int, int], list[str]]] = []  # which directory, and what of it is still to do
    try:
        size, todo, count = _listed(here, most)
        yield size, count
        while True:
            if todo:
                try:
                    inner = os.open(todo.pop(), _OPEN, dir_fd=here)
                except OSError:  # gone, closed to us, or no directory any more
                    continue
                above.append((_identity(here), todo))
                os.close(here)
                here = inner
                size, todo, count = _listed(here, most)
                yield size, count
            elif above:
                outer = os.open("..", _OPEN, dir_fd=here)
                os.close(here)
                here = outer
                identity, todo = above.pop()
                if _identity(here) != identity:  # it was moved: what is above is no part of the tree
                    break
            else:
                break
    except OSError:  # it is going away at this moment
        pass
    finally:
        os.close(here)


def remove_tree(top: Path) -> None:
    """As far as that can be done; it may be a file, or not be there. Repeat: safe.

    Directories are moved up to the top before they are emptied, so that no path becomes long.
    """
    try:
        fd = os.open(top, _OPEN)
    except OSError:
        with contextlib.suppress(OSError):
            top.unlink()
        return
    try:
        left = _emptied(fd)
        prefix, number = f".{secrets.token_hex(8)}-", 0
        while left:
            name = left.pop()
            with contextlib.suppress(OSError):
                inner = os.open(name, _OPEN, dir_fd=fd)
                try:
                    for each in _emptied(inner):
                        number += 1
                        with contextlib.suppress(OSError):
                            os.rename(each, f"{prefix}{number}", src_dir_fd=inner, dst_dir_fd=fd)
                            left.append(f"{prefix}{number}")
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        top.rmdir()


def _listed(fd: int, most: int | None) -> tuple[int, list[str], int]:
    """Bytes of what is directly there, names of its directories, how many entries; at most so many."""
    total, folders, count = 0, [], 0
    with contextlib.suppress(OSError), os.scandir(fd) as found:
        for entry in islice(found, most):
            count += 1
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
    return total, folders, count


def _emptied(fd: int) -> list[str]:
    """Remove what is no directory; names of the directories that are left."""
    folders = []
    with contextlib.suppress(OSError):
        with os.scandir(fd) as found:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, is_folder in names:
            if is_folder:
                folders.append(name)
                continue
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=fd)
    return folders


def _identity(fd: int) -> tuple[int, int]:
    here = os.fstat(fd)
    return here.st_dev, here.st_ino
