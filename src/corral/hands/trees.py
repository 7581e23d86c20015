"""Trees that an agent writes while we read: opened name by name from a directory that is ours, through no
link, and regular files only.

Rules of this file:
- A name is looked up in a directory that is already open, and never followed if it is a link. So it does
  not matter what is renamed or replaced meanwhile: whatever is opened lies in the tree.
- A file is opened for nothing but its identity first (O_PATH): opening a device or a pipe can have effects.
- Every walk ends: entries, depth and lengths of names are bounded, each and together.
- What is written is made outside of the tree, given to the agent, and moved in by rename.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.kernel.errors import InvalidRequest, NotFound
from corral.kernel.limits import TREE_DEPTH_MAX, TREE_ENTRIES_MAX, TREE_PATH_BYTES_MAX, TREE_PATHS_BYTES_MAX

__all__ = ["Tree", "TreeEntry", "entry_of", "open_file", "put_file", "remove_file", "walk"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IDENTITY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HOSTILE: Final = (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG, errno.EPERM)


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeEntry:
    """A regular file. path: relative, as `os.fsdecode` gives it. The rest as stat(2) says: no program in a
    sandbox can change a file and keep all of `stamp`."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def stamp(self) -> tuple[int, int, int, int]:
        return self.size, self.mtime_ns, self.ctime_ns, self.inode


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """is_whole: nothing was left out for a bound, or because it could not be read."""

    entries: Sequence[TreeEntry]
    is_whole: bool


def walk(root: Path) -> Tree:
    """The regular files below `root`; blocking. Raises NotFound if there is no such directory."""
    try:
        top = os.open(root, _FOLDER)
    except OSError as error:
        raise NotFound("there is no such tree on this host") from error
    found: list[TreeEntry] = []
    is_whole, seen, paths_bytes = True, 0, 0
    stack: list[tuple[int, str, Iterator[os.DirEntry[str]]]] = []
    try:
        stack.append((top, "", os.scandir(top)))
    except OSError:
        os.close(top)
        return Tree(entries=(), is_whole=False)
    try:
        while stack:
            folder, prefix, names = stack[-1]
            entry = next(names, None)
            if entry is None:
                _close(stack.pop())
                continue
            seen += 1
            if seen > TREE_ENTRIES_MAX:
                return Tree(entries=found, is_whole=False)
            path = prefix + entry.name
            path_bytes = len(os.fsencode(path))
            if path_bytes > TREE_PATH_BYTES_MAX:
                is_whole = False
                continue
            try:
                known = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(known.st_mode):
                    paths_bytes += path_bytes
                    if paths_bytes > TREE_PATHS_BYTES_MAX:
                        return Tree(entries=found, is_whole=False)
                    found.append(entry_of(path, known))
                elif stat.S_ISDIR(known.st_mode):
                    if len(stack) >= TREE_DEPTH_MAX:
                        is_whole = False
                        continue
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        stack.append((inner, f"{path}/", os.scandir(inner)))
                    except OSError:
                        os.close(inner)
                        raise
            except OSError as error:  # it was replaced at this moment, or locked away
                if error.errno not in _HOSTILE:
                    raise
                is_whole = is_whole and error.errno == errno.ENOENT
    finally:
        for level in stack:
            _close(level)
    return Tree(entries=found, is_whole=is_whole)


def open_file(root: Path, path: str) -> tuple[int, TreeEntry]:
    """A regular file of the tree: a descriptor to read from, and what it is now; blocking, not for long.
    Raises NotFound, whatever else is there."""
    names = _names(path)
    with _folder(root, names[:-1]) as folder:
        try:
            identity = os.open(names[-1], _IDENTITY, dir_fd=folder)
        except OSError as error:
            raise NotFound("there is no such file in the tree") from error
    try:
        if not stat.S_ISREG(os.fstat(identity).st_mode):
            raise NotFound("it is no regular file")
        try:
            fd = os.open(f"/proc/self/fd/{identity}", _READ)  # what we hold, whatever has its name by now
        except OSError as error:
            raise NotFound("the file cannot be read") from error
        return fd, entry_of(path, os.fstat(fd))
    finally:
        os.close(identity)


def put_file(root: Path, path: str, content: bytes, *, staging: Path, owner: int | None) -> TreeEntry:
    """Write a file in one step, with its directories; blocking. staging: an empty name of ours on the same
    file system. owner: to whom it is given, with what is made for it. Raises InvalidRequest (something else
    is in its way), OSError (the disk)."""
    names = _names(path)
    fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", closefd=False) as out:
            out.write(content)
        os.fchmod(fd, 0o644)
        if owner is not None:
            os.fchown(fd, owner, owner)
        with _folder(root, names[:-1], makes=True, owner=owner) as folder:
            try:
                os.rename(staging, names[-1], dst_dir_fd=folder)
            except (IsADirectoryError, NotADirectoryError) as error:
                raise InvalidRequest("a directory is in the way of a file") from error
        return entry_of(path, os.fstat(fd))
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            staging.unlink()


def remove_file(root: Path, path: str) -> None:
    """Remove a file, and the directories that are empty without it; blocking. Repeat: safe; what is there
    and no file stays."""
    with contextlib.suppress(NotFound):
        names = _names(path)
        with _folder(root, names[:-1]) as folder, contextlib.suppress(OSError):
            os.unlink(names[-1], dir_fd=folder)
        for end in range(len(names) - 1, 0, -1):
            with _folder(root, names[: end - 1]) as folder:
                try:
                    os.rmdir(names[end - 1], dir_fd=folder)
                except OSError:  # others are in it
                    return


@contextlib.contextmanager
def _folder(
    root: Path, names: Sequence[str], *, makes: bool = False, owner: int | None = None
) -> Iterator[int]:
    """A descriptor of a directory of the tree. Raises NotFound; where it `makes` them, InvalidRequest."""
    try:
        fd = os.open(root, _FOLDER)
    except OSError as error:
        raise NotFound("there is no such tree on this host") from error
    try:
        for name in names:
            if makes:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
                    if owner is not None:
                        os.chown(name, owner, owner, dir_fd=fd, follow_symlinks=False)
            try:
                inner = os.open(name, _FOLDER, dir_fd=fd)
            except OSError as error:
                if makes:
                    raise InvalidRequest(f"{name!r} is in the way: it is no directory") from error
                raise NotFound("there is no such directory in the tree") from error
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _names(path: str) -> list[str]:
    """The components of a relative path. Raises NotFound for what no walk would find."""
    names = path.split("/")
    is_long = len(names) > TREE_DEPTH_MAX or len(os.fsencode(path)) > TREE_PATH_BYTES_MAX
    if is_long or any(name in ("", ".", "..") or "\0" in name for name in names):
        raise NotFound("a tree has no such path")
    return names


def entry_of(path: str, known: os.stat_result) -> TreeEntry:
    return TreeEntry(
        path=path,
        size=known.st_size,
        mtime_ns=_bounded(known.st_mtime_ns),
        ctime_ns=_bounded(known.st_ctime_ns),
        inode=known.st_ino,
    )


def _bounded(ns: int) -> int:
    """A file may be as old as its maker says, or as young; JSON takes 64 bits."""
    return max(-(2**63), min(ns, 2**63 - 1))


def _close(level: tuple[int, str, Iterator[os.DirEntry[str]]]) -> None:
    fd, _, names = level
    names.close()  # type: ignore[attr-defined]  # of os.scandir
    os.close(fd)
