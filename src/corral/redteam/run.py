"""A whole run against one provider."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from corral.hands.providers.choice import ProviderName, provider_of
from corral.kernel.errors import CorralError
from corral.redteam.attack import attack
from corral.redteam.canaries import Canaries
from corral.redteam.inside.attempts import by_name
from corral.redteam.outside import Outside
from corral.redteam.report import Report
from corral.redteam.scenarios import SCENARIOS, play
from corral.redteam.search import searched
from corral.redteam.served import ServedStage
from corral.redteam.stage import Broken

__all__ = ["chosen", "run"]


def chosen(only: str | None) -> Sequence[str]:
    """Names of attempts and scenarios: all, or, by comma, those of groups or single ones. Raises ValueError
    for what there is not."""
    names = [*by_name(), *SCENARIOS]
    if only is None:
        return names
    wanted = only.split(",")
    groups = list(dict.fromkeys(name.partition(".")[0] for name in names))
    if unknown := [each for each in wanted if each not in names and each not in groups]:
        raise ValueError(f"no group or attempt {unknown[0]!r}; there are {', '.join(groups)}")
    return [name for name in names if name in wanted or name.partition(".")[0] in wanted]


async def run(
    kind: ProviderName,
    names: Sequence[str],
    *,
    show: Callable[[str], None],
    programs: Path | None = None,
) -> Report:
    """Make these attempts on a server of its own, and end all of it. programs: a root file system that has
    those of sandboxes; the machine's own unless given."""
    report, began = Report(kind=kind), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="redteam-"))  # short: sockets lie below it
    root.chmod(0o755)  # everybody passes through: what is kept apart is kept apart by the walls
    try:
        if problem := await _problem(kind, root, programs):
            report.problem = problem
            return report
        await _fill(report, kind, names, root=root, programs=programs, show=show)
    except Broken as error:
        report.problem = str(error)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        report.seconds = time.monotonic() - began
    return report


async def _problem(kind: ProviderName, root: Path, programs: Path | None) -> str:
    state = root / "probe"
    state.mkdir(mode=0o711)
    provider = provider_of(kind, state_dir=state, is_warm=False, root=programs)
    try:
        probe = await provider.probe()
    except CorralError as error:
        return str(error)
    finally:
        await provider.aclose()
    return "" if probe.is_available else f"{probe.report}; {probe.remedy}"


async def _fill(
    report: Report,
    kind: ProviderName,
    names: Sequence[str],
    *,
    root: Path,
    programs: Path | None,
    show: Callable[[str], None],
) -> None:
    canaries = Canaries()
    async with Outside.around(root, canaries) as outside:
        async with ServedStage.around(kind, outside, programs=programs) as stage:
            show("the stage is set")
            report.isolation, report.gaps = stage.capabilities.isolation, stage.capabilities.gaps

            def trips() -> dict[str, str]:
                return {**outside.trips(), **stage.trips()}

            attempts = by_name()
            staying = [name for name in names if name in attempts and not attempts[name].ends]
            ending = [name for name in names if name in attempts and attempts[name].ends]
            scenarios = [name for name in names if name in SCENARIOS]
            findings = await attack(stage, staying, trips=trips, show=show)
            for found in await asyncio.gather(  # each is in sandboxes of its own, and waits for the host
                attack(stage, ending, trips=trips, show=show), play(stage, scenarios, show=show)
            ):
                findings += found
            report.findings = sorted(findings, key=lambda finding: names.index(finding.name))
            show("searching")
            search = await searched(stage, canaries)
        report.canaries = len(search.secrets)
        report.searches, report.searched_bytes = search.count, sum(search.places.values())
        report.unsearched, report.hits = search.unsearched, search.hits
