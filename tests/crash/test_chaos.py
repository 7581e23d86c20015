"""A share of `corral chaos`: the command as a user starts it, for as long as `make test` can afford.

`make chaos` runs an hour of it. What is checked here beside its verdict: that the run was not an empty one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.chaos.residue import left_behind
from corral.testing import postgres

pytestmark = pytest.mark.timeout(600)
SECONDS_MAX = 540.0  # with the time that all sessions need to come to rest on a busy machine


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Not under pytest's directories: a unix socket's path holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="corral-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def chaos(data_dir: Path, *options: str) -> dict[str, Any]:
    """The report of a run; its table is shown when the test fails."""
    done = subprocess.run(
        [sys.executable, "-m", "corral.cli", "chaos", "--json", "--data-dir", str(data_dir), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    sys.stderr.write(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    for path in Path(report["schedule"]).parent.glob("sesn_*.json"):  # sessions that broke a law
        known = json.loads(path.read_text())
        del known["frames"]  # much, and seldom the clue
        sys.stderr.write(f"{path.stem}: {json.dumps(known)}\n")  # its directory goes with the test
    assert report["violations"] == [], report["schedule"]
    assert done.returncode == 0
    return report


def test_one_node(short_path: Path) -> None:
    report = chaos(short_path, "--kills", "10", "--sessions", "6", "--crash-points", "none")
    assert report["kills"] >= 10 and report["turns"] >= 6 and report["calls"] >= 6  # each has had its turn


def test_many_nodes(short_path: Path) -> None:
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    options = ("--cluster", "postgres", "--kills", "15", "--sessions", "6", "--crash-points", "none")
    report = chaos(short_path, *options)
    assert report["kills"] >= 15 and report["turns"] >= 6 and report["calls"] >= 6  # each has had its turn


def test_a_schedule_can_be_repeated(short_path: Path) -> None:
    options = ("--seconds", "8", "--sessions", "2", "--faults", "kill-server,kill-hands", "--seed", "5")
    first = chaos(short_path, *options)
    planned = json.loads(Path(first["schedule"]).read_text())["faults"]
    second = chaos(short_path, "--replay", first["schedule"])
    repeated = json.loads(Path(second["schedule"]).read_text())["faults"]
    assert planned and repeated == planned


def test_ctrl_c_ends_all_of_it_within_seconds(short_path: Path) -> None:
    command = [sys.executable, "-m", "corral.cli", "chaos", "--sessions", "2", "--crash-points", "none"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(short_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout
        assert any("breaking" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping" in said and "Interrupted" in said
    assert list(short_path.iterdir()) == [] and list(left_behind(short_path)) == []


def test_a_mistake_on_the_command_line_is_named(short_path: Path) -> None:
    command = [sys.executable, "-m", "corral.cli", "chaos", "--faults", "kill-everybody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "'kill-everybody'" in done.stderr
