"""Faults: declared, off unless asked for, and changed while a process runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from corral.kernel.faults import FAULTS, copies, fault, parse


def in_process(code: str, faults: str) -> str:
    """What this code prints in a process with these faults."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"CORRAL_FAULTS": faults},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.stdout.strip() or ran.stderr


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", {}),
        ("bus.drop=1", {"bus.drop": 1.0}),
        (" bus.drop=0.3, clock.step=-30,", {"bus.drop": 0.3, "clock.step": -30.0}),
    ],
)
def test_what_is_asked_for(text: str, faults: dict[str, float]) -> None:
    assert parse(text) == faults


@pytest.mark.parametrize("text", ["bus.lose=1", "bus.drop", "bus.drop=much"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
    assert "ValueError" in in_process("import corral.kernel.faults", text)


def test_without_the_variable_nothing_goes_wrong() -> None:
    assert [fault(name) for name in FAULTS] == [0.0] * len(FAULTS)
    assert {copies() for _ in range(100)} == {1}


def test_hints_are_lost_and_repeated_as_often_as_asked() -> None:
    code = (
        "from collections import Counter; from corral.kernel.faults import copies;"
        "seen = Counter(copies() for _ in range(4000)); print(seen[0], seen[1], seen[2])"
    )
    lost, once, twice = map(int, in_process(code, "bus.drop=0.5,bus.duplicate=0.5").split())
    assert 1700 < lost < 2300
    assert 800 < once < 1200
    assert 800 < twice < 1200


def test_the_clock_steps() -> None:
    code = (
        "import time; from corral.kernel.clock import SystemClock;"
        "print(SystemClock().now().timestamp() - time.time())"
    )
    assert float(in_process(code, "clock.step=-30")) == pytest.approx(-30, abs=15)


def test_a_file_is_read_again_and_again(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    code = f"""
import time
from pathlib import Path
from corral.kernel.faults import fault
file = Path({str(file)!r})
def becomes(number):
    end = time.monotonic() + 50
    while fault("bus.drop") != number:
        assert time.monotonic() < end
print(fault("bus.drop"))
file.write_text("bus.drop=0.5")
becomes(0.5)
file.unlink()
becomes(0.0)
print("over")
"""
    assert in_process(code, f"@{file}").split() == ["0.0", "over"]
