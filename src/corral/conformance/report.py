"""What came of a run: a table by group, and JUnit for machines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree  # only writes

from rich.console import Console
from rich.table import Table

from corral.conformance.case import Case
from corral.conformance.run import Outcome
from corral.conformance.surface import SURFACE

__all__ = ["covered", "print_report", "write_junit"]


def covered(cases: Sequence[Case]) -> Mapping[str, Sequence[str]]:
    """The names of the cases that cover each endpoint of the surface, by its name; [] for none."""
    found: dict[str, list[str]] = {endpoint.name: [] for endpoint in SURFACE}
    for case in cases:
        for name in case.covers:
            found[name].append(case.name)
    return found


def print_report(outcomes: Sequence[Outcome], console: Console) -> None:
    """Failures with their reasons, then the table."""
    for outcome in outcomes:
        if outcome.verdict == "failed":
            console.print(f"failed  {outcome.case.group}: {outcome.case.title}", markup=False)
            console.print(f"        {outcome.reason}", markup=False, soft_wrap=True)
    table = Table("group", "endpoints", "passed", "failed", "not run")
    for column in table.columns[1:]:
        column.justify = "right"
    groups = dict.fromkeys(outcome.case.group for outcome in outcomes)
    for group in groups:
        mine = [outcome for outcome in outcomes if outcome.case.group == group]
        table.add_row(group, *_figures(mine))
    table.add_section()
    table.add_row("all", *_figures(outcomes))
    console.print(table)


def _figures(outcomes: Sequence[Outcome]) -> list[str]:
    count = Counter(outcome.verdict for outcome in outcomes)
    endpoints = {name for outcome in outcomes for name in outcome.case.covers}
    return [str(len(endpoints)), *(str(count[verdict]) for verdict in ("passed", "failed", "not run"))]


def write_junit(outcomes: Sequence[Outcome], path: Path, *, url: str) -> None:
    suite = ElementTree.Element(
        "testsuite",
        name=f"corral conformance of {url}",
        tests=str(len(outcomes)),
        failures=str(sum(outcome.verdict == "failed" for outcome in outcomes)),
        skipped=str(sum(outcome.verdict == "not run" for outcome in outcomes)),
        time=f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    )
    for outcome in outcomes:
        test = ElementTree.SubElement(
            suite,
            "testcase",
            classname=outcome.case.group,
            name=outcome.case.name,
            time=f"{outcome.seconds:.3f}",
        )
        if outcome.verdict == "failed":
            ElementTree.SubElement(test, "failure", message=_printable(outcome.reason))
        elif outcome.verdict == "not run":
            ElementTree.SubElement(test, "skipped", message=outcome.reason)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _printable(text: str) -> str:
    """XML has no escape for most control characters."""
    return "".join(char if char.isprintable() else " " for char in text)
