"""A measured figure, its bar, and how both are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

FSYNC_FREE_MS = 0.2  # what a commit's fsync may cost before the disk, not the code, is to blame


@dataclass(frozen=True, kw_only=True)
class Bar:
    """`at_most` or `at_least` this limit, in the unit of the value."""

    kind: Literal["at_most", "at_least"]
    limit: float

    def is_met_by(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at_most" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.kind == 'at_most' else '≥'} {self.limit:g}"


def at_most(limit: float) -> Bar:
    return Bar(kind="at_most", limit=limit)


def at_least(limit: float) -> Bar:
    return Bar(kind="at_least", limit=limit)


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number as measured. `judged` is what is compared with the bar: see `latency`."""

    name: str
    measured: float
    unit: str
    judged: float
    bar: Bar | None = None

    @property
    def is_met(self) -> bool | None:
        return None if self.bar is None else self.bar.is_met_by(self.judged)


def value(name: str, measured: float, unit: str, bar: Bar | None = None) -> Value:
    return Value(name=name, measured=measured, unit=unit, judged=measured, bar=bar)


def latency(name: str, seconds: float, bar: Bar | None = None, *, commits: int, fsync_ms: float) -> Value:
    """A latency with `commits` fsyncs on its path, judged as on a disk whose fsync takes 0.2 ms."""
    ms = seconds * 1000
    excess = commits * max(0.0, fsync_ms - FSYNC_FREE_MS)
    return Value(name=name, measured=ms, unit="ms", judged=max(0.0, ms - excess), bar=bar)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one row says. `fsync_ms` is the p50 of the same run; `notes` say what is not in the numbers."""

    title: str
    values: Sequence[Value]
    fsync_ms: float | None = None
    commits: int = 0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def is_met(self) -> bool:
        return all(each.is_met is not False for each in self.values)

    def to_json(self) -> dict[str, object]:
        data = asdict(self)
        data["values"] = [asdict(each) | {"is_met": each.is_met} for each in self.values]
        return data


def show(figure: Figure) -> str:
    """Lines of text: the title, one line per value, then fsync and notes."""
    lines = [figure.title]
    for each in figure.values:
        line = f"    {each.name:<46}{each.measured:>10,.1f} {each.unit:<9}"
        if abs(each.judged - each.measured) >= 0.05:
            line += f" judged {each.judged:,.1f}"
        if each.bar is not None:
            line += f"  {each.bar} {'pass' if each.is_met else 'MISS'}"
        lines.append(line.rstrip())
    if figure.fsync_ms is not None:
        on_path = f", {figure.commits} commits on the path" if figure.commits else ""
        lines.append(f"    fsync p50 {figure.fsync_ms:.2f} ms in this run{on_path}")
    lines += [f"    {note}" for note in figure.notes]
    return "\n".join(lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank. `values` need not be sorted; at least one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def totals(figures: Sequence[Figure]) -> Mapping[str, int]:
    verdicts = [each.is_met for figure in figures for each in figure.values if each.bar is not None]
    return {"pass": verdicts.count(True), "miss": verdicts.count(False)}
