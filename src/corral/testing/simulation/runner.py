"""Many schedules on all cores. A run is repeatable only under a fixed hash seed, so it is always set."""

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread

from corral.testing.simulation.mutants import MUTANTS
from corral.testing.simulation.schedule import Outcome, play

__all__ = ["HASH_SEED", "Batch", "play_all", "require_hash_seed"]

HASH_SEED = "0"
BATCH = 250  # schedules per piece of work: seconds, so that the cores end together
FAILURES_SHOWN_MAX = 5


@dataclass(kw_only=True)
class Batch:
    """What a range of seeds came to."""

    count: int = 0
    failed: list[Outcome] = field(default_factory=list)
    coverage: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of virtual time
    steps: int = 0

    def add(self, other: "Batch") -> None:
        self.count += other.count
        self.failed += other.failed
        self.coverage.update(other.coverage)
        self.seconds += other.seconds
        self.steps += other.steps


def require_hash_seed() -> None:
    """Start this process again under HASH_SEED, unless it runs under it."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        arguments = [sys.executable, "-m", "corral.testing.simulation", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": HASH_SEED})  # noqa: S606


def play_all(first: int, count: int, *, processes: int, mutant: str | None = None) -> Iterator[Batch]:
    """Play the seeds from `first` on; yields as it goes, and stops early after some failures."""
    work = [
        (start, min(BATCH, first + count - start), mutant) for start in range(first, first + count, BATCH)
    ]
    failures = 0
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_settle) as pool:
        for batch in pool.map(_play_some, *zip(*work, strict=True)):
            yield batch
            failures += len(batch.failed)
            if failures >= (1 if mutant else FAILURES_SHOWN_MAX):
                pool.shutdown(cancel_futures=True)
                return


def _settle() -> None:
    """Once per process: what is there before the first schedule stays; schedules make much garbage in few
    cycles. Not again later: what is frozen while it is garbage would stay as well."""
    Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()
    gc.set_threshold(20_000, 10, 50)


def _end_with_parent() -> None:
    """Also if it is killed, and can tell nobody that there is no more to do."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_some(first: int, count: int, mutant: str | None) -> Batch:
    parts = MUTANTS[mutant].parts if mutant else None
    batch = Batch()
    for seed in range(first, first + count):
        outcome = play(seed, parts)
        batch.count += 1
        batch.coverage.update(outcome.coverage)
        batch.seconds += outcome.seconds
        batch.steps += outcome.steps
        if outcome.violations:
            batch.failed.append(outcome)
            if len(batch.failed) >= (1 if mutant else FAILURES_SHOWN_MAX):  # a mistake may take long
                break
    return batch


def first_failure(mutant: str, *, count: int) -> Outcome | None:
    """The first of `count` schedules in which the mutant breaks a law."""
    outcomes = (play(seed, MUTANTS[mutant].parts) for seed in range(count))
    return next(islice((outcome for outcome in outcomes if outcome.violations), 1), None)
