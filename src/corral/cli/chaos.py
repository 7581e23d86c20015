"""`corral chaos`: break a cluster of its own in every declared way, and prove that nothing was lost."""

import asyncio
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from rich.console import Console

from corral.chaos import network
from corral.chaos.cluster import CLUSTER_KINDS, ClusterKind
from corral.chaos.node import StartFailed
from corral.chaos.report import Options
from corral.chaos.run import run
from corral.chaos.scenarios import SCENARIOS
from corral.chaos.schedule import KINDS, Kind, read_schedule
from corral.chaos.show import PlainProgress, as_json, summary
from corral.cli.outcome import Exit, Problem
from corral.config import load
from corral.testing import postgres

__all__ = ["Asked", "chaos"]

_GIVEN = "database"  # --cluster of a PostgreSQL that somebody else runs


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line as it was given; None for what was left out."""

    cluster: str
    seconds: float | None
    kills: int | None
    sessions: int
    seed: int | None
    faults: str | None
    crash_points: str
    data_dir: Path | None
    replay: Path | None
    scenario: str | None = None


def chaos(asked: Asked, *, shows_json: bool) -> Exit:
    """FAILED if a law was broken. The directory of the run is kept then, and its schedule in it.

    INTERRUPTED by Ctrl-C, once all that was started has ended; nothing is judged or kept then.
    """
    options = _options(asked)
    if asked.data_dir is not None:
        asked.data_dir.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-", dir=asked.data_dir))  # short: sockets lie below it
    console = Console(stderr=shows_json)
    console.print(f"seed {options.seed}, in {root}", highlight=False, soft_wrap=True)
    try:
        with PlainProgress(console) as show:
            report = asyncio.run(run(options, root=root, show=show))
    except KeyboardInterrupt:
        if asked.data_dir is None:
            shutil.rmtree(root, ignore_errors=True)
        console.print("Interrupted: what was started has ended, and nothing was judged.")
        return Exit.INTERRUPTED
    except StartFailed as error:
        raise Problem(f"{error}\nIts directory is kept: {root}") from error
    summary(report, console)
    if shows_json:
        print(as_json(report))
    if report.is_whole and asked.data_dir is None:
        shutil.rmtree(root, ignore_errors=True)
    return Exit.DONE if report.is_whole else Exit.FAILED


def _options(asked: Asked) -> Options:
    if asked.replay is not None:
        return _replayed(asked.replay)
    if asked.cluster not in (*CLUSTER_KINDS, _GIVEN):
        shown = "a URL, which others could read here" if "://" in asked.cluster else repr(asked.cluster)
        kinds = ", ".join((*CLUSTER_KINDS, f"{_GIVEN} (the empty one of CORRAL_DATABASE_URL)"))
        raise Problem(f"--cluster: one of {kinds}; not {shown}", exit=Exit.USAGE)
    if asked.crash_points not in ("all", "none"):
        raise Problem("--crash-points: all or none", exit=Exit.USAGE)
    if asked.scenario not in (None, *SCENARIOS):
        raise Problem(f"--scenario: {', '.join(SCENARIOS)}, not {asked.scenario!r}", exit=Exit.USAGE)
    url = _given_url() if asked.cluster == _GIVEN else None
    if asked.cluster == "postgres" and (reason := postgres.missing()) is not None:
        raise Problem(f"no PostgreSQL can be started here: {reason}")
    if os.name != "posix" or not Path("/proc/self").exists():
        raise Problem("chaos needs Linux: it looks for what is left behind in /proc")
    default = Options()
    return replace(
        default,
        cluster=cast(ClusterKind, "postgres" if url else asked.cluster),
        database_url=url,
        seconds=asked.seconds or default.seconds,
        kills=asked.kills,
        sessions=asked.sessions,
        seed=random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed,
        faults=_kinds(asked.faults),
        crash_points=asked.crash_points == "all",
        scenario=asked.scenario,
        has_small_disk=_has_small_disk(asked),
        has_network=_has_network(asked),
    )


def _given_url() -> str:
    """From the environment: a password in an argument can be read by everybody on the machine."""
    config = load()
    if config.database_url is None or not config.is_postgres:
        raise Problem(f"--cluster {_GIVEN}: set CORRAL_DATABASE_URL=postgresql://...", exit=Exit.USAGE)
    return config.database_url.reveal()


def _has_small_disk(asked: Asked) -> bool:
    """A disk is only filled if that is asked for by name, and then it is one in memory."""
    if "fill-disk" not in (asked.faults or ""):
        return False
    if os.geteuid() != 0 or asked.cluster != "local":
        raise Problem("fill-disk needs root (it mounts a small disk) and --cluster local", exit=Exit.USAGE)
    return True


def _has_network(asked: Asked) -> bool:
    """A network is only made if its partition is asked for by name."""
    if "partition" not in (asked.faults or ""):
        return False
    if asked.cluster == "local":
        raise Problem("partition is for many nodes: --cluster postgres", exit=Exit.USAGE)
    if (reason := network.missing()) is not None:
        raise Problem(f"partition: {reason}")
    return True


def _kinds(text: str | None) -> tuple[Kind, ...]:
    if text is None:
        return tuple(KINDS)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in KINDS]:
        raise Problem(f"--faults: no {unknown[0]!r}; there are {', '.join(KINDS)}", exit=Exit.USAGE)
    return cast(tuple[Kind, ...], tuple(names))


def _replayed(path: Path) -> Options:
    try:
        options, faults = read_schedule(path)
        known = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        return Options(**known, schedule=tuple(faults))  # type: ignore[arg-type]  # as `to_json` wrote them
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"--replay: {error}", exit=Exit.USAGE) from error
