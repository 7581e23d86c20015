"""The agent's loop: frames in, calls side by side, results out. See the package docstring."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .processes import harden, kill_tree, reap
from .shell import Command, Shell
from .wire import HEADER, Place, ToolFailed, block_result, bounded_result, pack, text_result

if TYPE_CHECKING:
    from .carrier import Carrier

_READ_BYTES = 256 * 1024


class _Bash:
    """A bash call in flight."""

    def __init__(self, call_id: str, thread: str, command: Command, timeout: float) -> None:
        self.call_id, self.thread, self.command, self.timeout = call_id, thread, command, timeout
        self.deadline = time.monotonic() + timeout
        self.fd = command.shell.stdout


class _Child:
    """Another tool in flight: a forked child that writes its result frame into a pipe."""

    def __init__(self, call_id: str, name: str, pid: int, fd: int, timeout: float) -> None:
        self.call_id, self.name, self.pid, self.fd, self.timeout = call_id, name, pid, fd, timeout
        self.deadline = time.monotonic() + timeout
        self.frame = bytearray()


class Loop:
    def __init__(
        self, place: Place, stdin: int, stdout: int, unread: bytearray, carrier: Carrier | None
    ) -> None:
        self._place, self._stdin, self._stdout, self._unread = place, stdin, stdout, unread
        self._carrier = carrier
        self._shells: dict[str, Shell] = {}
        self._calls: dict[str, _Bash | _Child] = {}
        self._deaths, note = os.pipe()
        os.set_blocking(note, False)
        signal.set_wakeup_fd(note, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)

    def run(self) -> None:
        """Serve until the host closes stdin."""
        self._send({"op": "ready"})
        from . import files, search  # noqa: F401  (imported while idle, so that a forked tool finds them)

        while True:
            self._take_frames()
            poller = select.poll()
            poller.register(self._stdin, select.POLLIN)
            by_fd: dict[int, _Bash | _Child] = {}
            for call in self._calls.values():
                by_fd[call.fd] = call
                poller.register(call.fd, select.POLLIN)
                if isinstance(call, _Bash) and call.command.wants_to_write:
                    by_fd[call.command.shell.stdin] = call
                    poller.register(call.command.shell.stdin, select.POLLOUT)
            poller.register(self._deaths, select.POLLIN)
            for fd, _ in poller.poll(self._patience()):
                if fd == self._deaths:
                    os.read(fd, _READ_BYTES)
                    dead = reap()
                    if self._carrier and self._carrier.pid in dead:
                        with contextlib.suppress(OSError):  # as full as they have made it: no way out then
                            self._carrier.start()
                elif fd == self._stdin:
                    chunk = os.read(fd, _READ_BYTES)
                    if not chunk:
                        return
                    self._unread += chunk
                elif by_fd[fd].call_id in self._calls:
                    self._advance(by_fd[fd], is_writing=fd != by_fd[fd].fd)
            self._expire()

    def _patience(self) -> float | None:
        """Milliseconds until the next deadline."""
        if not self._calls:
            return None
        left = min(call.deadline for call in self._calls.values()) - time.monotonic()
        return max(0.0, left * 1000 + 1)

    def _take_frames(self) -> None:
        while len(self._unread) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._unread)
            if len(self._unread) < HEADER.size + size:
                break
            message = json.loads(self._unread[HEADER.size : HEADER.size + size])
            del self._unread[: HEADER.size + size]
            if message["op"] == "run":
                try:
                    self._start(message)
                except OSError as e:  # no process, no descriptor, no memory left in this sandbox
                    text = f"{message['name']}: cannot start: {(e.strerror or str(e)).lower()}"
                    self._send(text_result(message["id"], text, is_error=True))
            else:
                self._cancel(message["id"])

    def _start(self, message: dict[str, Any]) -> None:
        call_id, name, fields = message["id"], message["name"], message["input"]
        if name == "bash":
            self._start_bash(call_id, message["thread"], fields)
        else:
            self._fork(call_id, name, fields, self._place.limits.tool_seconds)

    # -- bash -------------------------------------------------------------------------------------

    def _start_bash(self, call_id: str, thread: str, fields: dict[str, Any]) -> None:
        shell = self._shells.get(thread)
        if fields.get("restart"):
            if shell:
                shell.end()
            self._shells[thread] = Shell(self._place)
            self._send(text_result(call_id, "bash session restarted", is_error=False))
            return
        if shell and shell.is_ended:  # by a timeout or by itself: its state is lost and the model must know
            text = "bash: bash session terminated; restart required"
            self._send(text_result(call_id, text, is_error=True))
            return
        if not shell:
            shell = self._shells[thread] = Shell(self._place)
        timeout_ms = fields.get("timeout_ms")
        timeout = timeout_ms / 1000.0 if timeout_ms else self._place.limits.tool_seconds
        command = Command(shell, self._place, call_id, fields["command"])
        self._calls[call_id] = _Bash(call_id, thread, command, timeout)
        command.write()

    # -- other tools ------------------------------------------------------------------------------

    def _fork(self, call_id: str, name: str, fields: dict[str, Any], timeout: float) -> None:
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            _be_child(self._place, call_id, name, fields, writer)
        os.close(writer)
        self._calls[call_id] = _Child(call_id, name, pid, reader, timeout)

    # -- progress ---------------------------------------------------------------------------------

    def _advance(self, call: _Bash | _Child, *, is_writing: bool) -> None:
        if isinstance(call, _Bash):
            if is_writing:
                call.command.write()
            elif call.command.read():
                if call.command.has_lost_shell:
                    call.command.shell.end()
                self._finish(call, call.command.result())
            return
        chunk = os.read(call.fd, _READ_BYTES)
        if chunk:
            call.frame += chunk
            if len(call.frame) > self._place.limits.frame_bytes:
                self._end(call, f"{call.name}: result too large")
            return
        os.close(call.fd)
        if call.frame:
            del self._calls[call.call_id]
            self._write(call.frame)
        else:  # killed from outside: memory, usually
            self._finish(
                call, text_result(call.call_id, f"{call.name}: the tool was killed", is_error=True)
            )

    def _finish(self, call: _Bash | _Child, result: dict[str, Any]) -> None:
        del self._calls[call.call_id]
        self._send(result)

    def _end(self, call: _Bash | _Child, text: str) -> None:
        """Kill the call and answer it with an error."""
        if isinstance(call, _Bash):
            call.command.shell.end()
            call.command.close()
        else:
            kill_tree(call.pid)
            os.close(call.fd)
        self._finish(call, text_result(call.call_id, text, is_error=True))

    def _expire(self) -> None:
        now = time.monotonic()
        for call in [c for c in self._calls.values() if c.deadline <= now]:
            if isinstance(call, _Bash):
                self._end(call, f"bash: bash command timed out after {call.timeout}s")
            else:
                self._end(call, f"{call.name}: timed out after {call.timeout:g}s")

    def _cancel(self, call_id: str) -> None:
        call = self._calls.get(call_id)
        if call is None:
            return  # it has just finished
        self._end(call, self._place.interrupted)
        if isinstance(call, _Bash):  # the next command gets a new shell
            del self._shells[call.thread]

    # -- out --------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        self._write(pack(message))

    def _write(self, frame: bytes | bytearray) -> None:
        left = memoryview(frame)
        while left:
            left = left[os.write(self._stdout, left) :]


def _be_child(place: Place, call_id: str, name: str, fields: dict[str, Any], writer: int) -> None:
    """Run one tool, write its result frame, and exit without returning to the loop."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        with open(writer, "wb", closefd=False) as pipe:
            pipe.write(pack(_result(place, call_id, name, fields)))
    finally:
        os._exit(0)


