"""Deterministic simulation: brains, log and hands in one process, under a clock and a scheduler of ours.

The brain is the real one (`orchestrator.worker`, `brain.loop`, `brain.dispatch`), so are the hands
(`hands.host`, and `hands.journal` with its SQL on a database in memory). The log is `testing.oracle`. Only
time, the network, the model and the sandboxes are made up, and everything they do is drawn from a seed:

    python -m corral.testing.simulation --seed 7          # one schedule, with its trace
    python -m corral.testing.simulation --count 100000    # many, on all cores

A violation prints the seed and the trace. Source: docs/protocol.md, "Simulation".
"""

from corral.testing.simulation.schedule import Outcome, Parts, play

__all__ = ["Outcome", "Parts", "play"]
