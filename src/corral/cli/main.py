"""The entry point: runs a command, and turns what comes of it into an exit code and one line."""

import os
import sys
from itertools import pairwise

import typer

from corral.cli.commands import app
from corral.cli.outcome import WRONG_KEY, Exit, Problem
from corral.kernel.errors import CorralError

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> int:
    """The entry point: run a command, return its exit code, never a traceback for a user's mistake."""
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        outcome = app(arguments, standalone_mode=False)
        return int(outcome or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `corral ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.DONE
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        return code


def _refuse_empty(arguments: list[str]) -> None:
    """`--data-dir "$UNSET"` must not mean the current directory, which an empty path becomes."""
    for option, value in pairwise([*arguments, "end"]):
        if option == "--":
            return
        if option.startswith("--") and (option.endswith("=") or (value == "" and "=" not in option)):
            raise Problem(f"{option.rstrip('=')}: a value is needed, and it is empty", exit=Exit.USAGE)


def _explain(error: Exception) -> int | None:
    """Say what went wrong in one line; None for what is not the user's to mend."""
    if isinstance(error, CorralError):
        print(f"corral: {error}", file=sys.stderr)
        return error.exit if isinstance(error, Problem) else Exit.USAGE
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # the command line could not be read
        error.show()
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return Exit.INTERRUPTED
    if "anthropic" in sys.modules:  # only then can it be one of its errors
        import anthropic

        if isinstance(error, anthropic.APIStatusError):
            hint = WRONG_KEY if error.status_code == 401 else ""
            said = _wire_message(error.body) or error.message
            print(f"corral: the server says: {said}{hint}", file=sys.stderr)
            return Exit.NO_SERVER if error.status_code in (401, 403) else Exit.FAILED
        if isinstance(error, anthropic.APIConnectionError):
            print("corral: the server went away; see `corral status`", file=sys.stderr)
            return Exit.NO_SERVER
    return None


def _wire_message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
