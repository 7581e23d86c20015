"""What differs between the kinds of sandboxes that this machine can make: the walls. Everything else about
them, `walled.WalledProvider` does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from corral.catalog.sandbox import DEFAULT_BOUNDS, Bounds
from corral.hands.ports import Capabilities
from corral.hands.providers.binary import PythonInside
from corral.hands.providers.layers import Layer
from corral.hands.sandbox import Machine
from corral.kernel.errors import SandboxUnavailable

__all__ = ["Process", "Walls"]


class Process(Machine, Protocol):
    """A program within walls. It gets stdin and stdout; its stderr is theirs, who complain there when they
    cannot be built."""

    def booted(self) -> None:
        """The program has said its first word."""

    async def exit_code(self) -> int:
        """Wait for the end, throwing away what is still printed. Below 0 or above 128: it was killed."""

    def complaint(self) -> str:
        """What was said when the walls could not be built; else ""."""


class Walls(Protocol):
    """One kind of sandbox on this machine."""

    name: str
    capabilities: Capabilities
    python: PythonInside
    """The interpreter inside; known after `set_up`."""
    has_layers: bool
    """Whether packages can be where they were installed, at `catalog.packages.PLACE`."""
    home_mode: int
    """Of the directory of a workspace, which belongs to the host."""
    takes_descriptors: bool
    """Whether a program can be given descriptors; else its way out is a door."""
    has_own_kernel: bool
    """Whether programs run on a kernel of their own. That one knows the agent as root, so the agent makes
    itself an ordinary user with a filter of system calls; and it has sockets of its own, so what goes out
    is carried through the door."""
    can_be_renamed: bool
    """Whether a workspace can be renamed under a sandbox, so that one can be kept warm for a session yet
    unknown."""

    def processes_max(self, bounds: Bounds) -> int:
        """So many processes and threads of its user the rlimits of a new sandbox allow."""

    async def set_up(self) -> None:
        """Find what they are made of, clear away what killed hosts have left. Repeat: safe, and free.
        Raises CannotWork."""

    def owner(self, home: Path) -> int | None:
        """The uid that what the agent may write is to have; None: ours."""

    def seen(self, home: Path, path: str) -> str:
        """What a program inside calls a path of the documented layout, and of AGENT and TMP."""

    async def freshen(self, home: Path) -> None:
        """Before the first program of a sandbox: what an earlier one left and is not kept goes."""

    async def start(
        self,
        home: Path,
        program: Sequence[str],
        memory: Mapping[str, bool],
        layer: Layer | None = None,
        *,
        gives: Sequence[int] = (),
        door: Path | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> Process:
        """Start a program on a workspace that is laid out. memory: the slugs of its memory stores, and
        whether the agent may write there. layer: its packages, where they can be had. gives: descriptors
        that it gets, under the same numbers. door: a directory of the host that it sees at DOOR. Neither
        where it has no loopback of its own (the wall `network`). bounds: of all of it, as far as these
        walls have bounds. Raises SandboxUnavailable."""

    def diagnose(self, complaint: str) -> SandboxUnavailable:
        """What is to be done about a complaint of theirs."""

    def absent(self) -> Sequence[Path]:
        """Paths of the host that must not be visible inside; what must not open if names can be told."""

    def description(self) -> tuple[str, str]:
        """What they are made of: for anybody, and for whoever owns the machine."""

    def close(self) -> None:
        """Every process has ended. Repeat: safe."""
