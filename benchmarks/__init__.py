"""The numbers we promise, measured on the machine it runs on: `python -m benchmarks [name...] [--json]`.

Everything is real: the processes of `corral serve` with a durable store, bwrap sandboxes, the official SDK
over a socket. Only the model is made up (`upstream`): a separate process that answers at once, or after a
delay that the prompt asks for. Times are CLOCK_MONOTONIC: one clock for all processes of a machine.

A row is a module with `async def measure(runs: int) -> list[Figure]`; a figure knows its bar and says
whether it was met. Latencies are judged after subtracting what fsync cost above 0.2 ms for each commit on
the path: disks drift, and the fsync p50 is measured between the samples of the same run.

What each figure means: docs/reference/benchmarks.md.
"""
