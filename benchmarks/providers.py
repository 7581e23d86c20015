"""Each kind of sandbox that this machine can make, with no server around: its start, and a call in it. With
the programs of CORRAL_SANDBOX_ROOT, if that is set."""

import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.figure import Figure, percentile, value
from benchmarks.stack import durable_directory
from corral.hands.ports import Probe
from corral.hands.providers.choice import PROVIDERS, ProviderName, provider_of
from corral.testing.lab import Lab

STARTS, CALLS = 5, 20  # of each run, and calls in each sandbox


async def measure(runs: int) -> list[Figure]:
    return [await _figure(name, runs) for name in PROVIDERS]


@contextlib.asynccontextmanager
async def at_work(name: ProviderName) -> AsyncIterator[tuple[Lab, Probe]]:
    """It, and whether it works on this machine."""
    with tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as directory:
        root = Path(directory)
        root.chmod(0o711)  # sandboxes have a uid of their own
        programs = os.environ.get("CORRAL_SANDBOX_ROOT")
        system = Path(programs) if programs else None
        provider = provider_of(name, state_dir=root, is_warm=False, root=system)
        async with Lab.open(provider, root=root) as lab:
            yield lab, await lab.provider.probe()


async def _figure(name: ProviderName, runs: int) -> Figure:
    title = f"sandboxes by {name}, on workspaces that are new"
    started: list[float] = []
    called: list[float] = []
    async with at_work(name) as (lab, probe):
        if not probe.is_available:
            return Figure(title=title, values=[], notes=[f"not on this machine: {probe.summary}"])
        for number in range(runs * STARTS):
            begun = time.monotonic()
            sandbox = await lab.sandbox(f"sesn_{number}")
            await lab.bash(sandbox, "true")
            started.append(time.monotonic() - begun)
            for _ in range(CALLS):
                begun = time.monotonic()
                await lab.bash(sandbox, "echo hi")
                called.append(time.monotonic() - begun)
            await sandbox.destroy()
    return Figure(
        title=title,
        values=[
            value(f"start and first call, p{percent}", percentile(started, percent) * 1000, "ms")
            for percent in (50, 95)
        ]
        + [value(f"a call, p{percent}", percentile(called, percent) * 1000, "ms") for percent in (50, 95)],
        notes=[f"{len(started)} starts, {len(called)} calls of echo"],
    )
