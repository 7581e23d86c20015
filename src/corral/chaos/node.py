"""One node of the cluster under test: the processes of one `corral serve` on its own data directory."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from corral.chaos.history import Trouble
from corral.kernel.limits import SERVER_DRAIN_SECONDS
from corral.supervisor.datadir import read_state

__all__ = ["Node", "StartFailed", "lives"]

READY_SECONDS: Final = 180.0  # a start took 25 s at load 16, and PostgreSQL may die in each of several
STOP_SECONDS: Final = SERVER_DRAIN_SECONDS + 25.0
LOOK_SECONDS: Final = 0.02  # how often we look at what has no signal of its own
SLACK: Final = timedelta(seconds=0.5)  # between a process's end and our knowing of it


class StartFailed(Exception):
    """A node did not come up; the message ends with the end of its log."""


class Node:
    """`start` and `stop` as a user would; `kill` and `crash_at` as an accident would.

    settings: CORRAL_* variables of `corral serve`, secrets among them.
    options:  further arguments of `corral serve`, such as `--role brain`.
    prefix:   a command that becomes it, such as one that enters a namespace first.
    """

    def __init__(
        self,
        name: str,
        data_dir: Path,
        *,
        settings: Mapping[str, str],
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.data_dir = data_dir
        self.url = ""
        self.troubles: list[Trouble] = []
        self.killed_at: datetime | None = None  # when `kill` last sent its signal
        self._settings = dict(settings)
        self._options = list(options)
        self._prefix = list(prefix)
        self._process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._crash_file = data_dir / "crash_at"
        self.faults_path = data_dir / "faults"  # what `kernel.faults` reads
        self._roles: frozenset[str] = frozenset()

    # -- as a user would --------------------------------------------------------------------------------

    async def start(self, **settings: str) -> None:
        """Start it and wait until it serves. Raises StartFailed."""
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
        options = ["--json", "--port", str(self._port), "--data-dir", str(self.data_dir)]
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._prefix,
                *(sys.executable, "-m", "corral.cli", "serve", "--embedded", *options),
                *self._options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self.data_dir,  # where no corral.toml is
                env=own
                | self._settings
                | settings
                | {"CORRAL_CRASH_AT": f"@{self._crash_file}", "CORRAL_FAULTS": f"@{self.faults_path}"},
                start_new_session=True,  # Ctrl-C is for us
            )
        assert self._process.stdout
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_SECONDS)
            self.url = json.loads(line).get("url") or ""
        except (TimeoutError, ValueError) as error:
            raise StartFailed(f"{self.name} did not start:\n{self.log[-3000:]}") from error
        if self.url:  # clients that were told a port expect it again after a restart
            self._port = int(self.url.rpartition(":")[2])
        self._roles = self._roles or frozenset(self.processes())

    async def stop(self) -> None:
        """SIGTERM, and wait. Repeat: safe."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
                raise

    # -- its processes ----------------------------------------------------------------------------------

    @property
    def started_pid(self) -> int | None:
        """Of the process that we started last and wait for, running or not."""
        return None if self._process is None else self._process.pid

    @property
    def supervisor_pid(self) -> int | None:
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    def processes(self) -> Mapping[str, int]:
        """Pids of the roles that are up, as the supervisor knows them."""
        state = read_state(self.data_dir)
        if state is None:
            return {}
        listed: Sequence[Mapping[str, object]] = state["processes"]  # type: ignore[assignment]  # JSON
        return {str(each["role"]): int(str(each["pid"])) for each in listed if each["is_up"]}

    def expected(self) -> frozenset[str]:
        """The roles that were up when it was ready for the first time."""
        return self._roles

    async def up(self, role: str, *, but: int | None = None, seconds: float = READY_SECONDS) -> int | None:
        """The pid of a role once it is up, and is another than `but`; None if that takes too long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid = self.processes().get(role)
            if pid is not None and pid != but and lives(pid):
                return pid
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def has_spare(self, *, seconds: float) -> bool:
        """Whether a server process stands by to replace the one that serves, within this time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state: Mapping[str, Any] = read_state(self.data_dir) or {}
            if state.get("spare", {}).get("is_ready"):
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    # -- as an accident would ---------------------------------------------------------------------------

    async def kill(self, role: str, number: int = signal.SIGKILL) -> int | None:
        """Send a signal to one process and return its pid when it is gone; None if it was not up."""
        pid = self.processes().get(role)
        if pid is None:
            return None
        self.killed_at = datetime.now(UTC)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        await ended(pid, seconds=STOP_SECONDS)
        return pid

    async def kill_all(self) -> None:
        """SIGKILL the supervisor: the server goes with it, hands and egress wait to be adopted."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def crash_at(self, point: str) -> None:
        """The process that next passes this point dies there."""
        draft = self._crash_file.with_suffix(".new")
        draft.write_text(point)
        draft.rename(self._crash_file)

    async def has_crashed(self, *, seconds: float) -> bool:
        """Whether it did, within this time; if not, the point is taken back."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self._crash_file.exists():
                return True
            await asyncio.sleep(LOOK_SECONDS)
        try:
            self._crash_file.unlink()
        except FileNotFoundError:
            return True
        return False

    @contextmanager
    def in_trouble(self, *, is_silent: bool = False, since: datetime | None = None) -> Iterator[None]:
        """While this lasts, and a little around it, the hands of this node are no witness.

        since: it may have begun then, and has only been noticed now.
        """
        begin = (since or datetime.now(UTC)) - SLACK
        host_id = self.host_id
        try:
            yield
        finally:
            end = datetime.now(UTC) + SLACK
            self.troubles.append(Trouble(host_id=host_id, begin=begin, end=end, is_silent=is_silent))

    # -- what it leaves on disk -------------------------------------------------------------------------

    @property
    def host_id(self) -> str:
        """The name of its hands in placements; empty if it has none."""
        path = self.data_dir / "hands" / "private" / "host_id"
        return path.read_text() if path.exists() else ""

    @property
    def log_path(self) -> Path:
        return self.data_dir / "stderr.log"

    @property
    def log(self) -> str:
        """What all its processes have said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


async def ended(pid: int, *, seconds: float) -> bool:
    """Whether the process has ended within this time."""
    until = time.monotonic() + seconds
    while lives(pid):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True
