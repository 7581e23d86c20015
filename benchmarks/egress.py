"""The way out of sandboxes against the direct way: what a small request waits longer, how much of a large
download's speed is left, and many requests at once; with TLS that goes through as it is, and with TLS that
is opened because the session has a credential for the host.

Three processes on this machine: the egress process, an origin (TLS, the standard library's server), and we.
The door is a socket on our own loopback instead of a sandbox's: the same kernel, the same bytes.
"""

import asyncio
import contextlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.figure import Figure, at_least, at_most, percentile, value
from corral.app.credentials import CredentialDuty
from corral.catalog.credentials import place_of
from corral.catalog.repositories import SealedToken
from corral.catalog.vaults import SealedCredential, SealedSecret
from corral.daemon import asked
from corral.hands.way_out import Egress, WayOut
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId
from corral.session.call import Recipe
from corral.vault.seal import seal

BYTES = 200 * 10**6
REQUESTS = 200
AT_ONCE = 200
HOST = "127.0.0.1"
_WITH_CREDENTIAL = "sesn_with"
_CHUNK = 1024 * 1024
_ORIGIN = """
import sys
from pathlib import Path
from corral.testing.origin import Origin
with Origin.start(*((Path(sys.argv[1]), "127.0.0.1") if sys.argv[1] else ())) as origin:
    print(origin.port, flush=True)
    sys.stdin.read()
"""
_EGRESS = """
import asyncio, sys
from pathlib import Path
from corral.egress.policy import OperatorHosts
from corral.egress.process import serve_egress
asyncio.run(serve_egress(
    data_dir=Path(sys.argv[1]),
    operator=OperatorHosts(internal=("*",)),
    trusted=[Path(sys.argv[1]) / "authority.pem"],
    on_ready=lambda: print("ready", flush=True),
))
"""

Connect = Callable[[], socket.socket]


