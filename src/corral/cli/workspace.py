"""A directory as a tree of files: in as a tar, out as a tar, compared, and written back when asked.

What comes out was made by an agent. It is parsed in memory, links are never followed, and writing back
touches only regular files below the directory, reached without following a link.
"""

import contextlib
import difflib
import io
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from corral.cli.outcome import Problem
from corral.kernel.limits import WORKSPACE_ARCHIVE_BYTES_MAX

__all__ = ["File", "Tree", "apply_changes", "changed", "difference", "pack", "read_tree", "unpack"]

# Made by tools, remade at need, or too dangerous to take back from an agent (.git holds hooks).
_LEFT_OUT = {".git", ".venv", "venv", "node_modules", "__pycache__", ".pytest_cache", ".mypy_cache"}


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    is_executable: bool = False


Tree = Mapping[str, File]


def read_tree(directory: Path) -> Tree:
    """The files of a directory: what git would track, if it is a repository; else all but caches.

    So what .gitignore names (keys, build products) stays here. Raises Problem.
    """
    if not directory.is_dir():
        raise Problem(f"there is no directory {str(directory)!r}")
    tree: dict[str, File] = {}
    size = 0
    for name in _names(directory):
        path = directory / name
        if _left_out(name) or path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        size += len(data)
        if size > WORKSPACE_ARCHIVE_BYTES_MAX:
            raise Problem(
                f"{str(directory)!r} holds more than {WORKSPACE_ARCHIVE_BYTES_MAX >> 20} MiB; "
                "give a smaller --workspace"
            )
        tree[name] = File(data, bool(path.stat().st_mode & stat.S_IXUSR))
    return tree


def pack(tree: Tree) -> bytes:
    """An uncompressed tar of the tree."""
    buffer, now = io.BytesIO(), int(time.time())
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, file in sorted(tree.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(file.data), 0o755 if file.is_executable else 0o644
            member.mtime = now  # not 1970, which zip archives cannot hold
            tar.addfile(member, io.BytesIO(file.data))
    return buffer.getvalue()


def unpack(archive: bytes) -> Tree:
    """The regular files of a tar that an agent's sandbox made. Raises Problem if it is no tar."""
    tree: dict[str, File] = {}
    if not archive:
        return tree
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                name = str(PurePosixPath(member.name))
                if not member.isreg() or name.startswith("/") or ".." in name.split("/") or _left_out(name):
                    continue
                content = tar.extractfile(member)
                tree[name] = File(content.read() if content else b"", bool(member.mode & stat.S_IXUSR))
    except tarfile.TarError as error:
        raise Problem(f"the workspace came back damaged: {error}") from error
    return tree


def changed(before: Tree, after: Tree) -> list[str]:
    """Names of files that were added, changed or removed."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def difference(before: Tree, after: Tree) -> list[str]:
    """A unified diff, line by line."""
    return [
        line for name in changed(before, after) for line in _one(name, before.get(name), after.get(name))
    ]


def apply_changes(directory: Path, before: Tree, after: Tree) -> list[str]:
    """Make the directory's files those of `after`; returns what was written or removed.

    A file that changed here since `before` was read is not overwritten: Problem, nothing written.
    """
    names = changed(before, after)
    now = read_tree(directory)
    moved = [name for name in names if now.get(name) != before.get(name)]
    if moved:
        raise Problem(f"not applied: {moved[0]!r} changed in {str(directory)!r} while the agent worked")
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            _write(root, name, after.get(name))
    finally:
        os.close(root)
    return names


def _names(directory: Path) -> Iterator[str]:
    command = ["git", "-C", str(directory), "ls-files", "-co", "--exclude-standard", "-z"]
    with contextlib.suppress(OSError):
        listed = subprocess.run(command, capture_output=True, check=False)
        if listed.returncode == 0:
            yield from sorted({os.fsdecode(name) for name in listed.stdout.split(b"\0") if name})
            return
    for parent, folders, files in os.walk(directory):
        folders[:] = sorted(folder for folder in folders if folder not in _LEFT_OUT)
        for file in sorted(files):
            yield str((Path(parent) / file).relative_to(directory))


def _left_out(name: str) -> bool:
    return bool(_LEFT_OUT & set(name.split("/")))


def _one(name: str, before: File | None, after: File | None) -> list[str]:
    old, new = before.data if before else b"", after.data if after else b""
    try:
        old_text, new_text = old.decode(), new.decode()
    except UnicodeDecodeError:
        old_text = new_text = "\0"
    if "\0" in old_text or "\0" in new_text:
        return [f"binary file {name}: {len(old)} -> {len(new)} bytes"]
    source, target = f"a/{name}" if before else "/dev/null", f"b/{name}" if after else "/dev/null"
    diff = difflib.unified_diff(_lines(old_text), _lines(new_text), source, target, lineterm="")
    lines = [line for entry in diff for line in entry.split("\n")]
    return lines or [
        f"{name}: only its mode or line ends changed" if before and after else f"empty file {name}"
    ]


def _lines(text: str) -> list[str]:
    """Its lines; a last one without an end carries the mark that patch(1) needs."""
    *lines, last = text.split("\n")  # as patch(1) does: a form feed or U+2028 ends no line
    return [*lines, f"{last}\n\\ No newline at end of file"] if last else lines


def _write(root: int, name: str, file: File | None) -> None:
    """Replace or remove one file below `root`, opening each step of the way without following links."""
    *folders, last = name.split("/")
    at = os.dup(root)
    try:
        for folder in folders:
            if file is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=at)
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        with contextlib.suppress(FileNotFoundError):
            os.unlink(last, dir_fd=at)
        if file is not None:
            mode = 0o755 if file.is_executable else 0o644
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(last, flags, mode, dir_fd=at), "wb") as out:
                out.write(file.data)
    finally:
        os.close(at)
