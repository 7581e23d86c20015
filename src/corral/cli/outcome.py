"""How a command ends: its exit code, and the one line that says why."""

from enum import IntEnum

from corral.kernel.errors import CorralError

__all__ = ["WRONG_KEY", "Exit", "Problem"]

WRONG_KEY = " (check ANTHROPIC_API_KEY; on the server's own machine, unset it)"
"""What to do about a 401, after the server's words."""


class Exit(IntEnum):
    DONE = 0
    FAILED = 1  # it ran, and the answer is no: a check failed, the turn ended in an error
    USAGE = 2
    NO_SERVER = 3  # not reachable, or it refused the key
    NEEDS_ANSWER = 4  # the agent waits for a person, and there is no terminal to ask at
    DETACHED = 5  # the user left; the agent goes on
    INTERRUPTED = 130


class Problem(CorralError):
    """Something the user can mend. Shown as one line, then the command ends with `exit`."""

    def __init__(self, message: str, *, exit: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit = exit
