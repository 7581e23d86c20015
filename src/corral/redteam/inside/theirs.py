"""Processes outside, which may have the numbers of others in here."""

from __future__ import annotations

import os

from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Held


def require_theirs(box: Box, name: str) -> None:
    """That what has this number in here is the process outside. Raises OSError (there is none), Held."""
    with open(f"/proc/{box[f'{name}_pid']}/stat", encoding="utf-8", errors="replace") as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    if started != box[f"{name}_started"]:
        raise Held("what has this number in here is another process")


def pid_of(box: Box, whom: str) -> int:
    """Raises OSError, Held: who has that number is somebody else."""
    if whom == "agent":
        return box.agent_pid
    if whom == "shell":
        return os.getppid()
    require_theirs(box, whom)
    return int(box[f"{whom}_pid"])
