"""What the files of a skill may be called: one directory with SKILL.md, names that are safe anywhere."""

import re
import unicodedata
from typing import Final

from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    SKILL_FILES_MAX,
    SKILL_PATH_BYTES_MAX,
    SKILL_PATH_PART_BYTES_MAX,
    SKILL_PATH_PARTS_MAX,
)

__all__ = ["SKILL_MD", "Layout", "is_junk", "refusal"]

SKILL_MD: Final = "SKILL.md"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARS = 120


def refusal(path: str, problem: str) -> InvalidRequest:
    """`problem` follows the path."""
    shown = path if len(path) <= _SHOWN_CHARS else f"{path[:_SHOWN_CHARS]}..."
    return InvalidRequest(f"files: {shown!r} {problem}")


def is_junk(path: str) -> bool:
    """What macOS adds to directories and archives by itself; left out, never refused."""
    return path.startswith("__MACOSX/") or path.rpartition("/")[2] == ".DS_Store"


class Layout:
    """The files of one upload, added by name as they come."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}  # of each file and of each directory above one
        self._spelled: dict[str, str] = {}  # as they were first written, by what file systems may confuse
        self._files = 0

    def add(self, path: str) -> None:
        """One more file. Raises InvalidRequest."""
        _check(path)
        self._files += 1
        if self._files > SKILL_FILES_MAX:
            raise InvalidRequest(f"files: a skill has at most {SKILL_FILES_MAX} files")
        parts = path.split("/")
        for count in range(1, len(parts)):
            self._place("/".join(parts[:count]), "directory", path)
        if path in self._kinds:
            what = "is there twice" if self._kinds[path] == "file" else "is also a directory"
            raise refusal(path, what)
        self._place(path, "file", path)

    def directory(self) -> str:
        """The one directory that all files are in. Raises InvalidRequest, also without a SKILL.md there."""
        files = [path for path, kind in self._kinds.items() if kind == "file"]
        if not files:
            raise InvalidRequest(f"files: send the files of the skill, {SKILL_MD} among them")
        outside = next((path for path in files if "/" not in path), None)
        if outside is not None:
            raise refusal(
                outside,
                f"is not in a directory; put {SKILL_MD} and all else into one, as in 'my-skill/{SKILL_MD}'",
            )
        first = files[0].partition("/")[0]
        other = next((path for path in files if not path.startswith(f"{first}/")), None)
        if other is not None:
            raise refusal(other, f"is not in {first!r}: all files must be in one top-level directory")
        if self._kinds.get(f"{first}/{SKILL_MD}") != "file":
            near = next((path for path in files if path.lower().endswith("/skill.md")), None)
            hint = f"; there is {near!r}" if near else ""
            raise InvalidRequest(f"files: there is no '{first}/{SKILL_MD}'{hint}")
        return first

    def _place(self, path: str, kind: str, given: str) -> None:
        if self._kinds.setdefault(path, kind) != kind:
            raise refusal(given, f"needs {path!r} as a directory, which is a file")
        confused = unicodedata.normalize("NFC", path).casefold()
        spelled = self._spelled.setdefault(confused, path)
        if spelled != path:
            raise refusal(given, f"cannot be told from {spelled!r} where upper and lower case are the same")


def _check(path: str) -> None:
    """Raises InvalidRequest for a name that is unsafe or that some file system does not have."""
    if not path:
        raise InvalidRequest("files: a file has no name; give it a path such as 'my-skill/SKILL.md'")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise refusal(path, "is not valid UTF-8") from None
    if _CONTROL.search(path):
        raise refusal(path, "has a control character in its name")
    if "\\" in path:
        raise refusal(path, "has a backslash in its name; directories are separated by '/'")
    if path.startswith("/") or _DRIVE.match(path):
        raise refusal(path, "is an absolute path")
    parts = path.split("/")
    if any(part in ("..", ".", "") for part in parts):
        raise refusal(path, "must not contain '..', '.' or an empty part")
    if size > SKILL_PATH_BYTES_MAX or any(len(part.encode()) > SKILL_PATH_PART_BYTES_MAX for part in parts):
        raise refusal(
            path,
            f"is too long: at most {SKILL_PATH_BYTES_MAX} bytes, and {SKILL_PATH_PART_BYTES_MAX} for each"
            " part",
        )
    if len(parts) > SKILL_PATH_PARTS_MAX:
        raise refusal(path, f"is too deep: at most {SKILL_PATH_PARTS_MAX} parts")
