"""What is broken, when: an endless list of faults for each lane, from the seed or from a file.

A lane is a node, or the database. Its faults come one after another; lanes go side by side. A fault begins
`after` so many seconds since the one before it in its lane was over (all came up again), so a schedule
means the same on a slow machine: only the clock of the wall is not repeated.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from corral.cluster.node import NodeRole
from corral.kernel.crash import POINTS

__all__ = [
    "DATABASE", "KINDS", "Fault", "Kind", "Lane", "points_of", "process_of", "read_schedule", "role_of",
    "write_schedule",
]  # fmt: skip

Kind = Literal[
    "crash-point", "kill-server", "kill-hands", "kill-egress", "kill-all", "end-server", "end-all",
    "pause-server", "pause-hands", "lose-hints", "repeat-hints", "step-clock", "cut-connections",
    "freeze-connections", "partition", "fill-disk", "kill-database", "evict",
]  # fmt: skip
KINDS: Final[Mapping[Kind, str]] = {
    "crash-point": "a process kills itself at a named point of the code",
    "kill-server": "SIGKILL of a node's server (API, brain, or both)",
    "kill-hands": "SIGKILL of a node's hands, sandboxes included",
    "kill-egress": "SIGKILL of a node's egress",
    "kill-all": "SIGKILL of a node's supervisor, then a new `corral serve`, which adopts the hands",
    "end-server": "SIGTERM of a node's server: it drains",
    "end-all": "SIGTERM of a whole node, then a new start",
    "pause-server": "SIGSTOP of a node's server past its leases, then SIGCONT",
    "pause-hands": "SIGSTOP of a node's hands for some seconds, then SIGCONT",
    "lose-hints": "most wake-ups and live messages of a node are lost for some seconds",
    "repeat-hints": "most of them arrive twice",
    "step-clock": "a node's wall clock is minutes off for some seconds",
    "cut-connections": "a node's connections to the database are reset",
    "freeze-connections": "they go silent for some seconds, open but dead",
    "partition": "a node is cut off from the database, other hands and the model for some seconds",
    "fill-disk": "no byte is free for some seconds on the disk of a node",
    "kill-database": "SIGKILL of PostgreSQL, then a new start",
    "evict": "workspaces of some sessions leave their host, as by `corral sandboxes evict`",
}
"""Every kind of fault, and what it does."""
assert tuple(KINDS) == get_args(Kind)

SHARED_ONLY: Final = frozenset(
    {
        "checkpoint.before",
        "checkpoint.after",
        "restore.before",
        "restore.after",
        "hands.evict",
        "hands.drain",
    }
)
"""Points that one node alone never passes: its workspaces stay where they are."""
DATABASE: Final = "database"  # the lane of what belongs to no node
DEATHS_MAX: Final = 3  # of a process under one supervisor, which waits ever longer before the next start
_WEIGHTS: Final[Mapping[Kind, float]] = {
    "crash-point": 40, "kill-server": 14, "kill-hands": 12, "kill-egress": 2, "kill-all": 8,
    "end-server": 4, "end-all": 2, "pause-server": 1.5, "pause-hands": 3, "lose-hints": 3,
    "repeat-hints": 2, "step-clock": 2, "cut-connections": 6, "freeze-connections": 2,
    "partition": 20, "fill-disk": 20, "kill-database": 1, "evict": 8,
}  # fmt: skip
_SECONDS: Final[Mapping[Kind, tuple[float, float]]] = {
    "pause-server": (10.5, 14.0), "pause-hands": (0.5, 4.0), "lose-hints": (3.0, 8.0),
    "repeat-hints": (3.0, 8.0), "step-clock": (2.0, 8.0), "freeze-connections": (2.0, 12.0),
    "partition": (8.0, 16.0), "fill-disk": (2.0, 5.0),
}  # fmt: skip
_SERVER: Final[frozenset[NodeRole]] = frozenset({"api", "brain"})
_NEEDS: Final[Mapping[Kind, frozenset[NodeRole]]] = {
    "kill-server": _SERVER, "end-server": _SERVER, "pause-server": _SERVER,
    "kill-hands": frozenset({"hands"}), "pause-hands": frozenset({"hands"}),
    "kill-egress": frozenset({"egress"}),
    "lose-hints": _SERVER, "repeat-hints": _SERVER, "step-clock": _SERVER,
    "cut-connections": _SERVER, "freeze-connections": _SERVER,
    "partition": frozenset({"brain", "hands"}), "evict": frozenset({"api"}),
}  # fmt: skip
_KILLS: Final[Mapping[Kind, str]] = {
    "kill-server": "server", "end-server": "server", "kill-hands": "hands", "kill-egress": "egress",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that goes wrong. `point`: of a crash-point; `seconds`: how long what lasts lasts."""

    lane: str
    after: float
    kind: Kind
    point: str = ""
    seconds: float = 0.0


