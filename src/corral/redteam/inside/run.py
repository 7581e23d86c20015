"""Runs attempts one after another, each in a process of its own that can be killed; says how each ended:

{"attempt": "proc.environ", "end": "won" | "held" | "untried", "why": ..., "canaries": ["kind:sha256"]}

python3 -IS redteam.py TOLD.json NAME...        names are "group.name"
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from typing import Any

from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.attempts import by_name
from corral.redteam.inside.box import Box
from corral.redteam.inside.ends import Held, Untried, Won

WHY_CHARS_MAX = 300
_NO = {  # the kernel's ways of saying no; anything else may be a mistake of ours
    errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV,
    errno.ESRCH, errno.ENOSYS, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN,
    errno.EAFNOSUPPORT, errno.ELOOP, errno.EXDEV, errno.EBUSY, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ECHILD, errno.ENOTEMPTY,
    errno.ENOTTY,
}  # fmt: skip


def outcome(attempt: Attempt, box: Box) -> tuple[str, str]:
    try:
        attempt.tries(box)
    except Won as won:
        return "won", str(won)
    except Held as held:
        return "held", str(held)
    except Untried as untried:
        return "untried", str(untried)
    except OSError as error:
        said = f"{errno.errorcode.get(error.errno or 0, error.errno)}: {error.strerror or error}"
        return ("held" if error.errno in _NO else "untried"), said
    except MemoryError:
        return "held", "no more memory"
    except Exception as error:
        return "untried", f"it is broken: {type(error).__name__}: {error}"
    return ("held", box.said) if box.said else ("untried", "it ended without a word")


def in_a_child(name: str, attempt: Attempt, told: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(name, attempt, told, reader, writer)
    os.close(writer)
    data, until = b"", time.monotonic() + attempt.seconds
    while (left := until - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        data += chunk
    os.close(reader)
    for whom in (-pid, pid):
        with contextlib.suppress(OSError):
            os.kill(whom, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        return dict(json.loads(data))
    except ValueError:
        pass
    if left <= 0:
        return _said(name, "untried", f"no end within {attempt.seconds:g} s")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return _said(name, "held", "killed by the filter of system calls")
    if attempt.dies and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return _said(name, "held", "it was killed for that")
    return _said(name, "untried", f"its process ended with status {status:#x}")


def _child(name: str, attempt: Attempt, told: dict[str, Any], reader: int, writer: int) -> None:
    try:
        os.close(reader)
        os.setsid()
        box = Box(told)
        end, why = outcome(attempt, box)
        if box.found:
            end, why = "won", f"a planted secret; {why}"
        data = json.dumps(_said(name, end, why, sorted(box.found))).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _said(name: str, end: str, why: str, canaries: list[str] | None = None) -> dict[str, Any]:
    return {"attempt": name, "end": end, "why": why[:WHY_CHARS_MAX], "canaries": (canaries or [])[:20]}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        told = json.load(file)
    known = by_name()
    for name in sys.argv[2:]:
        print(json.dumps(in_a_child(name, known[name], told)), flush=True)
