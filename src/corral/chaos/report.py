"""A run as data: what it is asked for, how far it is, and what came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corral.chaos import plan
from corral.chaos.cluster import ClusterKind
from corral.chaos.laws import Broken
from corral.chaos.schedule import KINDS, Fault, Kind

__all__ = ["Options", "Progress", "Report"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked for. Faults end after `seconds`, or once there were `kills`, if that is given."""

    cluster: ClusterKind = "local"
    seconds: float = 120.0
    kills: int | None = None
    sessions: int = 12
    seed: int = 0
    faults: Sequence[Kind] = tuple(KINDS)
    turns: Sequence[plan.Kind] = plan.KINDS
    crash_points: bool = True
    database_url: str | None = None
    has_small_disk: bool = False  # of the one node, so that it can be filled
    has_network: bool = False  # of its own, with a cable to each machine that can be pulled
    scenario: str | None = None  # of `scenarios`, `kills` times, instead of a schedule
    schedule: Sequence[Fault] | None = None  # of an earlier run; None: from the seed

    def to_json(self) -> dict[str, object]:
        data = asdict(self)
        del data["schedule"], data["database_url"]
        return data


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; for whoever shows it."""

    phase: str
    seconds: float = 0.0  # since its begin
    kills: int = 0
    turns: int = 0
    sessions: int = 0
    points_hit: int = 0  # crash points
    points: int = 0


@dataclass(kw_only=True)
class Report:
    """What came of it. `is_whole` is the answer."""

    options: Options
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    hits: dict[str, int] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)  # crash points that cannot be hit, and why
    kills: int = 0
    sessions: int = 0
    turns: int = 0
    calls: int = 0
    unknown: int = 0  # calls whose outcome nobody knows, as they say
    given_up: int = 0  # turns that ended with retries_exhausted
    events: int = 0
    attempts_failed: int = 0
    reconnects: int = 0
    turn_seconds: Sequence[float] = ()
    figures: dict[str, float] = field(default_factory=dict)  # of a scenario
    load: float = 0.0  # of the machine at the end, as `uptime` says it: times mean nothing without it
    memory_bytes: int = 0  # of this process at most
    violations: list[Broken] = field(default_factory=list)
    schedule_path: Path | None = None  # beside it: all that was kept of the run

    def broken(self, law: str, detail: str, *, session_id: str = "") -> None:
        """Add a violation; without a session if it is the whole cluster's."""
        self.violations.append(Broken(law=law, session_id=session_id, detail=detail))

    @property
    def is_whole(self) -> bool:
        return not self.violations

    @property
    def missed(self) -> list[str]:
        return [point for point, count in self.hits.items() if not count]
