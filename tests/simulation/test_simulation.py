"""A hundred thousand schedules; each mistake that is put in is found; a seed repeats its run."""

import os
import re
import subprocess
import sys

import pytest

from corral.testing.simulation.mutants import MUTANTS
from corral.testing.simulation.runner import HASH_SEED
from corral.testing.simulation.seeds import SEEDS

SCHEDULES = int(os.environ.get("CORRAL_SCHEDULES", "100000"))


def simulate(*arguments: str, niceness: int = 0) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a schedule is a function of its seed under a fixed hash seed."""
    command = [sys.executable, "-m", "corral.testing.simulation", *arguments]
    return subprocess.run(
        ["nice", "-n", str(niceness), *command],
        env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(3600)  # seconds; a few minutes, unless the machine is busy with something else
def test_every_schedule_keeps_the_laws() -> None:
    # For minutes, beside tests that wait for each other, and some for a clock: they go first.
    done = simulate("--count", str(SCHEDULES), "--coverage", niceness=5)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert f"{SCHEDULES} schedules" in done.stdout
    for what in (  # a fault that never happens proves nothing
        "%s is stopped for %.1f s",
        "%s claims epoch %s",
        "crash point %s",
        "the hands are killed, the journal is %s",
        "the sandboxes are lost",
        "the reply to %s of %s is lost",
        "the reply to %s is lost",
        "%s of %s is refused",
        "%s has drained",
        "the model fails",
        "a brain's clock is off by %.0f s",
        "the hands are told to stop",
        "%s is on the wire for long, its client gives up",
        "the turn is closed, epoch %s",
        "paused at the budget",
        "the budget is %s",
        "the model finds a request too long",
        "the model is asked for a summary",
    ):
        found = re.search(rf"^ *(\d+)  {re.escape(what)}$", done.stdout, re.MULTILINE)
        assert found is not None and int(found[1]) > SCHEDULES / 1000, what


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_once_broke_a_law_keep_it(seed: int) -> None:
    done = simulate("--seed", str(seed))
    assert done.returncode == 0, SEEDS[seed] + done.stdout


def test_a_seed_repeats_its_run() -> None:
    traces = [simulate("--seed", str(seed)).stdout for seed in (5, 6, 5)]
    assert traces[0] == traces[2] != traces[1]
    assert traces[0].count("\n") > 10


def test_a_seed_repeats_a_violation_found_among_others() -> None:
    found = simulate("--mutant", "guesses")
    again = re.search(r"--seed (\d+) --mutant", found.stdout)
    assert again is not None and again[1] != "0", found.stdout
    repeated = simulate("--seed", again[1], "--mutant", "guesses")
    assert repeated.returncode == 1
    assert repeated.stdout.splitlines()[:-1] == found.stdout.splitlines()[: repeated.stdout.count("\n") - 1]


@pytest.mark.timeout(300)  # seconds; minutes on a busy machine
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mistake_is_found(mutant: str) -> None:
    done = simulate("--mutant", mutant, "--count", str(MUTANTS[mutant].within))
    assert done.returncode == 1, (
        f"{MUTANTS[mutant].mistake}: not found in {MUTANTS[mutant].within} schedules"
    )
