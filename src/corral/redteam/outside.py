"""What lies around the sandboxes, and notices when something inside reaches it: files, a process, services.

Everything here is open to everybody on the machine: what keeps a sandbox away from it is its walls alone.
`trips` says what was reached; attempts name it in `watches`.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.redteam.canaries import Canaries
from corral.redteam.origin import Origin
from corral.session.content import Json
from corral.testing.certificates import certificates

__all__ = ["Outside", "started_at"]

_VICTIM: Final = """
import sys
held = sys.stdin.readline().strip()
print("ready", flush=True)
sys.stdin.read()  # ends with whoever started it
"""
_IPC_CREAT, _IPC_RMID, _SHM_BYTES = 0o1000, 0, 4096


@dataclass(kw_only=True)
class Outside:
    """root: others pass through it. facts: what attempts are told of all this."""

    root: Path
    canaries: Canaries
    facts: dict[str, Json] = field(default_factory=dict)
    heard: dict[str, list[str]] = field(default_factory=dict)
    victim: subprocess.Popen[bytes] | None = None
    allowed: Origin | None = None
    origins: dict[str, Origin] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def around(cls, root: Path, canaries: Canaries) -> "AsyncIterator[Outside]":
        outside = cls(root=root, canaries=canaries)
        async with contextlib.AsyncExitStack() as stack:
            outside._lay_out()
            stack.enter_context(outside._process())
            stack.enter_context(outside._shared())
            await outside._listen(stack)
            outside._serve(stack)
            outside._know_the_machine()
            yield outside

    def trips(self) -> Mapping[str, str]:
        """What was reached -> how that shows."""
        found = {what: "; ".join(dict.fromkeys(said))[:300] for what, said in self.heard.items() if said}
        if self.allowed is not None and (hidden := self.allowed.hidden()):
            found["smuggled"] = f"the host that is allowed was asked for {hidden[0]}"
        assert self.victim is not None
        if self.victim.poll() is not None:
            found["victim"] = f"the process outside ended with {self.victim.returncode}"
        if changed := self._changed():
            found["outside"] = changed
        return found

    def hear(self, what: str, said: str) -> None:
        self.heard.setdefault(what, []).append(said)

    # -- files ------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        folder = self.root / "outside"
        folder.mkdir()
        folder.chmod(0o777)
        (self.root / "secret").write_text(self.canaries.plant("file"))
        (folder / "within").write_text(self.canaries.plant("directory"))
        (folder / "victim").write_text("as it was")
        (folder / "victim").chmod(0o666)
        self.facts |= {
            "outside": str(folder),
            "outside_secret": str(self.root / "secret"),
            "outside_victim": str(folder / "victim"),
        }
        self._victim_state = _state(folder / "victim")
        shared = Path("/dev/shm", self.root.name)  # noqa: S108
        if shared.parent.is_dir() and os.access(shared.parent, os.W_OK):
            shared.write_text(self.canaries.plant("shm"))
            self.facts["shared_file"] = str(shared)
        if shutil.which("git"):
            self._make_repository(self.root / "repository")

    def _make_repository(self, path: Path) -> None:
        def git(*words: str) -> str:
            command = ["git", "-c", "user.name=r", "-c", "user.email=r@localhost", "-C", str(path), *words]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        path.mkdir()
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", self.canaries.plant("repository"))
        git("repack", "-q", "-a")
        subprocess.run(["chmod", "-R", "a+rX", str(path)], check=True)
        self.facts |= {"host_repository": str(path / ".git"), "host_commit": git("rev-parse", "HEAD")}

    def _changed(self) -> str:
        folder = self.root / "outside"
        if strange := {each.name for each in folder.iterdir()} - {"victim", "within", "open.sock"}:
            return f"there is a new {sorted(strange)[0]!r} in a directory of the machine"
        if _state(folder / "victim") != self._victim_state:
            return "a file of the machine was changed"
        return ""

    # -- a process, and memory -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _process(self) -> Iterator[None]:
        argument, secret = self.canaries.plant("victimargv"), self.canaries.plant("victimenv")
        self.victim = subprocess.Popen(
            [sys.executable, "-IS", "-c", _VICTIM, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath, "SECRET": secret},
            start_new_session=True,
        )
        try:
            assert self.victim.stdin and self.victim.stdout
            self.victim.stdin.write(self.canaries.plant("victimmemory").encode() + b"\n")
            self.victim.stdin.flush()
            self.victim.stdout.readline()
            self.know("victim", self.victim.pid)
            yield
        finally:
            self.victim.kill()
            self.victim.communicate()

    def know(self, name: str, pid: int) -> None:
        """A process that attempts are told of, so that they can tell it from one with the same number."""
        self.facts |= {f"{name}_pid": pid, f"{name}_started": started_at(pid)}

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        """System V shared memory that everybody may open."""
        libc = ctypes.CDLL(None, use_errno=True)
        key = 0x5EC00000 | os.getpid() & 0xFFFFF
        number = libc.shmget(key, _SHM_BYTES, _IPC_CREAT | 0o666)
        if number >= 0:
            self.facts["shared_memory_key"] = key
        try:
            yield
        finally:
            if number >= 0:
                libc.shmctl(number, _IPC_RMID, None)
            if "shared_file" in self.facts:
                Path(self.facts["shared_file"]).unlink(missing_ok=True)

    # -- services ---------------------------------------------------------------------------------------

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Services that must hear nobody; each answers with a secret of its own."""
        forbidden = self._answering("forbidden", "service")
        port = 0
        for host in ("127.0.0.1", "::1"):
            with contextlib.suppress(OSError):
                server = await asyncio.start_server(forbidden, host, port)
                port = port or server.sockets[0].getsockname()[1]
                await stack.enter_async_context(server)
        address = _address()
        if address is not None:
            with contextlib.suppress(OSError):
                await stack.enter_async_context(await asyncio.start_server(forbidden, address, port))
                self.facts["address"] = address
        self.facts["forbidden_port"] = port
        path = self.root / "outside" / "open.sock"
        await stack.enter_async_context(
            await asyncio.start_unix_server(self._answering("unix", "socket"), path)
        )
        path.chmod(0o777)
        name = f"corral-redteam-{self.root.name}"
        await stack.enter_async_context(
            await asyncio.start_unix_server(self._answering("abstract", "abstract"), f"\0{name}")
        )
        self.facts |= {"unix_socket": str(path), "abstract_socket": name}
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self.hear),
            local_addr=("0.0.0.0", 0),  # noqa: S104
            allow_broadcast=True,
        )
        stack.callback(transport.close)
        self.facts["datagram_port"] = transport.get_extra_info("sockname")[1]

    def _answering(self, what: str, kind: str) -> Callable[..., Any]:
        said = self.canaries.plant(kind).encode()
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(said)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.hear(what, "it took a connection")
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await reader.read(65536)
                writer.write(head + said)
                await writer.drain()
            writer.close()

        return answer

    def _serve(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> None:
        """Web servers: of a host that may be reached, in clear text and with TLS, and one that may not."""
        authority, chain, key = certificates(self.root, "allowed.test", "foreign.test")
        self.allowed = stack.enter_context(Origin.start())
        secure = stack.enter_context(Origin.start(certificate=(chain, key)))
        elsewhere = stack.enter_context(Origin.start(certificate=(chain, key)))
        said = self.canaries.plant("foreign")
        foreign = stack.enter_context(Origin.start(on_request=lambda path: self._foreign(path), body=said))
        self.origins = {
            "allowed": self.allowed,
            "secure": secure,
            "foreign": foreign,
            "elsewhere": elsewhere,
        }
        self.facts |= {
            "allowed_port": self.allowed.port,
            "secure_port": secure.port,
            "foreign_secure_port": elsewhere.port,
            "foreign_port": foreign.port,
            "authority": authority.read_text(),
        }

    def _foreign(self, path: str) -> None:
        self.hear("foreign", f"a host that is not allowed was asked for {path}")

    # -- the machine ------------------------------------------------------------------------------------

    def _know_the_machine(self) -> None:
        from corral.redteam.inside.attempts.files import SECRET_FILES

        looked = [*SECRET_FILES, "/etc/resolv.conf", *_OF_THE_KERNEL]
        digests = {path: digest for path in looked if (digest := _digest(Path(path)))}
        outside = Path(str(self.facts["outside"]))
        self.facts |= {
            "digests": digests,
            "absent": [path for path in SECRET_FILES if not Path(path).exists()],
            "listings": {str(outside): [each.name for each in outside.iterdir()]},
            "inodes": {
                str(self.facts["outside_secret"]): [Path(str(self.facts["outside_secret"])).stat().st_ino]
            },
            "namespaces": {each.name: str(each.readlink()) for each in Path("/proc/self/ns").iterdir()},
            "devices": [
                str(each.relative_to("/dev")) for each in Path("/dev").rglob("*") if not each.is_dir()
            ],
            "interfaces": [name for _, name in socket.if_nameindex()],
            **({"gateway": gateway} if (gateway := _gateway()) else {}),
        }


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[str, str], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._hear("datagram", "a datagram came")


_OF_THE_KERNEL: Final = (
    "/proc/version", "/proc/sys/kernel/random/boot_id", "/proc/cmdline", "/proc/partitions",
    "/proc/sys/kernel/osrelease", "/proc/key-users",
)  # fmt: skip


def started_at(pid: int) -> int:
    """Ticks after boot; with it, a pid names one process for ever."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _state(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return path.read_bytes(), found.st_mode, found.st_mtime_ns


def _digest(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest() if content else None


def _address() -> str | None:
    """One of this machine that is not its loopback."""
    import psutil  # type: ignore[import-untyped]

    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if name != "lo" and each.family == socket.AF_INET:
                return str(each.address)
    return None


def _gateway() -> str | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return socket.inet_ntoa(int(fields[2], 16).to_bytes(4, "little"))
    return None