async def measure(runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as name:
        folder = Path(name)
        with _child(_ORIGIN, name) as secure, _child(_ORIGIN, "") as plain, _child(_EGRESS, name) as _:
            store = await _OneCredential.sealed(folder)
            giving = asyncio.ensure_future(CredentialDuty(folder, store).run())
            listening = [_listening(), _listening()]
            ways_out = [WayOut(each, Egress(folder)) for each in listening]
            try:
                recipe = Recipe(environment={"networking": {"type": "unrestricted"}})
                ways_out[0].open("sesn_without", recipe)
                ways_out[1].open(_WITH_CREDENTIAL, replace(recipe, variables={"TOKEN": "a placeholder"}))
                doors = _Doors(
                    *(int(each.getsockname()[1]) for each in listening),
                    plain=int(plain),
                    secure=int(secure),
                )
                return await asyncio.to_thread(_measured, runs, doors)
            finally:
                giving.cancel()
                for way_out in ways_out:
                    await way_out.close()


@dataclass(frozen=True, slots=True)
class _Doors:
    """Ports: of a sandbox's proxy whose session has no credential, of one whose session has one for every
    host, and of the origin."""

    passed: int
    opened: int
    plain: int
    secure: int


class _OneCredential:
    """`catalog.vaults.SessionCredentialStore` of one session that has one."""

    def __init__(self, sealed: SealedCredential) -> None:
        self._sealed = sealed

    @classmethod
    async def sealed(cls, data_dir: Path) -> "_OneCredential":
        _, answer = await asked(data_dir, "egress", "vault/newer", b'{"current": null}', seconds=10)
        record = {
            "id": "vcrd_bench",
            "vault_id": "vlt_bench",
            "updated_at": "2026-01-01T00:00:00Z",
            "auth": {
                "type": "environment_variable",
                "secret_name": "TOKEN",
                "networking": {"type": "unrestricted"},
                "injection_location": {"header": True, "body": False},
            },
        }
        place = place_of(record, "secret_value", workspace_id=DEFAULT_WORKSPACE).encode()
        public = b64decode(answer["key"]["public_key"])
        secret = SealedSecret(
            name="secret_value",
            key_id=answer["key"]["id"],
            sealed=seal(b"a-secret/of+the-bench&marks", public_key=public, place=place),
        )
        return cls(SealedCredential(workspace_id=DEFAULT_WORKSPACE, record=record, secrets=[secret]))

    async def of_session(self, session_id: SessionId) -> Sequence[SealedCredential]:
        return [self._sealed] if session_id == _WITH_CREDENTIAL else []

    async def tokens_of_session(self, session_id: SessionId) -> Sequence[SealedToken]:
        return []


def _measured(runs: int, doors: _Doors) -> list[Figure]:
    with _secured(_tunnel(doors.opened, doors.secure)) as ours, _secured(_direct(doors.secure)) as theirs:
        assert ours.getpeercert(True) != theirs.getpeercert(True), "it was not opened"
    return [_small(runs, doors), _large(runs, doors)]


def _small(runs: int, doors: _Doors) -> Figure:
    """Each request on a connection of its own, proxied and direct in turns."""
    ways: dict[str, Callable[[], object]] = {
        "clear text, direct": lambda: _get(_direct(doors.plain), "/bytes/100"),
        "clear text, proxied": lambda: _get(
            _direct(doors.passed), f"http://{HOST}:{doors.plain}/bytes/100", port=doors.plain
        ),
        "TLS, direct": lambda: _get(_secured(_direct(doors.secure)), "/bytes/100"),
        "TLS, proxied": lambda: _get(_secured(_tunnel(doors.passed, doors.secure)), "/bytes/100"),
        "TLS, opened": lambda: _get(_secured(_tunnel(doors.opened, doors.secure)), "/bytes/100"),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(REQUESTS * max(1, runs // 2)):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            took[name].append((time.perf_counter() - started) * 1000)
    p50 = {name: percentile(each, 50) for name, each in took.items()}
    added = {
        "in clear text": p50["clear text, proxied"] - p50["clear text, direct"],
        "to TLS": p50["TLS, proxied"] - p50["TLS, direct"],
        "to TLS that is opened": p50["TLS, opened"] - p50["TLS, direct"],
    }
    failed = {}
    for name in ("TLS, proxied", "TLS, opened"):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            failed[name] = AT_ONCE - sum(threads.map(lambda _, way=ways[name]: _tried(way), range(AT_ONCE)))
    return Figure(
        title="Small requests out of a sandbox, a connection each",
        values=[
            *(value(f"p50 {name}", ms, "ms") for name, ms in p50.items()),
            *(value(f"p50 added {name}", ms, "ms", at_most(5)) for name, ms in added.items()),
            *(
                value(f"of {AT_ONCE} at once, failed, {way}", n, "", at_most(0))
                for way, n in failed.items()
            ),
        ],
    )


def _large(runs: int, doors: _Doors) -> Figure:
    ways: dict[str, Connect] = {
        "direct": lambda: _secured(_direct(doors.secure)),
        "proxied": lambda: _secured(_tunnel(doors.passed, doors.secure)),
        "opened": lambda: _secured(_tunnel(doors.opened, doors.secure)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, connect in ways.items():
            speeds[name].append(_speed(connect))

    def share(name: str) -> float:
        pairs = zip(speeds[name], speeds["direct"], strict=True)
        return statistics.median(100 * there / here for there, here in pairs)

    return Figure(
        title="A download of 200 MB over TLS out of a sandbox",
        values=[
            *(value(name, statistics.median(each), "MB/s") for name, each in speeds.items()),
            value("share of the direct speed, proxied", share("proxied"), "%", at_least(60)),
            value("share of the direct speed, opened", share("opened"), "%"),
        ],
        notes=(
            "Client, proxy and origin share this machine's processors.",
            "What is opened is decrypted, searched for secrets and encrypted again, on one processor.",
        ),
    )


def _speed(connect: Connect) -> float:
    started = time.perf_counter()
    _get(connect(), f"/bytes/{BYTES}", size=BYTES)
    return BYTES / 1e6 / (time.perf_counter() - started)


def _tried(way: Callable[[], object]) -> bool:
    try:
        way()
    except OSError:
        return False
    return True


def _listening() -> socket.socket:
    listening = socket.create_server((HOST, 0), backlog=512)
    listening.setblocking(False)
    return listening


# -- a client that costs little ---------------------------------------------------------------------------


def _get(connection: socket.socket, target: str, *, size: int = 100, port: int | None = None) -> None:
    """Raises OSError if the answer is not whole."""
    with connection:
        host = HOST if port is None else f"{HOST}:{port}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = connection.recv(65536)
            if not chunk:
                raise ConnectionResetError
            head += chunk
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionRefusedError(head[:200])
        got = len(head.partition(b"\r\n\r\n")[2])
        room = bytearray(_CHUNK)
        while got < size:
            more = connection.recv_into(room)
            if not more:
                raise ConnectionResetError
            got += more


def _direct(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _tunnel(door: int, port: int) -> socket.socket:
    connection = _direct(door)
    connection.sendall(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        chunk = connection.recv(4096)
        if not chunk:
            raise ConnectionResetError
        answer += chunk
    if b" 200 " not in answer[:16]:
        raise ConnectionRefusedError(answer[:200])
    return connection


_TLS = ssl.create_default_context()
_TLS.check_hostname, _TLS.verify_mode = False, ssl.CERT_NONE


def _secured(connection: socket.socket) -> ssl.SSLSocket:
    return _TLS.wrap_socket(connection)


@contextmanager
def _child(program: str, argument: str) -> Iterator[str]:
    """Its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", program, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        try:
            yield child.stdout.readline()
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
