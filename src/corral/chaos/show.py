"""How a run is shown: a moving line on a terminal, a line now and then elsewhere, a table at the end."""

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from corral.chaos.report import Progress, Report

__all__ = ["PlainProgress", "as_json", "line", "summary"]

VIOLATIONS_SHOWN_MAX = 20  # more of the same help nobody; --json has them all
PLAIN_SECONDS = 10.0  # between lines where nobody watches


def line(progress: Progress) -> str:
    """One line of how it stands."""
    points = f", crash points {progress.points_hit}/{progress.points}" if progress.points else ""
    return (
        f"{progress.seconds:6.0f} s  {progress.phase:<9} {progress.sessions} sessions,"
        f" {progress.turns} turns, {progress.kills} kills{points}"
    )


class PlainProgress:
    """Shows a line when the phase changes and every PLAIN_SECONDS; on a terminal, one that moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._phase = ""
        self._shown_at = 0.0

    def __enter__(self) -> Callable[[Progress], None]:
        if self._live is not None:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(Text(line(progress)))
        elif progress.phase != self._phase or progress.seconds - self._shown_at >= PLAIN_SECONDS:
            self._phase, self._shown_at = progress.phase, progress.seconds
            self._console.print(line(progress), highlight=False, soft_wrap=True)


def summary(report: Report, console: Console) -> None:
    """The table, the points, the violations, and how to repeat the run."""
    table = Table(title=f"corral chaos, {report.options.cluster}, seed {report.options.seed}", min_width=60)
    table.add_column("what")
    table.add_column("count", justify="right")
    for kind, count in sorted(report.faults.items()):
        table.add_row(f"fault: {kind}", f"{count:,}")
    rows = {
        "processes killed": report.kills,
        **_points(report),
        "sessions": report.sessions,
        "turns": report.turns,
        "turns given up (retries exhausted)": report.given_up,
        "events": report.events,
        "tool calls": report.calls,
        "tool calls whose outcome is unknown": report.unknown,
        "sends repeated": report.attempts_failed,
        "streams resumed": report.reconnects,
    }
    table.add_section()
    for name, number in rows.items():
        table.add_row(name, f"{number:,}")
    for name, figure in report.figures.items():
        table.add_row(name, f"{figure:,.2f}".removesuffix(".00"))
    if report.turn_seconds:
        table.add_row("turn, median", f"{statistics.median(report.turn_seconds):.2f} s")
        table.add_row("turn, longest", f"{max(report.turn_seconds):.2f} s")
    table.add_row("took", f"{report.seconds:.0f} s")
    table.add_row(f"load of the machine ({os.cpu_count()} cores)", f"{report.load:.1f}")
    table.add_row("memory of the clients and the model", f"{report.memory_bytes / 1e6:,.0f} MB")
    table.add_section()
    style = "green" if report.is_whole else "bold red"
    table.add_row(Text("violations", style=style), Text(f"{len(report.violations):,}", style=style))
    console.print(table)
    for point in report.missed:
        console.print(f"not hit: {point}", highlight=False)
    for point, reason in report.not_here.items():
        console.print(f"not here: {point} ({reason})", highlight=False)
    if report.is_whole or report.schedule_path is None:
        return
    for broken in report.violations[:VIOLATIONS_SHOWN_MAX]:
        sentence = f"{broken.session_id} {broken.detail}".strip()
        console.print(Text(f"VIOLATION {broken.law}: {sentence}", style="red"), soft_wrap=True)
    if (more := len(report.violations) - VIOLATIONS_SHOWN_MAX) > 0:
        console.print(f"... and {more:,} more", highlight=False)
    kept = report.schedule_path.parent
    console.print(
        f"Kept: {kept} (the nodes' logs; SESSION.json has all that is known of one that broke a law)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Again: corral chaos --replay {report.schedule_path}", highlight=False, soft_wrap=True)


def _points(report: Report) -> dict[str, int]:
    if not report.hits:  # they were left out
        return {}
    return {
        "crash points declared": len(report.hits) + len(report.not_here),
        "crash points of this cluster": len(report.hits),
        "crash points hit": len(report.hits) - len(report.missed),
    }


def as_json(report: Report) -> str:
    """Everything, for programs."""
    seconds = sorted(report.turn_seconds)
    data = {
        "is_whole": report.is_whole,
        "options": report.options.to_json(),
        "seconds": round(report.seconds, 1),
        "faults": dict(report.faults),
        "kills": report.kills,
        "crash_points": report.hits,
        "crash_points_not_here": report.not_here,
        "sessions": report.sessions,
        "turns": report.turns,
        "turns_given_up": report.given_up,
        "events": report.events,
        "calls": report.calls,
        "calls_unknown": report.unknown,
        "sends_repeated": report.attempts_failed,
        "streams_resumed": report.reconnects,
        "figures": report.figures,
        "load": report.load,
        "memory_bytes": report.memory_bytes,
        "turn_seconds_median": statistics.median(seconds) if seconds else None,
        "violations": [asdict(broken) for broken in report.violations],
        "schedule": str(report.schedule_path),
    }
    return json.dumps(data, indent=2)
