"""`corral conformance`: point the suite at a server, print what it does differently."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anthropic
import orjson
from rich.console import Console

import corral.conformance.cases  # noqa: F401  fills CASES
from corral.cli.connect import running_server
from corral.cli.outcome import Exit, Problem
from corral.config import Config
from corral.conformance.case import CASES, Case
from corral.conformance.report import print_report, write_junit
from corral.conformance.run import Outcome, Server, run_all

__all__ = ["Asked", "conformance", "target"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line. `groups`: by comma; None for all. junit: where to write the report."""

    groups: str | None
    only: str | None
    uses_model: bool
    junit: Path | None


def target(
    base_url: str | None,
    api_key: str | None,
    *,
    model: str,
    is_strict: bool,
    config: Config,
    is_here: bool,
) -> Server:
    """A server of ours by what this machine knows of it; any other by URL and key. Raises Problem."""
    if base_url and api_key:
        return Server(url=base_url.rstrip("/"), api_key=api_key, model=model, is_strict=is_strict)
    ours = running_server(config, url=base_url, is_here=is_here)
    return Server(url=ours.url, api_key=api_key or ours.key, model=model, is_strict=is_strict)


def conformance(server: Server, asked: Asked, *, shows_json: bool) -> Exit:
    """FAILED if a case failed."""
    cases = _chosen(asked)
    console = Console(stderr=shows_json)
    what = f"{len(cases)} cases by the official SDK {anthropic.__version__} against {server.url}"
    console.print(f"{what}, agents on {server.model}", highlight=False, soft_wrap=True)
    done = 0

    def show(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        console.print(
            f"{done:>4}/{len(cases)} {outcome.verdict:<8}{outcome.seconds:6.1f} s "
            f"{outcome.case.group}: {outcome.case.title}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    outcomes = asyncio.run(run_all(server, cases, uses_model=asked.uses_model, show=show))
    print_report(outcomes, console)
    if asked.junit is not None:
        write_junit(outcomes, asked.junit, url=server.url)
    if shows_json:
        print(orjson.dumps([_as_json(outcome) for outcome in outcomes]).decode())
    return Exit.FAILED if any(outcome.verdict == "failed" for outcome in outcomes) else Exit.DONE


def _chosen(asked: Asked) -> Sequence[Case]:
    groups = {case.group for case in CASES}
    wanted = set(asked.groups.split(",")) if asked.groups else groups
    if unknown := sorted(wanted - groups):
        raise Problem(
            f"--group {','.join(unknown)}: there are {', '.join(sorted(groups))}", exit=Exit.USAGE
        )
    cases = [case for case in CASES if case.group in wanted and (asked.only or "") in case.name]
    if not cases:
        raise Problem(f"--only {asked.only}: no case has this in its name", exit=Exit.USAGE)
    return cases


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "group": outcome.case.group,
        "name": outcome.case.name,
        "covers": outcome.case.covers,
        "verdict": outcome.verdict,
        "seconds": round(outcome.seconds, 3),
        "reason": outcome.reason,
    }
