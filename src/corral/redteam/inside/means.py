"""The ways in which many attempts go about it, as functions that make one: `reads("/etc/shadow")`. Facts in
braces are filled in: `reads("/proc/{hands_pid}/environ")`."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence

from corral.redteam.inside.box import Box, line_of
from corral.redteam.inside.calls import call
from corral.redteam.inside.ends import Held, Untried, Won

Tries = Callable[[Box], object]

_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP)


def reads(path: str, *, mode: str = "content") -> Tries:
    """Content of the machine, by its digest or a canary in it. mode "anything": whatever can be read of it
    is too much."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        if where in box.told["absent"]:
            raise Untried(f"this machine has no {where}")
        data = box.read(where)
        if box.is_of_the_machine(where, data):
            raise Won(f"{where} is the machine's own")
        if mode == "anything" and data.strip(b"\0\n "):
            raise Won(f"{len(data)} bytes of {where}")
        box.note(f"{len(data)} bytes, which are not the machine's")

    return tries


def opens_for_writing(path: str) -> Tries:
    """Opened only: nothing is written."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        os.close(os.open(where, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
        raise Won(f"{where} opens for writing")

    return tries


def makes(path: str) -> Tries:
    """A new file in a place that is not ours; it is taken away again."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with contextlib.suppress(OSError):
            os.unlink(where)
        raise Won(f"{where} was made")

    return tries


def lists(path: str) -> Tries:
    """What is in a directory that only the machine has."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        theirs = set(box.told["listings"].get(where, ()))
        if common := sorted(theirs & set(os.listdir(where))):
            raise Won(f"{where} has {', '.join(common[:5])}")
        box.note("it has nothing of the machine's")

    return tries


def tells(path: str) -> Tries:
    """That a path of the machine is there, by the number of its inode."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        if list(box.told["inodes"].get(where, ())) == [os.lstat(where).st_ino]:
            raise Won(f"{where} is there")
        box.note("another one is there")

    return tries


def calls(name: str, *arguments: object, refused: Sequence[int] = ()) -> Tries:
    """A system call that should not reach the kernel: only these errors are a refusal."""

    def tries(box: Box) -> None:
        try:
            result = call(name, *arguments)
        except OSError as error:
            if error.errno in (*_REFUSED, *refused):
                raise
            raise Won(f"{name} reached the kernel: {errno.errorcode.get(error.errno or 0)}") from None
        raise Won(f"{name} returned {result}")

    return tries


def connects(host: str, port: str) -> Tries:
    """Past the proxy."""

    def tries(box: Box) -> None:
        with box.tcp(box.fill(host), int(box.fill(port))) as end:
            end.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = box.heard(end)
        raise Won(f"connected, and heard {len(said)} bytes")

    return tries


def sends(host: str, port: str, data: bytes = b"redteam") -> Tries:
    """A datagram: it is known outside whether it came."""

    def tries(box: Box) -> None:
        where = box.fill(host)
        family = socket.AF_INET6 if ":" in where else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.settimeout(0.3)
            end.sendto(data, (where, int(box.fill(port))))
            with contextlib.suppress(socket.timeout):
                box.look(end.recv(4096))
        box.note("it was taken, and nothing came back")

    return tries


def connects_unix(path: str, *, said: bytes = b"GET / HTTP/1.0\r\n\r\n") -> Tries:
    """path: "@name" is an abstract one."""

    def tries(box: Box) -> None:
        where = box.fill(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(2.0)
            end.connect("\0" + where[1:] if where.startswith("@") else where)
            end.sendall(said)
            heard = box.heard(end)
        raise Won(f"connected, and heard {len(heard)} bytes")

    return tries


def proxied(host: str, port: str, *, path: str = "/") -> Tries:
    """An address or name that must not be reached, asked of the proxy in both ways."""

    def tries(box: Box) -> None:
        where = f"{box.fill(host)}:{box.fill(port)}"
        ending = f"Host: {where}\r\nConnection: close\r\n\r\n"
        answer = box.say(f"CONNECT {where} HTTP/1.1\r\n{ending}".encode())
        with contextlib.suppress(Held):
            box.judge(answer)
        box.judge(box.say(f"GET http://{where}{path} HTTP/1.1\r\n{ending}".encode()))

    return tries


def says(*pieces: str | bytes, judged: bool = True) -> Tries:
    """Bytes to the proxy as they are. judged: an answer that is no refusal is too much; otherwise only what
    shows outside."""

    def tries(box: Box) -> None:
        said = [box.fill(piece).encode("latin-1") if isinstance(piece, str) else piece for piece in pieces]
        answer = box.say(said)
        if judged:
            box.judge(answer)
        box.note(f"answered: {line_of(answer) or 'nothing'}")

    return tries


def runs(
    *command: str, seconds: float = 6.0, shows: str = "", environment: dict[str, str] | None = None
) -> Tries:
    """A program that is there. shows: what its output would say if it had worked."""

    def tries(box: Box) -> None:
        code, output = output_of(box, *command, seconds=seconds, environment=environment)
        if shows and box.fill(shows).encode() in output:
            raise Won(output.decode(errors="replace")[:200])
        box.note(f"it ended with {code}: {output.decode(errors='replace').strip()[-160:]}")

    return tries


def output_of(
    box: Box, *command: str, seconds: float = 6.0, environment: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Exit code, and what it said on both ways. Raises Untried where there is no such program."""
    words = [box.fill(word) for word in command]
    if shutil.which(words[0]) is None:
        raise Untried(f"there is no {words[0]} in this sandbox")
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Untried(f"{words[0]} took too long") from None
    return done.returncode, box.look(done.stdout)
