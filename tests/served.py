"""A real Corral: supervisor, server, hands and egress as processes, driven by the unmodified SDK."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import anthropic

from corral.config import Config, Secret
from corral.kernel.ids import SessionId
from corral.session.log import Snapshot
from corral.store.engine import sqlite_engine
from corral.store.reading import snapshot
from corral.supervisor.datadir import read_state

T = TypeVar("T")
KEY = "corral_test_key_of_the_test_suite"
READY_SECONDS = 90.0
WAIT_SECONDS = 60.0  # for what takes moments where nobody else computes


@dataclass
class Served:
    """A running server. `kill`, `stop` and `start` may be called in between; the data directory stays."""

    config: Config
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    url: str = ""
    process: asyncio.subprocess.Process | None = None
    deaths: int = 0  # of the server or the hands, under this supervisor
    client: anthropic.AsyncAnthropic = field(init=False)

    async def start(self) -> None:
        self.deaths = 0
        with self.log_path.open("ab") as stderr:
            self.process = await asyncio.create_subprocess_exec(
                *(self.python, "-m", "corral.supervisor", "--json"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **self.environment},
            )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(self.config.to_json()).encode() + b"\n")
        await self.process.stdin.drain()
        line = await asyncio.wait_for(self.process.stdout.readline(), READY_SECONDS)
        assert line, f"the server did not start:\n{self.log}"
        self.url = json.loads(line)["url"]
        # Clients that were told a port expect it again after a restart.
        self.config = replace(self.config, port=int(self.url.rpartition(":")[2]))

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), WAIT_SECONDS)

    async def restart(self) -> None:
        """kill -9 the supervisor and start another, which adopts the hands."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await self.start()

    # -- its processes -------------------------------------------------------------------------------
    def pid(self, role: str) -> int:
        """The process of a role, as the supervisor knows it."""
        pid = self._known_pid(role)
        assert pid is not None, f"{role} is being started"
        return pid

    def _known_pid(self, role: str) -> int | None:
        """None while there is none: it has died, or begins."""
        state = read_state(self.config.data_dir)
        assert state is not None
        return next(each["pid"] for each in state["processes"] if each["role"] == role)

    async def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        """kill -9 one process of this server (or another signal) and return when it is gone. One that is
        being started is waited for."""
        pid = await until(lambda: (found := self._known_pid(role)) is not None and lives(found) and found)
        self.deaths += 1
        os.kill(pid, number)
        await until(lambda: not lives(pid))

    def crash_at(self, point: str) -> None:
        """The process that next passes this point dies there; `name:2` the time after. Needs `crashing`."""
        self.deaths += 1
        self._crash_file.write_text(point)

    def has_crashed(self) -> bool:
        return not self._crash_file.exists()

    @property
    def _crash_file(self) -> Path:
        return Path(self.environment["CORRAL_CRASH_AT"].removeprefix("@"))

    # -- what it leaves on disk --------------------------------------------------------------------------
    @property
    def log_path(self) -> Path:
        return self.config.data_dir / "stderr.log"

    @property
    def log(self) -> str:
        """What all its processes have said."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """All files of the data directory that are still there when they are looked at, with what is in
        them: those of running processes come and go."""
        for directory, _, names in os.walk(self.config.data_dir):
            for path in (Path(directory, name) for name in names):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        yield path, path.read_bytes()

    def workspace(self, session_id: str) -> Path:
        """What a session's sandbox sees as its working directory."""
        return self.config.data_dir / "hands" / "workspaces" / session_id / "files"

    def snapshot(self, session_id: str) -> Snapshot:
        """The session as the database has it, private payloads and all."""
        engine = sqlite_engine(self.config.data_dir / "corral.db", writes=False)
        try:
            with engine.begin() as connection:
                return snapshot(connection, SessionId(session_id), after_seq=0)
        finally:
            engine.dispose()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until(found: Callable[[], T], *, seconds: float = WAIT_SECONDS, every: float = 0.01) -> T:
    """The first true value of something that has no signal of its own."""
    async with asyncio.timeout(seconds):
        while not (value := found()):  # noqa: ASYNC110
            await asyncio.sleep(every)
    return value


@asynccontextmanager
async def served(
    *,
    messages_url: str | None = None,
    crashing: bool = False,
    settings: Mapping[str, Any] | None = None,
    parent: Path | None = None,
    python: str = sys.executable,
    **environment: str,
) -> AsyncIterator[Served]:
    """Start a server in a data directory of its own; everything is gone afterwards.

    crashing: its crash points can be chosen while it runs. settings: more fields of its Config.
    parent: where its data directory is made. python: that runs it.
    """
    # Not under pytest's directories: a unix socket's path holds 107 bytes.
    data_dir = Path(tempfile.mkdtemp(prefix="corral-", dir=parent))
    config = Config(
        port=0,
        data_dir=data_dir,
        api_key=Secret(KEY),
        anthropic_api_key=Secret("upstream-key"),
        anthropic_base_url=messages_url,
        log_level="warning",
    )
    config = replace(config, **(settings or {}))
    if crashing:
        environment["CORRAL_CRASH_AT"] = f"@{data_dir / 'crash_at'}"
    server = Served(config, environment, python)
    try:
        await server.start()
        # No retries: a test sees the first answer. Strict: what the SDK's types do not allow is an error.
        async with anthropic.AsyncAnthropic(
            base_url=server.url,
            api_key=KEY,
            max_retries=0,
            timeout=WAIT_SECONDS,
            _strict_response_validation=True,
        ) as server.client:
            yield server
    finally:
        await server.stop()
        sys.stderr.write(server.log)  # shown by pytest when a test fails
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(data_dir)


def text(words: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": words}]}
