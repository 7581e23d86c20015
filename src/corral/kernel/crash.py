"""Crash points: named places where a test may kill the process, to prove that nothing is lost there.

`CORRAL_CRASH_AT=name` makes the process SIGKILL itself the first time it passes `crash_point(name)`;
`name:3` the third time. Without the variable a point costs one comparison.
"""

import os
import signal

_target, _, _count = os.environ.get("CORRAL_CRASH_AT", "").partition(":")
_remaining = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here, as hard as a power cut of this process, if the environment asks for it."""
    global _remaining
    if _target and name == _target:
        _remaining -= 1
        if _remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
