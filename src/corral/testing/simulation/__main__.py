"""`python -m corral.testing.simulation`: play schedules; exit 1 if a law was broken."""

import argparse
import os
import sys
import time

from corral.testing.simulation.mutants import MUTANTS
from corral.testing.simulation.runner import Batch, first_failure, play_all, require_hash_seed
from corral.testing.simulation.schedule import Outcome, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m corral.testing.simulation")
    parser.add_argument("--seed", type=int, help="play one schedule and print its trace")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--count", type=int, default=1000, help="how many seeds (1000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="put this mistake in")
    parser.add_argument("--coverage", action="store_true", help="print what happened how often")
    options = parser.parse_args()
    require_hash_seed()
    if options.seed is not None:
        outcome = play(
            options.seed, MUTANTS[options.mutant].parts if options.mutant else None, keeps_trace=True
        )
        print("\n".join(outcome.trace))
        print("\n".join(outcome.violations) or "every law holds")
        return 1 if outcome.violations else 0

    if options.mutant is not None:  # until it is found
        found = first_failure(options.mutant, count=options.count)
        print("not found" if found is None else describe(found, mutant=options.mutant))
        return 0 if found is None else 1

    began, total = time.monotonic(), Batch()
    for batch in play_all(options.first, options.count, processes=options.processes, mutant=options.mutant):
        total.add(batch)
    for outcome in total.failed:
        print(describe(outcome, mutant=options.mutant))
    if options.coverage:
        for what, times in total.coverage.most_common():
            print(f"{times:10d}  {what}")
    seconds = time.monotonic() - began
    print(
        f"{total.count} schedules, {total.seconds / 3600:.1f} h of virtual time, {total.steps} steps, in"
        f" {seconds:.0f} s on {options.processes} processes: {len(total.failed)} broke a law"
    )
    return 1 if total.failed else 0


def describe(outcome: Outcome, *, mutant: str | None = None) -> str:
    """The trace, what was broken, and the line that repeats it."""
    again = f"python -m corral.testing.simulation --seed {outcome.seed}"
    return "\n".join(
        [*outcome.trace, *outcome.violations, f"{again} --mutant {mutant}" if mutant else again, ""]
    )


if __name__ == "__main__":
    sys.exit(main())
