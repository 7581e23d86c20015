"""A provider of sandboxes at work in a test, and what a test looks at.

    async with Lab.open(MyProvider(state_dir=tmp_path), root=tmp_path) as lab:
        box = await lab.sandbox()
        assert await lab.bash(box, "echo hello") == "hello"

`root` exists and is on the file system that the provider expects workspaces on.
"""

import asyncio
import contextlib
import io
import itertools
import os
import re
import secrets
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from corral.hands.ports import Provider, Sandbox, SandboxLost
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.call import Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult

__all__ = [
    "Lab",
    "archive_of",
    "cgroup_directories",
    "in_chunks",
    "is_gone",
    "is_running",
    "member",
    "new_mark",
    "new_session_name",
    "pids_of",
    "process_count",
    "processor_seconds",
    "text_of",
    "until",
]

_RECIPE = Recipe(environment={"type": "cloud"})
_PLACEMENT = Placement(host_id="lab", journal_id="lab")
_WAIT_SECONDS = 60.0


@dataclass(kw_only=True, slots=True)
class Lab:
    """A provider at work: sessions, calls, and what came back."""

    provider: Provider
    root: Path
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _sandboxes: list[Sandbox] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, provider: Provider, *, root: Path) -> "AsyncIterator[Lab]":
        workspaces = root / "workspaces"
        workspaces.mkdir(mode=0o711)
        lab = cls(provider=provider, root=workspaces)
        try:
            yield lab
        finally:
            await asyncio.gather(*(sandbox.destroy() for sandbox in lab._sandboxes))
            await asyncio.gather(*map(provider.remove_workspace, workspaces.iterdir()))
            await provider.aclose()

    async def workspace(self, session: str = "sesn_1") -> Path:
        path = self.root / session
        await self.provider.prepare_workspace(path)
        return path

    def seen(self, path: str, session: str = "sesn_1") -> str:
        """What commands in that session's sandbox call a documented path."""
        return self.provider.seen(self.root / session, path)

    async def sandbox(self, session: str = "sesn_1", *, recipe: Recipe = _RECIPE) -> Sandbox:
        sandbox = await self.provider.create(
            session_id=session, workspace=await self.workspace(session), recipe=recipe
        )
        self._sandboxes.append(sandbox)
        return sandbox

    def call(self, name: str, *, thread: str = "sthr_1", **fields: Json) -> ToolCall:
        return ToolCall(
            session_id=SessionId("sesn_1"),
            thread_id=ThreadId(thread),
            call_id=EventId(f"sevt_{next(self._numbers)}"),
            name=name,
            input=fields,
            recipe=_RECIPE,
            placement=_PLACEMENT,
        )

    async def bash(self, sandbox: Sandbox, command: str, **fields: Json) -> str:
        """The output of a command that must succeed."""
        result = await sandbox.run(self.call("bash", command=command, **fields))
        assert not result.is_error, text_of(result)
        return text_of(result)

    async def fails(self, sandbox: Sandbox, command: str, **fields: Json) -> str:
        """The output of a command that must not succeed."""
        result = await sandbox.run(self.call("bash", command=command, **fields))
        assert result.is_error, f"{command!r} worked: {text_of(result)}"
        return text_of(result)

    async def started(self, sandbox: Sandbox, call: ToolCall, mark: str) -> "asyncio.Task[ToolResult]":
        """The call as a task, once `mark` is in a process's arguments."""
        task = asyncio.create_task(sandbox.run(call))
        async with asyncio.timeout(_WAIT_SECONDS):
            while not task.done() and not await self.runs(sandbox, mark):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not task.done(), text_of(task.result())
        return task

    async def runs(self, sandbox: Sandbox, mark: str) -> bool:
        """Whether a process of this sandbox has the mark in its arguments. A kernel of its own is asked
        itself; what it runs is nothing that the machine knows."""
        if not self.provider.capabilities.holds("kernel"):
            return is_running(mark)
        look = f"grep -qs '[{mark[0]}]{mark[1:]}' /proc/[0-9]*/cmdline"
        try:
            return not (await sandbox.run(self.call("bash", thread="sthr_looks", command=look))).is_error
        except SandboxLost:
            return False

    async def until_runs(self, sandbox: Sandbox, *marks: str) -> None:
        async with asyncio.timeout(_WAIT_SECONDS):
            while not all([await self.runs(sandbox, mark) for mark in marks]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_gone(self, sandbox: Sandbox, mark: str, seconds: float = _WAIT_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while await self.runs(sandbox, mark):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def text_of(result: ToolResult) -> str:
    return "\n".join(str(block["text"]) for block in result.content)


def new_mark() -> str:
    """An argument of `sleep` that no other process has."""
    return f"{3000 + secrets.randbelow(1000)}.{secrets.randbelow(10**9):09}"


def new_session_name() -> str:
    """One that no other sandbox of this machine is for."""
    return f"sesn_{secrets.token_hex(6)}"


def is_running(mark: str) -> bool:
    """Whether a living process of this machine, sandboxes included, has the mark in its arguments."""
    return bool(pids_of(mark))


def pids_of(mark: str) -> list[int]:
    """The living processes of this machine that have the mark in their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def is_gone(mark: str) -> bool:
    return not is_running(mark)


async def until(is_true: Callable[[], bool], seconds: float = _WAIT_SECONDS) -> None:
    """Wait for a fact. Fails after the deadline."""
    async with asyncio.timeout(seconds):
        while not is_true():  # noqa: ASYNC110  (the process table sends no events)
            await asyncio.sleep(0.01)


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, hole_bytes: int = 0
) -> tarfile.TarInfo:
    """hole_bytes: how much nothing a sparse file has in front of its one byte of data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    if hole_bytes:
        info.pax_headers = {"GNU.sparse.map": f"{hole_bytes},1", "GNU.sparse.size": f"{hole_bytes + 1}"}
    return info


async def in_chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def process_count(mark: str) -> int:
    """How many living processes of this machine have the mark in their arguments, or come from one of them
    that lives."""
    above = set(pids_of(mark))
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    parents[int(folder.name)] = int(fields[1])

    def counts(pid: int) -> bool:
        while pid in parents and pid not in above:
            pid = parents[pid]
        return pid in above

    return sum(map(counts, parents))


def cgroup_directories(name: str) -> list[Path]:
    """Of the cgroup of ours with this name, in each hierarchy where it is. Others come and go meanwhile."""
    return [
        Path(above, "corral", name)
        for above, folders, _ in os.walk("/sys/fs/cgroup")
        if "corral" in folders and Path(above, "corral", name).is_dir()
    ]


def processor_seconds(session: str) -> float:
    """How long the machine's processors have worked for the sandbox that was started for this session: for
    its living processes, and those of theirs that have ended. It has a cgroup of its own. session: that no
    other test has, which may run beside this one (`new_session_name`)."""
    pid = pids_of(f"/{session}/")[0]
    joined = re.search(r"/corral/([^/\n]+)$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE)
    assert joined, "it is in no cgroup of ours"
    ticks = 0
    for number in (cgroup_directories(joined[1])[0] / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
