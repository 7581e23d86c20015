"""What an attempt has at hand: what it was told, and an eye for canaries in whatever it gets hold of."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from corral.redteam.inside.ends import Held, Untried, Won

CANARY = re.compile(rb"corral-canary-[a-z]+-[0-9a-f]{32}")
BYTES_MAX = 4 << 20  # of one file or answer that is looked through
ANSWER_SECONDS = 4.0
QUIET_SECONDS = 1.5  # after some of an answer: what keeps its connection says no more
_BASIC = re.compile(rb"(?i)\bbasic +([A-Za-z0-9+/]+=*)")


class Box:
    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told = told
        self.found: set[str] = set()
        self.said = ""

    def __getitem__(self, name: str) -> Any:
        """A fact about the machine. Raises Untried if there is none."""
        try:
            return self.told[name]
        except KeyError:
            raise Untried(f"there is no {name.replace('_', ' ')} here") from None

    def fill(self, template: str) -> str:
        """The facts that it names in braces, in their places."""
        return re.sub(r"\{(\w+)\}", lambda name: str(self[name[1]]), template)

    def note(self, why: str) -> None:
        """It was tried, and this came of it; held, unless a canary was found."""
        self.said = why

    def look(self, data: bytes) -> bytes:
        """What is found is known by its digest from then on: it must not lie about in our own memory."""
        told = [_plain(each) for each in _BASIC.findall(data)]  # as a password goes over the wire
        for found in CANARY.findall(b" ".join([data, *told])):
            kind = found.split(b"-")[2].decode()
            self.found.add(f"{kind}:{hashlib.sha256(found).hexdigest()}")
        return data

    @property
    def agent_pid(self) -> int:
        """Of the program that runs tools: process 1, where processes have a namespace of their own."""
        pid = os.getpid()
        if os.readlink("/proc/self/ns/pid") != self["namespaces"].get("pid"):
            return 1
        while pid > 1:
            with open(f"/proc/{pid}/cmdline", "rb") as arguments:
                if b"/agent" in arguments.read():
                    return pid
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                pid = int(stat.read().rpartition(")")[2].split()[1])
        raise Untried("the agent is not found among our parents")

    # -- files ----------------------------------------------------------------------------------------

    def read(self, path: str | int, *, bytes_max: int = BYTES_MAX) -> bytes:
        """Raises OSError."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        fd = path if isinstance(path, int) else os.open(path, flags)
        data = b""
        try:
            while len(data) < bytes_max:
                chunk = os.read(fd, min(1 << 18, bytes_max - len(data)))
                if not chunk:
                    break
                data += chunk
        finally:
            if not isinstance(path, int):
                os.close(fd)
        return self.look(data)

    def is_of_the_machine(self, path: str, data: bytes) -> bool:
        """Whether this is what the machine itself has there."""
        return bool(data) and hashlib.sha256(data).hexdigest() == self.told["digests"].get(path)

    # -- sockets --------------------------------------------------------------------------------------

    def tcp(self, host: str, port: int) -> socket.socket:
        """Raises OSError; Held where nothing answers."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        end = socket.socket(family, socket.SOCK_STREAM)
        end.settimeout(ANSWER_SECONDS)
        try:
            end.connect((host, port))
        except TimeoutError:
            raise Held("nothing answered") from None
        return end

    def proxy(self) -> socket.socket:
        """A connection to the way out of this sandbox. Raises OSError, Untried."""
        try:
            return self.tcp("127.0.0.1", int(self["proxy_port"]))
        except ConnectionRefusedError:
            raise Untried("no proxy listens in this sandbox") from None

    def heard(self, end: socket.socket, *, until: bytes = b"") -> bytes:
        """All that comes, or up to some bytes, or until nothing does."""
        data, patience = b"", end.gettimeout()
        try:
            while len(data) < BYTES_MAX and not (until and until in data):
                chunk = end.recv(65536)
                if not chunk:
                    break
                data += chunk
                end.settimeout(min(patience or QUIET_SECONDS, QUIET_SECONDS))
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
        end.settimeout(patience)
        return self.look(data)

    def say(self, said: bytes | Iterable[bytes]) -> bytes:
        """To the proxy, raw; what comes back until it ends the connection. Raises OSError, Untried."""
        with self.proxy() as end:
            for piece in [said] if isinstance(said, bytes) else said:
                try:
                    end.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
            return self.heard(end)

    def judge(self, answer: bytes) -> None:
        """The proxy's answer: a refusal holds, anything else of a host does not. Raises Held, Won."""
        status = status_of(answer)
        if status in (400, 403, 405, 413, 414, 431, 501, 505):
            raise Held(line_of(answer))
        if b"does not resolve" in answer:
            raise Held("its name does not resolve")
        if not answer:
            raise Held("the proxy ended the connection")
        raise Won(f"the proxy answered: {line_of(answer)}")


def _plain(packed: bytes) -> bytes:
    try:
        return base64.b64decode(packed)
    except ValueError:
        return b""


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] ([0-9]{3})", answer)
    return int(found[1]) if found else 0


def line_of(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0].decode("latin-1")[:200]
