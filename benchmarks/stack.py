"""All of Corral's processes on a fresh data directory, as `corral serve` starts them, and clients of it."""

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil  # type: ignore[import-untyped]
from anthropic import AsyncAnthropic

from benchmarks.machine import Disk
from benchmarks.upstream import MODEL, Upstream, upstream
from corral.daemon import socket_path, token_path
from corral.hands.client import HandsClient

_READY_SECONDS_MAX, _STOP_SECONDS_MAX, _TURN_SECONDS_MAX = 30.0, 25.0, 60.0
_SETTLED_SECONDS, _SETTLED_BYTES, _SETTLE_SECONDS_MAX = 1.0, 256 * 1024, 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running Corral. `ready_seconds`: from starting the process to its ready line."""

    url: str
    api_key: str
    data_dir: Path
    ready_seconds: float
    pid: int

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it, warm sandboxes included."""
        supervisor = psutil.Process(self.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def process(self, role: str) -> psutil.Process:
        return next(each for each in self.processes() if each.cmdline()[-1:] == [role])

    def hands(self) -> HandsClient:
        token = token_path(self.data_dir, "hands").read_text()
        return HandsClient(socket_path(self.data_dir, "hands"), token=token)

    def client(self) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=self.url, api_key=self.api_key, max_retries=0)