def _result(place: Place, call_id: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    from . import files, search

    tools: dict[str, Callable[..., str | list[dict[str, Any]]]] = {
        "read": files.read,
        "write": files.write,
        "edit": files.edit,
        "glob": search.glob,
        "grep": search.grep,
    }
    if name == "check":
        from . import check  # sockets and ctypes, which no tool needs

        tools["check"] = check.run
    try:
        answer = tools[name](place, **fields)
    except ToolFailed as e:
        return bounded_result(place, call_id, str(e), is_error=True)
    except MemoryError:
        return text_result(call_id, f"{name}: out of memory", is_error=True)
    except (ValueError, RecursionError, OSError) as e:  # odd names and odd trees; the reference shows repr
        return text_result(call_id, f"{name}: {e}", is_error=True)
    if isinstance(answer, str):
        return bounded_result(place, call_id, answer, is_error=False)
    return block_result(call_id, answer, is_error=False)


def main() -> None:
    """Read the start message, take the limits on, and serve."""
    os.umask(0o022)  # the host's, otherwise
    stdin, stdout = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    for fd in (stdin, stdout, null):
        os.set_inheritable(fd, False)
    unread = bytearray()
    while len(unread) < HEADER.size or len(unread) < HEADER.size + HEADER.unpack_from(unread)[0]:
        chunk = os.read(stdin, _READ_BYTES)
        if not chunk:
            sys.exit("the host closed the pipe before the start message")
        unread += chunk
    (size,) = HEADER.unpack_from(unread)
    place = Place(json.loads(unread[HEADER.size : HEADER.size + size]))
    del unread[: HEADER.size + size]
    if place.rights:
        from .rights import give_up

        give_up((stdin, stdout), **place.rights)
    os.dup2(null, 2)  # whose walls cannot be completed says so before
    harden(place.limits)
    carrier = _let_out(**place.way_out) if place.way_out else None
    with contextlib.suppress(BrokenPipeError):  # the host is gone, and with it the reason to be here
        Loop(place, stdin, stdout, unread, carrier).run()


def _let_out(way: int | str, port: int, carries: bool) -> Carrier | None:
    from . import way_out

    listening = way_out.listen(port)
    if not carries:
        way_out.hand_out(way, listening)
        return None
    from .carrier import Carrier

    carrier = Carrier(listening, str(way))
    carrier.start()
    return carrier
