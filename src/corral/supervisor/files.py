"""Files in places that another user may fill: nothing there keeps the supervisor waiting."""

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["opened", "read"]

_AT_ONCE: Final = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # also of a pipe that nobody writes to


def opened(path: Path, flags: int) -> int:
    """Its descriptor; made with mode 0600 if `flags` has O_CREAT. Raises OSError, also for what is no
    regular file."""
    descriptor = os.open(path, flags | _AT_ONCE, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file")
    return descriptor


def read(path: Path, bytes_max: int) -> bytes:
    """As much of it. Raises OSError likewise."""
    descriptor = opened(path, os.O_RDONLY)
    try:
        return os.read(descriptor, bytes_max)
    finally:
        os.close(descriptor)
