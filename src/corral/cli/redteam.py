"""`corral redteam`: attack sandboxes of this machine in every known way, and say what came of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console

from corral.cli.outcome import Exit, Problem
from corral.hands.providers.choice import PROVIDERS, ProviderName
from corral.redteam.inside.attempts import by_name
from corral.redteam.report import Report
from corral.redteam.run import chosen, run
from corral.redteam.scenarios import SCENARIOS
from corral.redteam.show import summary

__all__ = ["Asked", "redteam"]

_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line as it was given. sandbox: a kind, or "all". json_file: where the report goes.
    programs: a root file system that has those of sandboxes."""

    sandbox: str
    only: str | None
    lists: bool
    json_file: Path | None
    programs: Path | None = None


def redteam(asked: Asked) -> Exit:
    """FAILED if something escaped or leaked, or if nothing could be tried."""
    console = Console()
    try:
        names = chosen(asked.only)
    except ValueError as error:
        raise Problem(f"--only: {error}", exit=Exit.USAGE) from error
    if asked.lists:
        _list(names, console)
        return Exit.DONE
    if not Path("/proc/self/ns").exists():
        raise Problem("redteam needs Linux: it looks for what sandboxes reach in /proc")
    reports = [_attacked(kind, names, asked.programs, console) for kind in _kinds(asked.sandbox)]
    summary(reports, console)
    if asked.json_file is not None:
        asked.json_file.write_bytes(
            orjson.dumps([report.as_json() for report in reports], option=orjson.OPT_INDENT_2)
        )
    tried = [report for report in reports if not report.problem]
    is_well = bool(tried) and all(report.has_held for report in tried)
    if asked.sandbox != _ALL:
        is_well = is_well and len(tried) == len(reports)
    return Exit.DONE if is_well else Exit.FAILED


def _kinds(said: str) -> Sequence[ProviderName]:
    if said == _ALL:
        return PROVIDERS
    if said not in PROVIDERS:
        raise Problem(f"--sandbox: {', '.join((*PROVIDERS, _ALL))}, not {said!r}", exit=Exit.USAGE)
    return [kind for kind in PROVIDERS if kind == said]


def _attacked(kind: ProviderName, names: Sequence[str], programs: Path | None, console: Console) -> Report:
    def show(line: str) -> None:
        console.print(f"{kind}: {line}", highlight=False)

    console.print(f"{kind}: {len(names)} attempts, on a server of its own", highlight=False)
    return asyncio.run(run(kind, names, show=show, programs=programs))


def _list(names: Sequence[str], console: Console) -> None:
    known = by_name()
    for name in names:
        title = known[name].title if name in known else SCENARIOS[name].title
        console.print(f"{name}: it {title}", highlight=False, markup=False, soft_wrap=True)
