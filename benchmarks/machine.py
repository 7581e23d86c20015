"""The machine that a figure was measured on, and how fast its disk is right now."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import anthropic
import psutil  # type: ignore[import-untyped]

from corral import __version__

COMMIT_BYTES = 4096  # what an append writes to the log at least


def facts() -> dict[str, object]:
    return {
        "commit": _commit(),
        "version": __version__,
        "python": platform.python_version(),
        "sdk": anthropic.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": os.getloadavg()[0],
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


class Disk:
    """An append and its fsync, as a commit makes one, on the file system of `directory`.

    Call `sample` between the measurements of a run, so that its p50 is of the same minutes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seconds: list[float] = []
        self._file = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115  lives as long as the run

    def sample(self, count: int = 1) -> None:
        for _ in range(count):
            os.write(self._file.fileno(), b"x" * COMMIT_BYTES)
            start = time.perf_counter()
            os.fdatasync(self._file.fileno())
            self._seconds.append(time.perf_counter() - start)

    @property
    def fsync_ms(self) -> float:
        return statistics.median(self._seconds) * 1000

    def close(self) -> None:
        self._file.close()
