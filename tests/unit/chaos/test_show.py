"""What a user sees of a run: whether it was whole, and if not, how to look further."""

import io
from pathlib import Path

from rich.console import Console

from corral.chaos.report import Options, Progress, Report
from corral.chaos.show import VIOLATIONS_SHOWN_MAX, PlainProgress, line, summary


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=80)
    summary(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_says_how_many_points_were_passed() -> None:
    report = Report(
        options=Options(seed=7), kills=12, hits={"a": 1, "b": 0}, not_here={"c": "no such role"}
    )
    text = " ".join(shown(report).replace("│", " ").split())
    assert "seed 7" in text and "processes killed 12" in text and "violations 0" in text
    assert "points declared 3" in text and "of this cluster 2" in text and "points hit 1" in text
    assert "not hit: b" in text and "not here: c (no such role)" in text and "Again" not in text
    assert "crash points" not in shown(Report(options=Options(crash_points=False)))


def test_a_violation_says_what_where_and_how_to_repeat_it() -> None:
    schedule = Path("/tmp/chaos-of-some-length-so-that-it-does-not-fit/into-a-line/chaos-7.json")
    report = Report(options=Options(seed=7), schedule_path=schedule)
    for number in range(VIOLATIONS_SHOWN_MAX + 1):
        report.broken("no call runs twice", f"the call {number} ran 2 times", session_id="sesn_1")
    report.broken("nothing is left behind", "process 1 still runs")
    text = shown(report)
    assert "VIOLATION no call runs twice: sesn_1 the call 0 ran 2 times\n" in text
    assert "... and 2 more\n" in text
    assert f"Kept: {schedule.parent} (" in text and f"corral chaos --replay {schedule}\n" in text


def test_progress_is_a_line_when_the_phase_changes_and_now_and_then() -> None:
    console = Console(file=io.StringIO(), width=80)
    with PlainProgress(console) as show:
        for seconds, phase in ((0.0, "starting"), (1.0, "breaking"), (5.0, "breaking"), (12.0, "breaking")):
            show(Progress(phase=phase, seconds=seconds, points=29))
    assert isinstance(console.file, io.StringIO)
    assert [each.split()[0] for each in console.file.getvalue().splitlines()] == ["0", "1", "12"]
    assert line(Progress(phase="covering", points_hit=3, points=29)).endswith("crash points 3/29")
