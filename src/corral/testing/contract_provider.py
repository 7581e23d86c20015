"""What every provider of sandboxes must do; run these checks on your own.

    class TestMine(ProviderContract):
        @pytest.fixture
        async def lab(self, tmp_path):
            async with Lab.open(MyProvider(state_dir=tmp_path), root=tmp_path) as lab:
                yield lab

`root` exists and is on the file system that the provider expects workspaces on. The checks use the port
and, to see whether anything was left running, the host's process table.
"""

import asyncio
import contextlib
import io
import itertools
import os
import secrets
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from corral.hands.ports import Provider, Sandbox, SandboxLost
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.kernel.limits import (
    CANCEL_GRACE_SECONDS,
    SANDBOX_PROCESSES_MAX,
    TOOL_OUTPUT_CHARS_MAX,
    TOOL_PREVIEW_CHARS,
)
from corral.session.call import INTERRUPTED, Placement, Recipe, ToolCall
from corral.session.content import Json, ToolResult

__all__ = ["Lab", "ProviderContract", "archive_of", "is_running", "until"]

_RECIPE = Recipe(environment={"type": "cloud"})
_PLACEMENT = Placement(host_id="lab", journal_id="lab")
_WAIT_SECONDS = 10.0


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
            for workspace in workspaces.iterdir():
                await provider.remove_workspace(workspace)
            await provider.aclose()

    async def workspace(self, session: str = "sesn_1") -> Path:
        path = self.root / session
        await self.provider.prepare_workspace(path)
        return path

    async def sandbox(self, session: str = "sesn_1") -> Sandbox:
        sandbox = await self.provider.create(
            session_id=session, workspace=await self.workspace(session), recipe=_RECIPE
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
        """The call as a task, once the host sees `mark` in a process's arguments."""
        task = asyncio.create_task(sandbox.run(call))
        await until(lambda: is_running(mark) or task.done())
        assert not task.done(), text_of(task.result())
        return task


def text_of(result: ToolResult) -> str:
    assert len(result.content) == 1, result.content
    return str(result.content[0]["text"])


def new_mark() -> str:
    """An argument of `sleep` that no other process has."""
    return f"{3000 + secrets.randbelow(1000)}.{secrets.randbelow(10**9):09}"


def is_running(mark: str) -> bool:
    """Whether a living process of this machine, sandboxes included, has the mark in its arguments."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    return True
    return False


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


class ProviderContract:
    """Subclass it, give it a `lab` fixture, and pytest runs every check."""

    # -- tools --------------------------------------------------------------------------------------

    async def test_probe_is_available(self, lab: Lab) -> None:
        probe = await lab.provider.probe()
        assert probe.is_available, f"{probe.detail}; {probe.remedy}"
        assert not probe.remedy

    async def test_every_tool_works(self, lab: Lab) -> None:
        box = await lab.sandbox()
        steps: list[tuple[str, dict[str, Json], str]] = [
            ("write", {"file_path": "src/a.py", "content": "x = 1\n"}, "wrote 6 bytes to src/a.py"),
            ("read", {"file_path": "/workspace/src/a.py"}, "x = 1\n"),
            (
                "edit",
                {"file_path": "src/a.py", "old_string": "1", "new_string": "2"},
                "edited src/a.py (1 replacement(s))",
            ),
            ("glob", {"pattern": "**/*.py"}, "/workspace/src/a.py"),
            ("grep", {"pattern": "x ="}, "/workspace/src/a.py:1:x = 2"),
            ("bash", {"command": "pwd; cat src/a.py"}, "/workspace\nx = 2"),
            ("bash", {"command": "true"}, "(no output)"),
        ]
        for name, fields, expected in steps:
            result = await box.run(lab.call(name, **fields))
            assert (text_of(result), result.is_error) == (expected, False), name

    async def test_bad_input_is_an_error_result(self, lab: Lab) -> None:
        box = await lab.sandbox()
        mistakes: list[tuple[str, dict[str, Json], str]] = [
            ("bash", {}, "bash: command is required"),
            ("read", {}, "read: file_path is required"),
            ("read", {"file_path": 3}, "read: file_path must be a string"),
            ("write", {"file_path": "a", "content": "b", "mode": 1}, "write: unknown field 'mode'"),
            ("sudo", {}, "sudo: no such tool; there are bash, edit, glob, grep, read, write"),
        ]
        for name, fields, expected in mistakes:
            result = await box.run(lab.call(name, **fields))
            assert (text_of(result), result.is_error) == (expected, True)

    async def test_python_and_unittest_are_there(self, lab: Lab) -> None:
        box = await lab.sandbox()
        await lab.bash(
            box,
            "cat > test_x.py <<'E'\nimport unittest\nclass T(unittest.TestCase):\n"
            "    def test(self):\n        self.assertEqual(1, 1)\nE",
        )
        assert "OK" in await lab.bash(box, "python3 -m unittest -v")

    async def test_shell_state_persists_per_thread(self, lab: Lab) -> None:
        box = await lab.sandbox()
        await lab.bash(box, "mkdir d; cd d; export A=1; f() { echo f; }")
        assert await lab.bash(box, "pwd; echo $A; f") == "/workspace/d\n1\nf"
        other = await box.run(lab.call("bash", thread="sthr_2", command="pwd; echo [$A]"))
        assert text_of(other) == "/workspace\n[]"
        await box.run(lab.call("bash", restart=True))
        assert await lab.bash(box, "pwd; echo [$A]") == "/workspace\n[]"

    async def test_big_output_goes_to_a_file(self, lab: Lab) -> None:
        box = await lab.sandbox()
        lines = 60_000
        shown = await lab.bash(box, f"seq {lines}")
        assert len(shown) < 2 * TOOL_PREVIEW_CHARS + 500
        assert "1\n2\n3\n" in shown and shown.endswith(f"{lines - 1}\n{lines}")
        path = shown.split("all of it is in ")[1].split("]")[0]
        assert path.startswith("/mnt/session/tool-outputs/")
        assert await lab.bash(box, f"seq {lines} | cmp - {path} && echo same") == "same"
        assert not (await box.run(lab.call("read", file_path=path, view_range=[1, 3]))).is_error
        await lab.bash(box, f"seq {lines} > big; ls -l big")
        read = text_of(await box.run(lab.call("read", file_path="big", view_range=[1, 20_000])))
        assert len(read) > TOOL_PREVIEW_CHARS
        assert len(await lab.bash(box, "seq 1 15000")) < TOOL_OUTPUT_CHARS_MAX

    # -- time ---------------------------------------------------------------------------------------

    async def test_calls_of_one_thread_take_turns(self, lab: Lab) -> None:
        box = await lab.sandbox()
        calls = [
            lab.call("bash", command=f"echo a{i} >> log; sleep 0.05; echo b{i} >> log") for i in range(5)
        ]
        await asyncio.gather(*(box.run(call) for call in calls))
        lines = (await lab.bash(box, "cat log")).split()
        assert lines == [f"{mark}{i}" for i in range(5) for mark in "ab"]

    async def test_threads_run_side_by_side(self, lab: Lab) -> None:
        """Each waits for the other: one after another they would never end."""
        box = await lab.sandbox()
        wait = "touch {0}; until [ -e {1} ]; do sleep 0.01; done; echo met"
        results = await asyncio.gather(
            box.run(lab.call("bash", thread="sthr_1", command=wait.format("a", "b"), timeout_ms=8000)),
            box.run(lab.call("bash", thread="sthr_2", command=wait.format("b", "a"), timeout_ms=8000)),
        )
        assert [text_of(result) for result in results] == ["met", "met"]

    async def test_timeout_starts_with_the_execution(self, lab: Lab) -> None:
        box = await lab.sandbox()
        first = lab.call("bash", command="sleep 1; echo first")
        second = lab.call("bash", command="echo second", timeout_ms=800)
        results = await asyncio.gather(box.run(first), box.run(second))
        assert [text_of(result) for result in results] == ["first", "second"]

    async def test_timeout_kills_the_command_and_the_shell(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        said = await lab.fails(box, f"sleep {mark}", timeout_ms=300)
        assert said == "bash: bash command timed out after 0.3s"
        await until(lambda: not is_running(mark))
        assert await lab.fails(box, "echo") == "bash: bash session terminated; restart required"
        await box.run(lab.call("bash", restart=True))
        assert await lab.bash(box, "echo back") == "back"

    async def test_cancel_kills_within_the_grace(self, lab: Lab) -> None:
        """Also what left the shell's process group, and a loop of the shell itself."""
        box = await lab.sandbox()
        for command in [
            "sleep {0}",
            "timeout 99 sleep {0}",
            "setsid -w sleep {0}",
            "sleep {0} & while :; do :; done",
        ]:
            mark = new_mark()
            call = lab.call("bash", command=command.format(mark))
            task = await lab.started(box, call, mark)
            began = time.monotonic()
            await box.cancel(call.call_id)
            result = await task
            assert time.monotonic() - began < CANCEL_GRACE_SECONDS
            assert result.is_error and text_of(result) == INTERRUPTED
            await until(partial(is_gone, mark), CANCEL_GRACE_SECONDS)
            assert await lab.bash(box, "echo next") == "next"

    async def test_cancel_of_a_waiting_call_never_runs_it(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        running = await lab.started(box, first := lab.call("bash", command=f"sleep {mark}"), mark)
        waiting = asyncio.create_task(box.run(second := lab.call("bash", command="touch ran")))
        await asyncio.sleep(0)
        await box.cancel(second.call_id)
        assert text_of(await waiting) == INTERRUPTED
        assert not running.done()
        await box.cancel(first.call_id)
        await running
        assert await lab.fails(box, "ls ran")

    async def test_cancel_of_other_tools_and_of_nothing(self, lab: Lab) -> None:
        """A regular expression that never ends, which no Python code can interrupt from within."""
        box = await lab.sandbox()
        await lab.bash(box, "printf 'a%.0s' $(seq 60) > a; echo b >> a")
        call = lab.call("grep", pattern="(a+)+$")
        task = asyncio.create_task(box.run(call))
        assert await lab.bash(box, "echo meanwhile") == "meanwhile"
        await box.cancel(call.call_id)
        async with asyncio.timeout(CANCEL_GRACE_SECONDS):
            assert text_of(await task) == INTERRUPTED
        await box.cancel(call.call_id)
        await box.cancel("sevt_unknown")

    async def test_an_abandoned_call_is_killed(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        task = await lab.started(box, lab.call("bash", command=f"sleep {mark}"), mark)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await lab.bash(box, "echo next") == "next"
        await until(lambda: not is_running(mark))
        assert box.is_alive

    # -- life and death -----------------------------------------------------------------------------

    async def test_workspace_survives_the_sandbox(self, lab: Lab) -> None:
        box = await lab.sandbox()
        await lab.bash(
            box, "echo 1 > a; echo 2 > /mnt/session/outputs/b; echo 3 > /tmp/c; chmod 0 /workspace"
        )
        await box.destroy()
        await box.destroy()
        assert not box.is_alive
        again = await lab.sandbox()
        assert await lab.bash(again, "cat a /mnt/session/outputs/b; ls /tmp") == "1\n2"

    async def test_nothing_is_left_running(self, lab: Lab) -> None:
        marks = [new_mark() for _ in range(4)]
        boxes = [await lab.sandbox(f"sesn_{i}") for i in range(2)]
        for i, box in enumerate(boxes):
            await lab.bash(
                box, f"sleep {marks[2 * i]} & setsid nohup sleep {marks[2 * i + 1]} >/dev/null 2>&1 &"
            )
        await until(lambda: all(map(is_running, marks)))
        await boxes[0].destroy()
        assert not any(map(is_running, marks[:2]))
        assert all(map(is_running, marks[2:]))
        await lab.provider.aclose()
        assert not any(map(is_running, marks))

    async def test_destroy_under_a_call_is_a_loss(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        task = await lab.started(box, lab.call("bash", command=f"echo kept > a; sleep {mark}"), mark)
        await box.destroy()
        with_loss = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(with_loss, SandboxLost)
        late = (await asyncio.gather(box.run(lab.call("bash", command="true")), return_exceptions=True))[0]
        assert isinstance(late, SandboxLost)
        assert await lab.bash(await lab.sandbox(), "cat a") == "kept"

    async def test_remove_workspace_removes_everything(self, lab: Lab) -> None:
        box = await lab.sandbox()
        deep = "for i in $(seq 300); do mkdir dddddddddddddddd; cd dddddddddddddddd; done; cd /workspace"
        await lab.bash(box, f"{deep}; mkdir -p x/y; ln -s / x/root; touch x/y/z; chmod 0 x/y/z x/y x")
        outside = lab.root.parent / "outside"
        outside.mkdir()
        (outside / "canary").write_text("alive")
        await lab.bash(box, f"ln -s {outside} link")
        await box.destroy()
        path = await lab.workspace()
        await lab.provider.remove_workspace(path)
        await lab.provider.remove_workspace(path)
        assert not path.exists()
        assert (outside / "canary").read_text() == "alive"

    # -- archives -----------------------------------------------------------------------------------

    async def test_archives_round_trip(self, lab: Lab) -> None:
        path = await lab.workspace()
        archive = archive_of(
            (member("./"  , tarfile.DIRTYPE, mode=0o755), b""),
            (member("./src/run.sh", mode=0o755), b"#!/bin/sh\necho ran\n"),
            (member("empty", tarfile.DIRTYPE, mode=0o755), b""),
            (member("big"), os.urandom(3_000_000)),
            (member("link", tarfile.SYMTYPE, link="src/run.sh"), b""),
        )  # fmt: skip
        await lab.provider.import_archive(path, in_chunks(archive, 65_536))
        box = await lab.sandbox()
        assert await lab.bash(box, "./link; ls -F; touch src/new") == "ran\nbig\nempty/\nlink@\nsrc/"
        await lab.bash(box, "ln -s /etc/passwd out; mkdir locked; touch locked/x; chmod 0 locked/x")
        packed = b"".join([chunk async for chunk in lab.provider.export_archive(path)])
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive_out:
            infos = {info.name.removeprefix("./"): info for info in archive_out.getmembers()}
        assert infos["src/run.sh"].mode & 0o777 == 0o755
        assert infos["out"].issym() and infos["out"].linkname == "/etc/passwd"
        assert infos["big"].size == 3_000_000

    async def test_what_a_session_keeps_moves_to_another_workspace(self, lab: Lab) -> None:
        box = await lab.sandbox("sesn_here")
        await lab.bash(
            box,
            "ln -s /usr/bin/python3 python; ln -s nowhere broken; echo a > 'a b'; chmod 640 'a b';"
            " ln 'a b' hard; mkfifo fifo; mkdir -p deep/er; chmod 500 deep; touch -d @1000000000 old;"
            " echo out > /mnt/session/outputs/o; head -c 3000000 /dev/urandom > big",
        )
        look = (
            "sha256sum big 'a b' /mnt/session/outputs/o; stat -c '%n %F %a %Y %h' * | sort; readlink python"
        )
        before = await lab.bash(box, look)
        here, there = await lab.workspace("sesn_here"), await lab.workspace("sesn_there")
        await lab.provider.unpack(there, lab.provider.pack(here))
        assert await lab.bash(await lab.sandbox("sesn_there"), look) == before
        for broken in (
            b"no tar at all" * 100,
            b"".join([c async for c in lab.provider.pack(here)])[:30_000],
        ):
            try:
                await lab.provider.unpack(await lab.workspace("sesn_broken"), in_chunks(broken))
            except InvalidRequest:
                continue
            raise AssertionError("a broken archive was unpacked")

    async def test_hostile_archives_are_refused(self, lab: Lab) -> None:
        path = await lab.workspace()
        outside = lab.root.parent / "victim"
        for hostile in [
            [(member("../escaped"), b"x")],
            [(member(f"{outside}"), b"x")],
            [(member("a", tarfile.SYMTYPE, link="../.."), b"")],
            [(member("a", tarfile.SYMTYPE, link="/etc"), b"")],
            [(member("l", tarfile.SYMTYPE, link="d"), b""), (member("l/x"), b"x")],
            [(member("h", tarfile.LNKTYPE, link="../../x"), b"")],
            [(member("fifo", tarfile.FIFOTYPE), b"")],
            [(member("dev", tarfile.CHRTYPE), b"")],
            [(member("sparse", hole_bytes=1 << 20), b"x")],
        ]:  # fmt: skip
            try:
                await lab.provider.import_archive(path, in_chunks(archive_of(*hostile)))
            except InvalidRequest as e:
                assert "refused" in e.message
            else:
                raise AssertionError(f"{hostile[-1][0]} was accepted")
        credit = member("d", tarfile.DIRTYPE)
        credit.size = -(1 << 40)
        try:
            packed = credit.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
            await lab.provider.import_archive(path, in_chunks(packed))
        except InvalidRequest as e:
            assert "refused" in e.message
        else:
            raise AssertionError("a negative size was accepted")
        for broken in [b"no tar at all" * 100, archive_of((member("a"), b"x" * 5000))[:3000]]:
            try:
                await lab.provider.import_archive(path, in_chunks(broken))
            except InvalidRequest:
                continue
            raise AssertionError("a broken archive was accepted")
        assert not outside.exists()
        assert not list(lab.root.parent.glob("**/escaped"))

    # -- walls --------------------------------------------------------------------------------------

    async def test_the_host_cannot_be_seen(self, lab: Lab) -> None:
        secret = secrets.token_hex(8)
        os.environ["CORRAL_TEST_SECRET"] = secret
        try:
            other = await lab.sandbox("sesn_other")
            await lab.bash(other, f"echo {secret} > mine")
            box = await lab.sandbox()
        finally:
            del os.environ["CORRAL_TEST_SECRET"]
        for path in ["/home", "/etc/shadow", "/sys/kernel", "/var/log", str(lab.root), str(Path.cwd())]:
            await lab.fails(box, f"ls -d {path}")
        found = f"grep -rl {secret} /proc/*/environ /tmp /workspace /mnt /run /etc 2>/dev/null"
        assert await lab.fails(box, found) == "(no output)"
        users = await lab.bash(box, "cut -d: -f1 /etc/passwd | sort | xargs; id -u; hostname")
        assert users == "agent root\n1000\ncorral"

    async def test_only_own_processes_are_seen(self, lab: Lab) -> None:
        box, other, mark = await lab.sandbox(), await lab.sandbox("sesn_other"), new_mark()
        await lab.bash(other, f"sleep {mark} &")
        pids = [int(pid) for pid in (await lab.bash(box, "cd /proc; echo [0-9]*; cd")).split()]
        assert len(pids) < 6
        assert mark not in await lab.bash(box, "cat /proc/*/cmdline | tr '\\0' ' '")

    async def test_there_is_no_network(self, lab: Lab) -> None:
        box = await lab.sandbox()
        assert (await lab.bash(box, "tail -n +3 /proc/net/dev | cut -d: -f1 | xargs")) in (
            "lo",
            "(no output)",
        )
        connect = "import socket; socket.create_connection(({!r}, {}), 2)"
        await lab.fails(box, f'python3 -c "{connect.format("192.0.2.1", 80)}"')
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert "refused" in await lab.fails(box, f'python3 -c "{connect.format("127.0.0.1", port)}"')
        await lab.fails(box, "python3 -c 'import socket; socket.socket(40, 1)'")  # AF_VSOCK

    async def test_privileges_cannot_be_gained(self, lab: Lab) -> None:
        box = await lab.sandbox()
        for attempt in [
            "unshare -U true", "unshare -m true", "unshare -n true", "mount -t tmpfs x /tmp",
            "mount -t proc proc /proc", "chroot / true", "su -c true", "setpriv --reuid=0 true",
            "echo 1 > /proc/sys/kernel/core_pattern", "echo x > /proc/sysrq-trigger",
            "touch /usr/bin/x", "touch /x", "mknod d b 8 0", "ls /proc/1/fd/", "cat /proc/1/environ",
            "cat /proc/1/mem", "nsenter -t 1 -a true",
            "python3 -c 'import ctypes; raise SystemExit(ctypes.CDLL(None).ptrace(16, 1, 0, 0) != 0)'",
            "python3 -c 'import ctypes; raise SystemExit(ctypes.CDLL(None).syscall(435, 0, 0) < 0)'",
        ]:  # fmt: skip
            await lab.fails(box, attempt)
        status = await lab.bash(
            box, "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | xargs"
        )
        assert status.split()[1::2] == ["0" * 16, "0" * 16, "1", "2"]
        setuid = "cp /bin/bash s; chmod u+s s; ./s -p -c 'id -u'"
        assert await lab.bash(box, setuid) == "1000"

    async def test_killing_everything_inside_is_survived_or_reported(self, lab: Lab) -> None:
        """`kill -9 -1` takes the shell; the sandbox goes on or is lost, and never hangs."""
        box = await lab.sandbox()
        await lab.bash(box, "echo kept > a")
        results = await asyncio.gather(
            box.run(lab.call("bash", command="kill -9 1 -1 $$; sleep 1; echo here", timeout_ms=5000)),
            return_exceptions=True,
        )
        if isinstance(results[0], SandboxLost):
            box = await lab.sandbox()
        else:
            assert isinstance(results[0], ToolResult) and results[0].is_error
            await box.run(lab.call("bash", restart=True))
        assert await lab.bash(box, "cat a") == "kept"

    async def test_planted_links_lead_nowhere(self, lab: Lab) -> None:
        """CVE-2026-87766: links where a later start might make mount points."""
        outside = lab.root.parent / "target"
        outside.mkdir(mode=0o777)
        outside.chmod(0o777)
        box = await lab.sandbox()
        names = "mnt tmp proc dev usr etc run session outputs tool-outputs skills workspace"
        for place in ["/workspace", "/mnt/session/outputs", "/mnt/session/tool-outputs"]:
            await lab.bash(box, f"cd {place}; for n in {names}; do ln -s {outside} $n; done")
            await lab.fails(box, f"rmdir {place} || mv {place} /tmp/moved")
        await box.destroy()
        again = await lab.sandbox()
        await lab.bash(again, "ls -l /workspace /mnt/session/outputs")
        await again.run(lab.call("write", file_path="mnt/escaped", content="x"))
        packed = [c async for c in lab.provider.export_archive(await lab.workspace())]
        assert packed
        await again.destroy()
        await lab.provider.remove_workspace(await lab.workspace())
        assert list(outside.iterdir()) == []

    async def test_a_fork_bomb_is_bounded(self, lab: Lab) -> None:
        box, calm = await lab.sandbox(), await lab.sandbox("sesn_calm")
        before = _process_count()
        call = lab.call("bash", command="bomb() { bomb | bomb & }; bomb; sleep 60")
        task = asyncio.create_task(box.run(call))
        await until(lambda: _process_count() > before + SANDBOX_PROCESSES_MAX // 4, 30)
        assert await lab.bash(calm, "echo calm") == "calm"
        assert _process_count() < before + SANDBOX_PROCESSES_MAX + 50
        await box.cancel(call.call_id)
        async with asyncio.timeout(2 * CANCEL_GRACE_SECONDS):
            assert text_of(await task) == INTERRUPTED
        await box.destroy()
        await until(lambda: _process_count() < before + SANDBOX_PROCESSES_MAX // 8)

    async def test_a_memory_hog_is_bounded(self, lab: Lab) -> None:
        box = await lab.sandbox()
        await lab.fails(box, "python3 -c 'x = bytearray(3 << 30)'", timeout_ms=30_000)
        await lab.fails(box, "head -c 2G /dev/zero > /tmp/full", timeout_ms=30_000)
        await lab.bash(box, "rm -f /tmp/full")
        if lab.provider.capabilities.memory_limit:
            hogs = "for i in 1 2 3 4; do python3 -c 'x = bytearray(900 << 20); print(len(x))' & done; wait"
            results = await asyncio.gather(
                box.run(lab.call("bash", command=hogs, timeout_ms=60_000)), return_exceptions=True
            )
            if isinstance(results[0], ToolResult):
                assert text_of(results[0]).count(str(900 << 20)) < 4
            else:
                assert isinstance(results[0], SandboxLost)
        calm = await lab.sandbox("sesn_calm")
        assert await lab.bash(calm, "echo calm") == "calm"


def _process_count() -> int:
    return sum(folder.name.isdigit() for folder in Path("/proc").iterdir())
