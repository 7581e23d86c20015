"""A report on a terminal: a table for each provider, and a line for each attempt that was not held."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from corral.redteam.report import Report

__all__ = ["summary"]


def summary(reports: Sequence[Report], console: Console) -> None:
    for report in reports:
        if report.problem:
            console.print(
                f"{report.kind}: no attempt was made: {report.problem}", highlight=False, soft_wrap=True
            )
            continue
        _table(report, console)
        for finding in report.findings:
            if finding.verdict != "held":
                style = "bold red" if finding.verdict == "escaped" else "yellow"
                word = {"escaped": "ESCAPED", "gap": "gap", "untried": "not tried"}[finding.verdict]
                line = Text(f"{word:>9}  ", style=style)
                line += Text(f"{finding.name}: it {finding.title}: {finding.why}")
                console.print(line, soft_wrap=True, highlight=False)
        for what, where in report.hits:
            console.print(Text(f"   LEAKED  {what} was found in {where}", style="bold red"), soft_wrap=True)
        for where, why in report.unsearched.items():
            console.print(f"  nothing was searched in {where}: {why}", highlight=False, soft_wrap=True)


def _table(report: Report, console: Console) -> None:
    table = Table(title=f"corral redteam, {report.kind}: {report.isolation}", min_width=60)
    for heading in ("group", "attempts", "held", "gap", "not tried", "escaped"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    total = {"held": 0, "gap": 0, "untried": 0, "escaped": 0}
    for group, counts in report.counts().items():
        for verdict in total:
            total[verdict] += counts[verdict]
        table.add_row(group, str(counts.total()), *(_cell(verdict, counts[verdict]) for verdict in total))
    table.add_section()
    table.add_row("all", str(sum(total.values())), *(_cell(*item) for item in total.items()))
    console.print(table)
    console.print(
        f"{report.canaries} secrets were planted; {report.searches:,} searches in "
        f"{report.searched_bytes / 1e6:,.0f} MB: {len(report.hits)} hits. {report.seconds:.0f} s.",
        highlight=False,
        soft_wrap=True,
    )


def _cell(verdict: str, number: int) -> Text:
    is_bad = verdict == "escaped" and number
    return Text(str(number), style="bold red" if is_bad else "dim" if not number else "")
