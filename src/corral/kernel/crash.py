"""Crash points: named places where a test may kill the process, to prove that nothing is lost there.

`CORRAL_CRASH_AT=name` makes the process SIGKILL itself the first time it passes `crash_point(name)`;
`name:3` the third time. `CORRAL_CRASH_AT=@FILE` reads the same from FILE, written at any time, and removes
FILE before the process dies, so that what is started in its place lives. Without the variable a point costs
one comparison.
"""

import os
import signal
from pathlib import Path

_asked = os.environ.get("CORRAL_CRASH_AT", "")
_file = Path(_asked[1:]) if _asked.startswith("@") else None
_passed: dict[str, int] = {}  # how often since it was asked for


def crash_point(name: str) -> None:
    """Die here, as hard as a power cut of this process, if the environment asks for it."""
    if not _asked:
        return
    asked = _asked if _file is None else _read(_file)
    target, _, count = asked.partition(":")
    if name != target:
        return
    _passed[asked] = _passed.get(asked, 0) + 1
    if _passed[asked] >= int(count or 1):
        if _file is not None:
            _file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
