"""A child process, as far as its supervisor knows it."""

import sys

from corral.supervisor.child import Child
from corral.supervisor.users import Users


def test_who_has_closed_its_report_is_not_promoted() -> None:
    """It runs, so it is not reaped; but its supervisor has stopped listening to it."""
    child = Child(role="server", outlives=False, is_spare=True)
    program = "import os, sys; sys.stdin.readline(); os.close(1); sys.stdin.read()"
    assert not child.is_promotable
    child.spawn([sys.executable, "-c", program], first_line=b"", pass_fds=(), users=Users())
    assert child.process and child.process.stdin and child.process.stdout
    assert child.is_promotable
    child.tell(b"go\n")
    child.process.stdout.close()  # as the supervisor does at the end of a report
    assert child.process.poll() is None and not child.is_promotable
    child.process.stdin.close()
    assert child.process.wait(timeout=60) in (0, 120)  # 120: its standard output could not be flushed
