"""One upload of 200 MB through the official SDK: how long it takes, and what the server needs for it."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil  # type: ignore[import-untyped]
from anthropic import Anthropic

from benchmarks.figure import Figure, at_most, value
from benchmarks.stack import durable_directory, server

BYTES = 200 * 10**6
WARM_BYTES = 10**6  # pools are there before anything is weighed
QUIET_SECONDS = 5.0  # and so is what a server imports once it is ready: the model's SDK
LOOK_SECONDS = 0.005
NOWHERE = "http://127.0.0.1:9"  # no model is asked


async def measure(runs: int) -> list[Figure]:
    growth: list[float] = []
    seconds: list[float] = []
    back: list[float] = []
    for _ in range(runs):
        with (
            tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as name,
            server(model_url=NOWHERE, data_dir=Path(name)) as running,
        ):
            source = Path(name) / "source"
            await asyncio.to_thread(_fill, source)
            api = running.process("server")
            with Anthropic(base_url=running.url, api_key=running.api_key, max_retries=0) as client:
                client.files.upload(file=("warm", b"x" * WARM_BYTES))
                await asyncio.sleep(QUIET_SECONDS)
                before = api.memory_info().rss
                peak = [before]
                started = time.perf_counter()
                with _watched(api, peak), source.open("rb") as file:
                    made = await asyncio.to_thread(client.files.upload, file=("large", file))
                seconds.append(time.perf_counter() - started)
                assert made.size_bytes == BYTES
                growth.append((max(peak) - before) / 2**20)
                back.append((api.memory_info().rss - before) / 2**20)
    return [
        Figure(
            title="one upload of 200 MB, SDK to durable blob",
            values=[
                value("peak RSS growth of the server, worst", max(growth), "MiB", at_most(32)),
                value("peak RSS growth of the server, median", statistics.median(growth), "MiB"),
                value("what of it stays afterwards", statistics.median(back), "MiB"),
                value("time", statistics.median(seconds), "s"),
                value("MB a second", BYTES / 1e6 / statistics.median(seconds), ""),
            ],
        )
    ]


def _fill(path: Path) -> None:
    """Bytes that no file system makes small."""
    with path.open("wb") as file:
        for _ in range(BYTES // 10**6):
            file.write(os.urandom(10**6))


@contextmanager
def _watched(process: psutil.Process, peak: list[int]) -> Iterator[None]:
    """Look at the process's memory all the time."""
    over = Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            peak.append(process.memory_info().rss)

    watching = Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
