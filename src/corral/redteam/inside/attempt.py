"""An attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.redteam.inside.box import Box


@dataclass(frozen=True)
class Attempt:
    """name:       unique within its group.
    title:      what it tries, after "it".
    tries:      raises one of `ends`, or OSError; what it returns is ignored. Without a word, only
                a canary that it came across counts.
    wall:       of `hands.ports.WALLS`: what stands against it. A gap that is declared there excuses it.
    excuse:     a limit that the documentation names, because of which it may work.
    is_of_kernel: what it gets is the kernel's; a sandbox with a kernel of its own keeps that to itself.
    networking: of the session that it is tried in: limited to a few hosts, or unrestricted.
    watches:    what outside would show that it worked (`redteam.outside`).
    ends:       it may end its sandbox: it is tried last, in one of its own.
    dies:       that its process is killed is what is to happen.
    """

    name: str
    title: str
    tries: Callable[[Box], object]
    wall: str = ""
    is_of_kernel: bool = False
    networking: str = "limited"
    watches: tuple[str, ...] = ()
    ends: bool = False
    dies: bool = False
    seconds: float = 8.0
    excuse: str = ""
