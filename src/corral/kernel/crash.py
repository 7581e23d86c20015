"""Crash points: named places where a test may kill the process, to prove that nothing is lost there.

Every point is declared in POINTS, so that `corral chaos` can enumerate them and hit each one.
`CORRAL_CRASH_AT=name` makes the process SIGKILL itself the first time it passes `crash_point(name)`;
`name:3` the third time. `CORRAL_CRASH_AT=@FILE` reads the same from FILE, written at any time, and removes
FILE before the process dies, so that what is started in its place lives. Without the variable a point costs
two comparisons.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["POINTS", "crash_point", "intercepted"]

POINTS: Final[Mapping[str, str]] = {
    "store.accept.before": "an input is checked, nothing is written",
    "store.accept.written": "an input is written and not committed",
    "store.accept.after": "an input is durable, its sender has no answer",
    "store.keyed.before": "a request with an Idempotency-Key is checked, nothing is written",
    "store.keyed.written": "its effect and its answer are written and not committed",
    "store.keyed.after": "both are durable, its sender has no answer",
    "store.append.before": "a brain's append is about to be written",
    "store.append.written": "a brain's append is written and not committed",
    "store.append.after": "a brain's append is durable, its writer does not know",
    "store.consume.before": "an append that takes inputs from the inbox is about to be written",
    "store.consume.after": "the inputs have left the inbox for the log, their taker does not know",
    "store.claim.before": "a brain asks for the lease of a session that another left",
    "store.claim.after": "the lease is granted, its holder does not know",
    "store.renew.before": "the heartbeat of the leases is due",
    "store.renew.after": "the leases are extended, their holder does not know",
    "brain.before_append": "a turn's next events are decided",
    "brain.after_append": "they are in the log, their effects have not begun",
    "brain.before_model": "the request is in the log, the model is not asked",
    "brain.after_model": "the model has answered, no event of its answer exists",
    "brain.before_tool": "the call is in the log, the hands do not know it",
    "brain.after_tool": "the hands have answered, the result is not in the log",
    "brain.before_drain": "told to stop, nothing is handed over",
    "brain.after_drain": "everything is handed over, the process has not ended",
    "hands.before_sandbox": "a sandbox is about to be made",
    "hands.after_sandbox": "the sandbox is there, nobody was told",
    "hands.before_started": "the call has a sandbox, the journal does not know it",
    "hands.after_started": "the journal says started, nothing has run",
    "hands.before_result": "the tool has run, the journal does not know",
    "hands.after_result": "the result is in the journal, nobody was told",
    "hands.evict": "the workspace counts as gone from its host, its files are still there",
    "hands.drain": "the host was told to take no new sessions",
    "checkpoint.before": "a workspace is about to be copied",
    "checkpoint.after": "the copy is in the blob store, nobody knows it",
    "outputs.before_file": "an agent's output is about to be read",
    "outputs.after_file": "it is a file of its session, its host does not know",
    "outputs.before_note": "all outputs are files, their host is about to know",
    "restore.before": "a host is about to unpack a workspace",
    "restore.after": "the workspace is in place, nobody was told",
}
"""What has and has not happened at each point."""

_asked = os.environ.get("CORRAL_CRASH_AT", "")
_file = Path(_asked[1:]) if _asked.startswith("@") else None
_passed: dict[str, int] = {}  # how often since it was asked for
_hook: Callable[[str], None] | None = None


def crash_point(name: str) -> None:
    """Die here, as hard as a power cut of this process, if the environment asks for it."""
    if _hook is not None:
        _hook(name)
    if not _asked:
        return
    assert name in POINTS, f"{name!r} is not declared in POINTS"
    asked = _asked if _file is None else _read(_file)
    target, _, count = asked.partition(":")
    if name != target:
        return
    _passed[asked] = _passed.get(asked, 0) + 1
    if _passed[asked] < int(count or 1):
        return
    if _file is not None:
        try:
            _file.unlink()
        except FileNotFoundError:  # it was taken back, or another process died for it
            return
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def intercepted(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` with the name of each point that is passed: a simulation ends its processes there."""
    global _hook
    _hook = hook
    try:
        yield
    finally:
        _hook = None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
