"""What is left is found, named so that somebody can look for its cause, and ended."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.chaos.residue import secrets_in


@pytest.fixture
def left(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that works in a node's directory, and has a long command."""
    (tmp_path / "hands2").mkdir()
    program = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "x" * 400, "what it was to run"],
        cwd=tmp_path / "hands2",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    process.stdout.readline()  # it runs
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def found(root: Path, *, ends: bool = False) -> list[str]:
    """What `left_behind` says, and `end` ends, in a process without children: of whoever calls them they
    take all children for what a run has left, and those of pytest are the servers of other tests."""
    program = "import sys; from pathlib import Path; from corral.chaos.residue import end, left_behind"
    program += "; root = Path(sys.argv[1]); print(*left_behind(root), sep='\\n')"
    program += "; end(root)" if ends else ""
    told = subprocess.run(
        [sys.executable, "-c", program, root], stdout=subprocess.PIPE, text=True, check=True
    )
    return told.stdout.splitlines()


def test_a_process_is_named_and_ended(tmp_path: Path, left: "subprocess.Popen[bytes]") -> None:
    (sentence,) = found(tmp_path, ends=True)
    assert sentence.startswith(f"process {left.pid} still runs after ") and ", of hands2: " in sentence
    assert sentence.endswith("what it was to run") and len(sentence) < 300
    assert left.wait(timeout=60) == -9
    assert not any(found(tmp_path))


def test_a_secret_is_found_over_the_edges_of_what_is_read_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"." * (1024 * 1024 - 3) + b"canary" + b".")
    assert list(secrets_in(tmp_path, {"the key": "canary"})) == ["the key stands in log"]
    assert list(secrets_in(tmp_path, {"the key": "another"})) == []
