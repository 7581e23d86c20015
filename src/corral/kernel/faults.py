"""Faults: what a test makes go wrong in a real process, to prove that it costs time and nothing else.

Every fault is declared in FAULTS, so that `corral chaos` can enumerate them. `CORRAL_FAULTS=bus.drop=0.3,
bus.duplicate=0.1` switches some on for the whole life of a process; `CORRAL_FAULTS=@FILE` reads the same
from FILE, which may be written, changed and removed at any time. Without the variable a fault costs one
comparison.
"""

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["FAULTS", "copies", "fault"]

FAULTS: Final[Mapping[str, str]] = {
    "bus.drop": "probability that a hint (a message or a wake) does not reach this process's readers",
    "bus.duplicate": "probability that a hint reaches them twice",
    "clock.step": "seconds by which this process's wall clock is off; it steps when this changes",
}
"""What the number after each name means."""

_LOOK_SECONDS = 0.01  # how long a FILE that was read is believed

_asked = os.environ.get("CORRAL_FAULTS", "")
_file = Path(_asked[1:]) if _asked.startswith("@") else None


def parse(text: str) -> dict[str, float]:
    """`name=number,...` Raises ValueError: a fault that is not declared, or no number."""
    faults: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if name not in FAULTS:
            raise ValueError(f"CORRAL_FAULTS: {name!r} is not one of {', '.join(FAULTS)}")
        faults[name] = float(number)
    return faults


_faults: dict[str, float] = parse(_asked) if _file is None else {}
_read_at = -_LOOK_SECONDS


def fault(name: str) -> float:
    """The number that a test gave this fault; 0 if it is off."""
    if not _asked:
        return 0.0
    assert name in FAULTS, f"{name!r} is not declared in FAULTS"
    if _file is not None:
        _look(_file)
    return _faults.get(name, 0.0)


def copies() -> int:
    """How often a hint arrives: once, unless a test wants it lost or repeated."""
    if not _asked:
        return 1
    if random.random() < fault("bus.drop"):
        return 0
    return 2 if random.random() < fault("bus.duplicate") else 1


def _look(file: Path) -> None:
    global _faults, _read_at
    now = time.monotonic()
    if now - _read_at < _LOOK_SECONDS:
        return
    _read_at = now
    try:
        _faults = parse(file.read_text())
    except FileNotFoundError:
        _faults = {}