@contextlib.contextmanager
def server(
    *,
    model_url: str,
    data_dir: Path,
    roles: Sequence[str] = (),
    database_url: str | None = None,
    api_key: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start one node, and at the end stop all of it: politely, then by pid. `roles`: all unless given.
    settings: more of its environment."""
    api_key = api_key or f"corral_{secrets.token_urlsafe(16)}"
    own = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    options = ["--json", "--port", "0", "--data-dir", str(data_dir), "--log-level", "error"]
    options += [word for role in roles for word in ("--role", role)]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "corral.cli", "serve", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(data_dir / "supervisor.log").open("wb"),
        cwd=data_dir,  # where no corral.toml is
        env=own
        | {
            "CORRAL_API_KEY": api_key,
            "CORRAL_ANTHROPIC_API_KEY": "made-up",
            "CORRAL_ANTHROPIC_BASE_URL": model_url,
        }
        | dict(settings or {})
        | ({"CORRAL_DATABASE_URL": database_url} if database_url else {})
        | ({"CORRAL_BLOB_URL": (data_dir.parent / "blobs").as_uri()} if roles else {}),
        start_new_session=True,
        preexec_fn=_end_with_us,
    )
    try:
        line = _first_line(process, started + _READY_SECONDS_MAX)
        ready_seconds = time.monotonic() - started
        if not line:
            raise SystemExit(f"Corral did not start:\n{(data_dir / 'supervisor.log').read_text()[-4000:]}")
        yield Server(
            url=json.loads(line)["url"],
            api_key=api_key,
            data_dir=data_dir,
            ready_seconds=ready_seconds,
            pid=process.pid,
        )
    finally:
        _stop(process)


def _end_with_us() -> None:
    """Should this process be killed, the supervisor gets SIGTERM and takes its processes along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _first_line(process: "subprocess.Popen[bytes]", until: float) -> bytes:
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    line = b""
    while time.monotonic() < until and process.poll() is None and not line.endswith(b"\n"):
        line += process.stdout.read() or b""
        time.sleep(0.002)
    return line if line.endswith(b"\n") else b""


def _stop(process: "subprocess.Popen[bytes]") -> None:
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in psutil.wait_procs(family, timeout=2.0)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A running Corral, the model behind it, a client, an agent with the built-in tools, and the disk."""

    server: Server
    others: Sequence[Server]
    upstream: Upstream
    disk: Disk
    client: AsyncAnthropic
    agent_id: str
    environment_id: str

    async def session_id(self) -> str:
        session = await self.client.beta.sessions.create(
            agent=self.agent_id, environment_id=self.environment_id
        )
        return session.id


@contextlib.asynccontextmanager
async def stage(
    *,
    database_url: str | None = None,
    nodes: Sequence[Sequence[str]] = ((),),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """A fresh one, on the file system of the working directory's temporary files (not one in memory).

    nodes: the roles of each node, on one database; the clients speak to the first.
    """
    with tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as name:
        data_dir = Path(name)
        data_dir.chmod(0o711)  # sandboxes of some kinds pass through it under a uid of their own
        with contextlib.ExitStack() as stack:
            model = stack.enter_context(upstream())
            api_key = f"corral_{secrets.token_urlsafe(16)}"
            running = []
            for number, roles in enumerate(nodes):
                (directory := data_dir / str(number)).mkdir()
                running.append(
                    stack.enter_context(
                        server(
                            model_url=model.url,
                            data_dir=directory,
                            roles=roles,
                            database_url=database_url,
                            api_key=api_key,
                            settings=settings,
                        )
                    )
                )
            disk = stack.enter_context(contextlib.closing(Disk(data_dir)))
            async with running[0].client() as client:
                agent = await client.beta.agents.create(
                    name="bench",
                    model=MODEL,
                    tools=[
                        {
                            "type": "agent_toolset_20260401",
                            "default_config": {
                                "enabled": True,
                                "permission_policy": {"type": "always_allow"},
                            },
                        }
                    ],
                )
                environment = await client.beta.environments.create(name="bench", config={"type": "cloud"})
                yield Stage(
                    server=running[0],
                    others=running[1:],
                    upstream=model,
                    disk=disk,
                    client=client,
                    agent_id=agent.id,
                    environment_id=environment.id,
                )


def durable_directory() -> str:
    """Where an fsync means something: not a file system in memory."""
    for candidate in (tempfile.gettempdir(), str(Path.cwd())):
        mounts = [m for m in psutil.disk_partitions(all=True) if _is_under(candidate, m.mountpoint)]
        if max(mounts, key=lambda mount: len(mount.mountpoint)).fstype != "tmpfs":
            return candidate
    raise SystemExit("no disk: both the temporary and the working directory are in memory; set TMPDIR")


def _is_under(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(folder)


class Conversation:
    """One session with an open stream; every event is stamped when the SDK hands it out.

    Use as an async context manager. `deltas`: also ask for previews of messages.
    """

    def __init__(self, at: Stage, *, session_id: str, deltas: bool = False) -> None:
        self.session_id = session_id
        self._client = at.client
        self._deltas = deltas
        self._events: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()

    async def __aenter__(self) -> "Conversation":
        wanted: dict[str, Any] = {"event_deltas": ["agent.message"]} if self._deltas else {}
        self._stream = await self._client.beta.sessions.events.stream(self.session_id, **wanted)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._stream.close()

    async def _read(self) -> None:
        async for event in self._stream:
            self._events.put_nowait((time.monotonic(), event))

    async def turn(self, text: str) -> list[tuple[float, Any]]:
        """Send one message and return what came until the session was idle, with arrival times.

        Raises TimeoutError after a minute.
        """
        async with asyncio.timeout(_TURN_SECONDS_MAX):
            await self._client.beta.sessions.events.send(
                self.session_id,
                events=[{"type": "user.message", "content": [{"type": "text", "text": text}]}],
            )
            came = []
            while True:
                came.append(await self._events.get())
                if came[-1][1].type == "session.status_idle":
                    return came


def first(events: list[tuple[float, Any]], kind: str) -> float:
    """When the first event of this type arrived. Raises RuntimeError with what came instead."""
    for at, event in events:
        if event.type == kind:
            return at
    raise RuntimeError(f"no {kind} among {[event.type for _, event in events]}")


def calls(turn: list[tuple[float, Any]]) -> list[tuple[float, float]]:
    """Seconds of each call: between the arrivals at the client, and between the events' own times."""
    uses = {event.id: (at, event) for at, event in turn if event.type == "agent.tool_use"}
    seconds = []
    for at, event in turn:
        if event.type == "agent.tool_result":
            if event.is_error:
                raise RuntimeError(f"the bash call failed: {event.content}")
            used_at, use = uses[event.tool_use_id]
            seconds.append((at - used_at, (event.processed_at - use.processed_at).total_seconds()))
    return seconds


def cpu_seconds(*processes: psutil.Process) -> float:
    """Used since each of them started: says what code costs, whoever else is busy on this machine."""
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


async def settled_rss(process: psutil.Process) -> int:
    """Resident bytes once they have stopped moving (or after a while)."""
    until = time.monotonic() + _SETTLE_SECONDS_MAX
    before: int = process.memory_info().rss
    while time.monotonic() < until:
        await asyncio.sleep(_SETTLED_SECONDS)
        now: int = process.memory_info().rss
        if abs(now - before) < _SETTLED_BYTES:
            return now
        before = now
    return before
