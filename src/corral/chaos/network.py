"""Machines made up on this one: a network namespace for each, joined by a bridge whose ports can be pulled.

    with network(["a", "b"]) as net:
        Node(..., prefix=net.inside("a"))     # its processes see lo and one cable, to the bridge
        async with net.pulled("a"): ...       # not a packet comes or goes; nobody is told

Needs root, and `ip` and `nsenter` (packages iproute2 and util-linux). This process is at `net.address`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Network", "missing", "network"]

_PREFIX_BITS: Final = 24
_OURS: Final = "corral"
_COMMAND_SECONDS: Final = 10.0


def missing() -> str | None:
    """Why there can be no network here, with what to do; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces are for root: run it as root"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"there is no program `{program}`: install the package {package}"
    try:
        with network(["try"]):
            return None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return f"`{' '.join(error.cmd)}`: {said}; network namespaces take CAP_NET_ADMIN and CAP_SYS_ADMIN"


@dataclass(frozen=True, kw_only=True)
class Network:
    """`address` is ours, `addresses` are the machines', by name."""

    name: str
    address: str
    addresses: Mapping[str, str]

    def inside(self, machine: str) -> Sequence[str]:
        """What goes before a command that is to run there; its mounts and processes are ours."""
        return ("nsenter", f"--net=/run/netns/{self.name}{machine}")

    @asynccontextmanager
    async def pulled(self, machine: str) -> AsyncIterator[None]:
        """Meanwhile its packets go nowhere, both ways; connections stay open and hear nothing."""
        _ip("link", "set", self._port(machine), "nomaster")
        try:
            yield
        finally:
            _ip("link", "set", self._port(machine), "master", self.name)

    def _port(self, machine: str) -> str:
        return f"{self.name}-{list(self.addresses).index(machine)}"


@contextmanager
def network(machines: Sequence[str]) -> Iterator[Network]:
    """Make it; it is gone at the end. Raises subprocess.CalledProcessError where that is not allowed."""
    _clear_up()
    number = os.getpid()
    name = f"{_OURS}{number}"  # an interface's name has at most 15 characters
    subnet = f"10.{200 + number % 50}.{number // 50 % 250}"
    made = Network(
        name=name,
        address=f"{subnet}.1",
        addresses={machine: f"{subnet}.{n}" for n, machine in enumerate(machines, start=10)},
    )
    with ExitStack() as stack:
        _ip("link", "add", name, "type", "bridge")
        stack.callback(_ip, "link", "del", name)
        _ip("address", "add", f"{made.address}/{_PREFIX_BITS}", "dev", name)
        _ip("link", "set", name, "up")
        for number, (machine, address) in enumerate(made.addresses.items()):
            space, port = f"{name}{machine}", f"{name}-{number}"
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "del", space)  # and both ends of its cable with it
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", port, "master", name, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "address", "add", f"{address}/{_PREFIX_BITS}", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
        yield made


def _clear_up() -> None:
    """Remove what a process left that was killed."""
    spaces = Path("/run/netns").glob(f"{_OURS}*") if Path("/run/netns").exists() else ()
    for kind, found in (("netns", spaces), ("link", Path("/sys/class/net").glob(f"{_OURS}*"))):
        for path in found:
            number = re.match(rf"{_OURS}(\d+)", path.name)
            if number is not None and not Path("/proc", number[1]).exists():
                with suppress(subprocess.CalledProcessError):  # the other end of what went already
                    _ip(kind, "del", path.name)


def _ip(*words: str) -> None:
    subprocess.run(
        ["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_COMMAND_SECONDS
    )