def role_of(point: str) -> NodeRole:
    """Whose process passes a crash point."""
    family = point.rpartition(".")[0]
    if family in ("hands", "restore", "checkpoint", "outputs"):
        return "hands"
    return "api" if family in ("store.accept", "store.keyed") else "brain"


def process_of(point: str) -> str:
    """The process of such a node that passes it: checkpoints and files of
    outputs are made by the server beside the hands."""
    return "hands" if point.startswith(("hands.", "restore.")) else "server"


def points_of(roles: Sequence[NodeRole], *, shares: bool) -> list[str]:
    """The crash points that a node with these roles can pass; `shares`: it has a database with others."""
    passed = POINTS.keys() - (frozenset() if shares else SHARED_ONLY)
    return [point for point in POINTS if role_of(point) in roles and point in passed]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One lane's faults. `kinds`: those allowed, of which only what this lane can have is chosen;
    `gap_seconds`: the mean between two."""

    name: str
    seed: int
    kinds: Sequence[Kind]
    roles: Sequence[NodeRole] = ()
    points: Sequence[str] = ()
    gap_seconds: float = 0.4

    def faults(self) -> Iterator[Fault]:
        """Without end, unless there is nothing to break."""
        choice = random.Random(f"{self.seed}/{self.name}")
        kinds = [kind for kind in self.kinds if self._can(kind)]
        deaths: Counter[str] = Counter()
        points: list[str] = []
        while kinds:
            kind = choice.choices(kinds, [_WEIGHTS[each] for each in kinds])[0]
            if "kill-all" in kinds and max(deaths.values(), default=0) >= DEATHS_MAX:
                kind = "kill-all"  # so that the next death is not waited for
            point, role = "", _KILLS.get(kind, "")
            if kind == "crash-point":
                points = points or choice.sample(self.points, len(self.points))
                point = points.pop()
                role = process_of(point)
            if kind in ("kill-all", "end-all"):
                deaths.clear()
            elif role:
                deaths[role] += 1
            yield Fault(
                lane=self.name,
                after=round(min(choice.expovariate(1 / self.gap_seconds), 4 * self.gap_seconds), 3),
                kind=kind,
                point=point,
                seconds=round(choice.uniform(*_SECONDS.get(kind, (0.0, 0.0))), 2),
            )

    def _can(self, kind: Kind) -> bool:
        if (kind == "kill-database") != (self.name == DATABASE):
            return False
        if kind == "crash-point":
            return bool(self.points)
        return bool(_NEEDS.get(kind, frozenset(self.roles)) & set(self.roles)) or self.name == DATABASE


def write_schedule(path: Path, *, options: Mapping[str, object], faults: Sequence[Fault]) -> None:
    """What was done, in the order that it began, so that it can be done again."""
    data = {"options": options, "faults": [asdict(fault) for fault in faults]}
    path.write_text(json.dumps(data, indent=1) + "\n")


def read_schedule(path: Path) -> tuple[Mapping[str, object], Sequence[Fault]]:
    """Inverse of `write_schedule`. Raises ValueError: not such a file."""
    try:
        data = json.loads(path.read_text())
        return data["options"], [Fault(**fault) for fault in data["faults"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a schedule of `corral chaos`") from error
