"""One persistent bash. What is sent, cut and answered follows `anthropic.lib.tools.agent_toolset`.

A command is wrapped so that the shell prints a sentinel and the exit code behind its output. The sentinel
is random per call and never appears whole in what is written, so neither an echo nor a guess can forge it.
Between calls nobody reads the shell's output: what a background job prints belongs to the next call.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from binascii import hexlify
from typing import IO, Any

from .processes import kill_tree
from .wire import Place, bounded_result, spill_path, text_result

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_READ_BYTES = 64 * 1024


class Shell:
    """A bash in a session of its own. Ended shells answer nothing; the loop starts a new one or refuses."""

    def __init__(self, place: Place) -> None:
        self._place = place
        inner_in, self.stdin = os.pipe()
        self.stdout, inner_out = os.pipe()
        try:
            self.pid = os.posix_spawn(
                "/bin/bash",
                ["/bin/bash", "--noprofile", "--norc"],
                {**place.env, "PS1": "", "PS2": "", "TERM": "dumb"},
                file_actions=[(os.POSIX_SPAWN_DUP2, inner_in, 0), (os.POSIX_SPAWN_DUP2, inner_out, 1),
                              (os.POSIX_SPAWN_DUP2, inner_out, 2)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )  # fmt: skip
        except OSError:
            os.close(self.stdin)
            os.close(self.stdout)
            raise
        finally:
            os.close(inner_in)
            os.close(inner_out)
        os.set_blocking(self.stdin, False)
        self.is_ended = False

    def end(self) -> None:
        """Kill the shell and all it started. Repeat: safe."""
        if not self.is_ended:
            self.is_ended = True
            kill_tree(self.pid)
            os.close(self.stdin)
            os.close(self.stdout)


class Command:
    """One command in a shell: unsent input, the tail of its output, and the file a big output goes to."""

    def __init__(self, shell: Shell, place: Place, call_id: str, command: str) -> None:
        self.shell = shell
        self._place, self._call_id = place, call_id
        mark = f"__CORRAL_{hexlify(os.urandom(16)).decode()}_DONE__"
        self._mark = mark.encode()
        wrapped = f"{{ {command}\n}} </dev/null 2>&1; printf '\\n{mark[:8]}''{mark[8:]}%d\\n' $?\n"
        self._unsent = memoryview(wrapped.encode("utf-8", "surrogateescape"))
        self.has_lost_shell = False
        self._tail = bytearray()
        self._head = b""
        self._mark_at = -1
        self._spill: IO[bytes] | None = None
        self._spilled = 0

    @property
    def wants_to_write(self) -> bool:
        return len(self._unsent) > 0

    def write(self) -> None:
        try:
            sent = os.write(self.shell.stdin, self._unsent[:_READ_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:  # the shell is gone; its end of output says so
            self._unsent = self._unsent[:0]
            return
        self._unsent = self._unsent[sent:]

    def read(self) -> bool:
        """Take what the shell printed; True when the command is over (or the shell is)."""
        chunk = os.read(self.shell.stdout, _READ_BYTES)
        if not chunk:
            self.has_lost_shell = True
            return True
        known = max(0, len(self._tail) - len(self._mark))
        self._tail += chunk
        if self._mark_at < 0:
            self._mark_at = self._tail.find(self._mark, known)
        self._cut(chunk)
        return self._mark_at >= 0 and b"\n" in self._tail[self._mark_at :]

    def _cut(self, chunk: bytes) -> None:
        """Keep the last bytes, as the reference does; from the first cut on, all of it goes to a file."""
        limit = self._place.limits.bash_output_bytes
        excess = len(self._tail) - limit
        if self._spill:
            self._write_spill(chunk)
        elif excess > 0:
            self._head = bytes(self._tail[: self._place.limits.preview_chars * 4])
            with contextlib.suppress(OSError):
                self._spill = open(spill_path(self._place, self._call_id), "wb")  # noqa: SIM115
                self._write_spill(self._tail)
        if excess > 0:
            del self._tail[:excess]
            self._mark_at -= excess if self._mark_at >= 0 else 0

    def _write_spill(self, data: bytes | bytearray) -> None:
        if self._spill and self._spilled < self._place.limits.spill_bytes:
            self._spilled += len(data)
            with contextlib.suppress(OSError):  # a full disk: the model still gets the preview
                self._spill.write(data)

    def close(self) -> None:
        if self._spill:
            with contextlib.suppress(OSError):
                self._spill.close()

    def result(self) -> dict[str, Any]:
        """The answer to a command that is over."""
        text = _ANSI.sub("", self._tail.decode(errors="replace"))
        mark = self._mark.decode()
        at = text.rfind(mark)
        if at < 0:  # the shell ended: `exit`, or a syntax error that closed the braces
            out, code = text.strip(), -1
        else:
            out = text[:at].rstrip("\n")
            digits = text[at + len(mark) :].strip().splitlines()
            code = int(digits[0]) if digits and digits[0].isdigit() else -1
        if not self._head:
            return bounded_result(self._place, self._call_id, out, is_error=code != 0)
        self._end_spill(at >= 0)
        head = _ANSI.sub("", self._head.decode(errors="replace"))
        shown = self._place.limits.preview(head, out, spill_path(self._place, self._call_id))
        return text_result(self._call_id, shown, is_error=code != 0)

    def _end_spill(self, has_mark: bool) -> None:
        """Take the sentinel back out of the file, unless the file was full before it came."""
        if self._spill and has_mark and self._spilled < self._place.limits.spill_bytes:
            with contextlib.suppress(OSError):
                self._spill.flush()
                behind = len(self._tail) - self._tail.rfind(b"\n" + self._mark)
                os.ftruncate(self._spill.fileno(), self._spilled - behind)
        self.close()
