"""The way out of sandboxes against the direct way: what a small request waits longer, how much of a large
download's speed is left, and many requests at once.

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figure import Figure, at_least, at_most, percentile, value
from corral.hands.way_out import Egress, WayOut
from corral.session.call import Recipe

BYTES = 200 * 10**6
REQUESTS = 200
AT_ONCE = 200
HOST = "127.0.0.1"
_CHUNK = 1024 * 1024
_ORIGIN = """
import sys
from pathlib import Path
from corral.testing.origin import Origin
with Origin.start(Path(sys.argv[1]) if sys.argv[1] else None) as origin:
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
    on_ready=lambda: print("ready", flush=True),
))
"""

Connect = Callable[[], socket.socket]


async def measure(runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as name:
        folder = Path(name)
        with (
            _child(_ORIGIN, name) as secure,
            _child(_ORIGIN, "") as plain,
            _child(_EGRESS, name) as _,
        ):
            listening = socket.create_server((HOST, 0), backlog=512)
            listening.setblocking(False)
            way_out = WayOut(listening, Egress(folder))
            way_out.open("sesn_bench", Recipe(environment={"networking": {"type": "unrestricted"}}))
            door = int(listening.getsockname()[1])
            try:
                return await asyncio.to_thread(
                    lambda: [_small(runs, door, int(plain), int(secure)), _large(runs, door, int(secure))]
                )
            finally:
                await way_out.close()


def _small(runs: int, door: int, plain: int, secure: int) -> Figure:
    """Each request on a connection of its own, proxied and direct in turns."""
    ways: dict[str, Callable[[], object]] = {
        "clear text, direct": lambda: _get(_direct(plain), "/bytes/100"),
        "clear text, proxied": lambda: _get(_direct(door), f"http://{HOST}:{plain}/bytes/100", port=plain),
        "TLS, direct": lambda: _get(_secured(_direct(secure)), "/bytes/100"),
        "TLS, proxied": lambda: _get(_secured(_tunnel(door, secure)), "/bytes/100"),
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
    with ThreadPoolExecutor(AT_ONCE) as threads:
        results = list(threads.map(lambda _: _tried(ways["TLS, proxied"]), range(AT_ONCE)))
    return Figure(
        title="Small requests out of a sandbox, a connection each",
        values=[
            *(value(f"p50 {name}", ms, "ms") for name, ms in p50.items()),
            value(
                "p50 added in clear text",
                p50["clear text, proxied"] - p50["clear text, direct"],
                "ms",
                at_most(5),
            ),
            value("p50 added to TLS", p50["TLS, proxied"] - p50["TLS, direct"], "ms", at_most(5)),
            value(f"of {AT_ONCE} at once, failed", AT_ONCE - sum(results), "", at_most(0)),
        ],
    )


def _large(runs: int, door: int, secure: int) -> Figure:
    direct, proxied = [], []
    for _ in range(runs):
        direct.append(_speed(lambda: _secured(_direct(secure))))
        proxied.append(_speed(lambda: _secured(_tunnel(door, secure))))
    shares = [100 * there / here for there, here in zip(proxied, direct, strict=True)]
    return Figure(
        title="A download of 200 MB over TLS out of a sandbox",
        values=[
            value("direct", statistics.median(direct), "MB/s"),
            value("proxied", statistics.median(proxied), "MB/s"),
            value("share", statistics.median(shares), "%", at_least(60)),
        ],
        notes=("Client, proxy and origin share this machine's processors.",),
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


def _secured(connection: socket.socket) -> socket.socket:
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
