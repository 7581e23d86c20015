"""read, write, edit. Semantics and wording: `anthropic.lib.tools.agent_toolset`, its path policy too.

The path policy is the reference's contract with the model, not our isolation: that is the sandbox.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from pathlib import Path
from typing import Any

from .wire import Limits, Place, ToolFailed

_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
}
_LINK_HOPS_MAX = 40
_CHUNK_BYTES = 64 * 1024


def reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    if isinstance(error, NotADirectoryError):
        return "not a directory"
    if isinstance(error, IsADirectoryError):
        return "is a directory"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileExistsError):
        return "file already exists"
    if error.errno == errno.ELOOP:
        return "too many levels of symbolic links"
    return (error.strerror or "i/o error").lower()


def canonical(path: str) -> Path:
    """`path` with `..` collapsed as text and then every link followed; missing parts stay as spelled."""
    loop = OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    missing: list[str] = []
    prefix, hops = os.path.normpath(path), 0
    while True:
        try:
            return Path(prefix).resolve(strict=True).joinpath(*reversed(missing))
        except RuntimeError:  # how Python before 3.13 reports a loop
            raise loop from None
        except (FileNotFoundError, NotADirectoryError) as e:
            unresolved = e
        try:
            is_link = stat.S_ISLNK(os.lstat(prefix).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            parent, name = os.path.split(prefix)
            if parent == prefix:
                raise
            missing.append(name)
            prefix = parent
            continue
        if not is_link:
            raise unresolved
        hops += 1
        if hops > _LINK_HOPS_MAX:
            raise loop
        real_parent = os.path.realpath(os.path.dirname(prefix))
        prefix = os.path.normpath(os.path.join(real_parent, os.readlink(prefix), *reversed(missing)))
        missing.clear()


def is_within(path: Path, root: Path) -> bool:
    return path.parts[: len(root.parts)] == root.parts


def resolve(place: Place, path: str) -> Path:
    """The real path of `path`, or ValueError when it lies outside the permitted directories."""
    root = Path(place.workdir).resolve()
    try:
        full = canonical(place.real(path) if os.path.isabs(path) else str(root / path))
    except OSError as e:
        raise ValueError(f"path {path!r}: {reason(e)}") from e
    if any(is_within(full, Path(r).resolve()) for r in (str(root), *place.roots)):
        return full
    raise ValueError(
        f"path {path!r} is outside the session's working directory and its other permitted directories"
    )


def target_of(place: Place, tool: str, path: str) -> Path:
    try:
        return resolve(place, path)
    except ValueError as e:
        raise ToolFailed(f"{tool}: {e}") from e


def read(place: Place, file_path: str, view_range: list[int] | None = None) -> str | list[dict[str, Any]]:
    target = target_of(place, "read", file_path)
    if view_range and len(view_range) != 2:
        raise ToolFailed("read: view_range must be [start_line, end_line]")
    limit = place.limits.read_bytes
    try:
        status = target.stat()  # before open(): a FIFO would block, a huge file would not fit
        if not stat.S_ISREG(status.st_mode):
            raise ToolFailed(f"read: {file_path}: not a regular file")
        media_type = _MEDIA_TYPES.get(target.suffix.lower())
        if media_type:
            if view_range:
                raise ToolFailed("read: view_range is not supported for image/PDF files")
            return [_media_block(target, file_path, status.st_size, media_type, place.limits)]
        if status.st_size > limit:
            if not view_range:
                raise ToolFailed(
                    f"read: {file_path} is {status.st_size} bytes, exceeds {limit}-byte limit. Use the "
                    "view_range parameter to read specific line ranges, e.g. view_range: [1, 500]."
                )
            return _read_range(target, file_path, view_range[0], view_range[1], limit)
        text = target.read_bytes().decode("utf-8")
    except UnicodeDecodeError as e:
        raise ToolFailed(
            f"read: {file_path}: not valid UTF-8 text "
            "(binary files are only supported for image/PDF extensions)"
        ) from e
    except OSError as e:
        raise ToolFailed(f"read: {file_path}: {reason(e)}") from e
    if not view_range:
        return text
    lines = text.split("\n")
    first, last = view_range
    return "\n".join(lines[max(0, first - 1) : last if last > 0 else len(lines)])


def _media_block(
    target: Path, file_path: str, size: int, media_type: str, limits: Limits
) -> dict[str, Any]:
    is_pdf = media_type == "application/pdf"
    limit = limits.pdf_bytes if is_pdf else limits.image_base64_bytes // 4 * 3
    if size > limit:
        raise ToolFailed(
            f"read: {file_path} is {size} bytes, exceeds {limit}-byte limit for image/PDF files."
        )
    data = base64.standard_b64encode(target.read_bytes()).decode("ascii")
    return {
        "type": "document" if is_pdf else "image",
        "source": {"type": "base64", "media_type": media_type, "data": data},
    }


def _read_range(target: Path, file_path: str, first: int, last: int, limit: int) -> str:
    """Lines first..last of a file too big to load, the selected bytes capped at `limit`."""
    start, end = max(0, first - 1), last if last > 0 else None
    if end is not None and end <= start:
        return ""
    picked, line = bytearray(), 0
    with target.open("rb") as f:
        while chunk := f.read(_CHUNK_BYTES):
            position = 0
            while position < len(chunk) and (end is None or line < end):
                newline = chunk.find(b"\n", position)
                stop = len(chunk) if newline < 0 else newline
                if line >= start:
                    picked += chunk[position:stop]
                    if newline >= 0 and (end is None or line + 1 < end):
                        picked += b"\n"
                    if len(picked) > limit:
                        raise ToolFailed(_over_limit(file_path, first, last, start, end, limit))
                if newline < 0:
                    break
                line, position = line + 1, newline + 1
            if end is not None and line >= end:
                break
    return picked.decode("utf-8")


def _over_limit(file_path: str, first: int, last: int, start: int, end: int | None, limit: int) -> str:
    if end is not None and end - start == 1:
        return (
            f"read: line {start + 1} of {file_path} alone exceeds {limit}-byte limit. The read tool cannot "
            "return part of a line, so view_range cannot narrow this further."
        )
    return (
        f"read: view_range [{first}, {last}] of {file_path} exceeds {limit}-byte limit. "
        "Narrow the view_range to read a smaller portion."
    )


def write(place: Place, file_path: str, content: str) -> str:
    target = target_of(place, "write", file_path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode("utf-8"))
    except OSError as e:
        raise ToolFailed(f"write: {file_path}: {reason(e)}") from e
    return f"wrote {len(content)} bytes to {file_path}"  # characters, in truth; the reference's words


def edit(
    place: Place, file_path: str, old_string: str, new_string: str, replace_all: bool | None = None
) -> str:
    target = target_of(place, "edit", file_path)
    limit = place.limits.read_bytes
    try:
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ToolFailed(f"edit: {file_path}: not a regular file")
        if status.st_size > limit:
            raise ToolFailed(
                f"edit: {file_path} is {status.st_size} bytes, exceeds {limit}-byte limit. "
                "The edit tool loads the whole file and cannot modify a file this large."
            )
        text = target.read_bytes().decode("utf-8")
    except UnicodeDecodeError as e:
        raise ToolFailed(f"edit: {file_path}: not valid UTF-8 text (cannot edit binary files)") from e
    except OSError as e:
        raise ToolFailed(f"edit: {file_path}: {reason(e)}") from e
    count = text.count(old_string)
    if count == 0:
        raise ToolFailed(f"edit: old_string not found in {file_path}")
    if count > 1 and not replace_all:
        raise ToolFailed(f"edit: old_string appears {count} times in {file_path} (must be unique)")
    try:
        target.write_bytes(text.replace(old_string, new_string, -1 if replace_all else 1).encode("utf-8"))
    except OSError as e:
        raise ToolFailed(f"edit: {file_path}: {reason(e)}") from e
    return f"edited {file_path} ({count if replace_all else 1} replacement(s))"
