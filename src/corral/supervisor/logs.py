"""Log files of the processes that outlive the supervisor, shown as they grow."""

import contextlib
import os
from pathlib import Path
from typing import Final, TextIO

from corral.kernel.limits import LOG_FILE_BYTES_MAX
from corral.supervisor.files import opened

__all__ = ["LogFile"]

_APPENDED: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class LogFile:
    """Standard error of a process that outlives us: in a file, so that no pipe of ours can break under
    it, and shown here as it grows."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path = path
        self._shown = path.stat().st_size if path.exists() else 0

    def open(self) -> int:
        try:
            fd = opened(self._path, _APPENDED)
        except OSError:  # something else is there: a pipe, say, whose end would be waited for
            self._path.unlink(missing_ok=True)
            fd = opened(self._path, _APPENDED)
        if os.fstat(fd).st_size > LOG_FILE_BYTES_MAX:
            os.ftruncate(fd, 0)
            self._shown = 0
        return fd

    def show(self, to: TextIO) -> None:
        """Copy whole new lines."""
        with contextlib.suppress(OSError), os.fdopen(opened(self._path, os.O_RDONLY), "rb") as file:
            file.seek(self._shown)
            lines, newline, _ = file.read(1024 * 1024).rpartition(b"\n")
            if newline:
                self._shown += len(lines) + 1
                to.write(lines.decode(errors="replace") + "\n")
                to.flush()
