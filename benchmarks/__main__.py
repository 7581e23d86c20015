"""`python -m benchmarks [name...] [--runs N] [--json]`: measure, print, and say what was missed."""

import argparse
import asyncio
import importlib
import json
import sys
import time

from benchmarks.figure import Figure, show, totals
from benchmarks.machine import facts

ROWS = (
    "turns",
    "hundred",
    "tools",
    "mcp",
    "append",
    "first_token",
    "idle",
    "start",
    "many",
    "long_session",
    "postgres",
)
# Some minutes and gigabytes; only by name.
ASKED_FOR = ("egress", "growth", "lists", "neighbours", "providers", "stop", "upload")
RUNS = 5


def _names() -> str:
    return f"{', '.join(ROWS)} (the default), {', '.join(ASKED_FOR)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=_names())
    parser.add_argument("--runs", type=int, default=RUNS, help="runs whose median is taken")
    parser.add_argument(
        "--json", action="store_true", help="JSON on standard output, the text on standard error"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in ROWS + ASKED_FOR]:
        parser.error(f"no benchmark {', '.join(map(repr, unknown))}; there are {_names()}")
    machine = facts()
    shown = sys.stderr if arguments.json else sys.stdout
    print("  ".join(f"{name} {fact}" for name, fact in machine.items()), file=shown)
    figures: list[Figure] = []
    started = time.monotonic()
    try:
        for name in arguments.names or ROWS:
            row = importlib.import_module(f"benchmarks.{name}")
            for figure in asyncio.run(row.measure(arguments.runs)):
                figures.append(figure)
                print("\n" + show(figure), file=shown, flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    counts = totals(figures)
    took = time.monotonic() - started
    print(f"\n{counts['pass']} bars met, {counts['miss']} missed; {took:.0f} s", file=shown)
    if arguments.json:
        data = {"machine": machine, "totals": counts, "figures": [figure.to_json() for figure in figures]}
        print(json.dumps(data, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
