"""What every provider of sandboxes must do; run these checks on your own.

    class TestMine(ProviderContract):
        @pytest.fixture
        async def lab(self, tmp_path):
            async with Lab.open(MyProvider(state_dir=tmp_path), root=tmp_path) as lab:
                yield lab

The checks use the port and, to see whether anything was left running, the host's process table. Those of
the walls are in `contract_isolation`, those of mounts in `contract_mounts`.
"""

import asyncio
import contextlib
import io
import os
import tarfile
from unittest.mock import patch

from corral.hands.ports import SandboxLost
from corral.kernel import limits
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import TOOL_OUTPUT_CHARS_MAX, TOOL_PREVIEW_CHARS
from corral.session.call import INTERRUPTED
from corral.session.content import Json
from corral.testing.contract_isolation import IsolationContract
from corral.testing.contract_mounts import MountContract
from corral.testing.lab import (
    Lab,
    archive_of,
    in_chunks,
    is_running,
    member,
    new_mark,
    new_session_name,
    pids_of,
    text_of,
)

__all__ = ["Lab", "ProviderContract"]


class ProviderContract(IsolationContract, MountContract):
    """Subclass it, give it a `lab` fixture, and pytest runs every check."""

    # -- tools --------------------------------------------------------------------------------------

    async def test_probe_is_available(self, lab: Lab) -> None:
        probe = await lab.provider.probe()
        assert probe.is_available, f"{probe.report}; {probe.remedy}"
        assert probe.summary and not probe.remedy

    async def test_every_tool_works(self, lab: Lab) -> None:
        box, here, outputs = await lab.sandbox(), lab.seen("/workspace"), "/mnt/session/outputs"
        steps: list[tuple[str, dict[str, Json], str]] = [
            ("write", {"file_path": "src/a.py", "content": "x = 1\n"}, "wrote 6 bytes to src/a.py"),
            ("read", {"file_path": "/workspace/src/a.py"}, "x = 1\n"),
            (
                "edit",
                {"file_path": "src/a.py", "old_string": "1", "new_string": "2"},
                "edited src/a.py (1 replacement(s))",
            ),
            ("glob", {"pattern": "**/*.py"}, f"{here}/src/a.py"),
            ("grep", {"pattern": "x =", "path": "/workspace/src"}, f"{here}/src/a.py:1:x = 2"),
            ("bash", {"command": "pwd; cat src/a.py"}, f"{here}\nx = 2"),
            ("write", {"file_path": f"{outputs}/o", "content": "out"}, f"wrote 3 bytes to {outputs}/o"),
            ("bash", {"command": f"cat {lab.seen(outputs)}/o"}, "out"),
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
        box, here = await lab.sandbox(), lab.seen("/workspace")
        await lab.bash(box, "mkdir d; cd d; export A=1; f() { echo f; }")
        assert await lab.bash(box, "pwd; echo $A; f") == f"{here}/d\n1\nf"
        other = await box.run(lab.call("bash", thread="sthr_2", command="pwd; echo [$A]"))
        assert text_of(other) == f"{here}\n[]"
        await box.run(lab.call("bash", restart=True))
        assert await lab.bash(box, "pwd; echo [$A]") == f"{here}\n[]"

    async def test_big_output_goes_to_a_file(self, lab: Lab) -> None:
        box = await lab.sandbox()
        lines = 60_000
        shown = await lab.bash(box, f"seq {lines}")
        assert len(shown) < 2 * TOOL_PREVIEW_CHARS + 500
        assert "1\n2\n3\n" in shown and shown.endswith(f"{lines - 1}\n{lines}")
        path = shown.split("all of it is in ")[1].split("]")[0]
        assert path.startswith(lab.seen("/mnt/session/tool-outputs/"))
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
            box.run(lab.call("bash", thread="sthr_1", command=wait.format("a", "b"), timeout_ms=60_000)),
            box.run(lab.call("bash", thread="sthr_2", command=wait.format("b", "a"), timeout_ms=60_000)),
        )
        assert [text_of(result) for result in results] == ["met", "met"]

    async def test_timeout_starts_with_the_execution(self, lab: Lab) -> None:
        box = await lab.sandbox()
        first = lab.call("bash", command="sleep 3; echo first")
        second = lab.call("bash", command="echo second", timeout_ms=2500)
        results = await asyncio.gather(box.run(first), box.run(second))
        assert [text_of(result) for result in results] == ["first", "second"]

    async def test_timeout_kills_the_command_and_the_shell(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        said = await lab.fails(box, f"sleep {mark}", timeout_ms=300)
        assert said == "bash: bash command timed out after 0.3s"
        await lab.until_gone(box, mark)
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
            with _much_grace():
                await box.cancel(call.call_id)
                result = await task
            assert result.is_error and text_of(result) == INTERRUPTED
            assert box.is_alive, "it took all of the grace, and was killed then"
            await lab.until_gone(box, mark)
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
        with _much_grace():
            await box.cancel(call.call_id)
            assert text_of(await task) == INTERRUPTED
        assert box.is_alive
        await box.cancel(call.call_id)
        await box.cancel("sevt_unknown")

    async def test_an_abandoned_call_is_killed(self, lab: Lab) -> None:
        box, mark = await lab.sandbox(), new_mark()
        task = await lab.started(box, lab.call("bash", command=f"sleep {mark}"), mark)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await lab.bash(box, "echo next") == "next"
        await lab.until_gone(box, mark)
        assert box.is_alive

    # -- life and death -----------------------------------------------------------------------------

    async def test_workspace_survives_the_sandbox(self, lab: Lab) -> None:
        box, outputs = await lab.sandbox(), lab.seen("/mnt/session/outputs")
        assert await lab.bash(box, "echo 3 > ~/c; ls ~") == "c"
        await lab.bash(box, f"echo 1 > a; echo 2 > {outputs}/b; chmod 0 {lab.seen('/workspace')}")
        await box.destroy()
        await box.destroy()
        assert not box.is_alive
        again = await lab.sandbox()
        assert await lab.bash(again, f"cat a {outputs}/b; ls -A ~") == "1\n2"

    async def test_nothing_is_left_running(self, lab: Lab) -> None:
        marks = [new_mark() for _ in range(4)]
        sessions = [new_session_name() for _ in range(2)]
        boxes = [await lab.sandbox(session) for session in sessions]
        for i, box in enumerate(boxes):
            await lab.bash(
                box, f"sleep {marks[2 * i]} & setsid nohup sleep {marks[2 * i + 1]} >/dev/null 2>&1 &"
            )
            await lab.until_runs(box, *marks[2 * i : 2 * i + 2])
        await boxes[0].destroy()
        assert not any(map(is_running, marks[:2]))
        assert not pids_of(f"/{sessions[0]}/")
        assert [await lab.runs(boxes[1], mark) for mark in marks[2:]] == [True, True]
        await lab.provider.aclose()
        assert not any(map(is_running, marks))
        assert not any(pids_of(f"/{session}/") for session in sessions)

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
        deep = "import os\nfor _ in range(300): os.mkdir('d' * 16); os.chdir('d' * 16)"
        await lab.bash(box, f'python3 -c "{deep}"')
        await lab.bash(box, "mkdir -p x/y; ln -s / x/root; touch x/y/z; chmod 0 x/y/z x/y x")
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
        outputs = lab.seen("/mnt/session/outputs", "sesn_here")
        # those of a kernel of its own end with it
        fifo = "true" if lab.provider.capabilities.holds("kernel") else "mkfifo fifo"
        await lab.bash(
            box,
            "ln -s /usr/bin/python3 python; ln -s nowhere broken; echo a > 'a b'; chmod 640 'a b';"
            f" ln 'a b' hard; {fifo}; mkdir -p deep/er; chmod 500 deep; touch -d @1000000000 old;"
            f" echo out > {outputs}/o; head -c 3000000 /dev/urandom > big",
        )
        look = (
            "sha256sum big 'a b' {}/o | cut -d' ' -f1; stat -c '%n %F %a %Y %h' * | sort; readlink python"
        )
        before = await lab.bash(box, look.format(outputs))
        assert "No such file" not in before
        here, there = await lab.workspace("sesn_here"), await lab.workspace("sesn_there")
        await lab.provider.unpack(there, lab.provider.pack(here))
        moved = look.format(lab.seen("/mnt/session/outputs", "sesn_there"))
        assert await lab.bash(await lab.sandbox("sesn_there"), moved) == before
        for broken in (
            b"no tar at all" * 100,
            b"".join([c async for c in lab.provider.pack(here)])[:30_000],
        ):
            try:
                await lab.provider.unpack(await lab.workspace("sesn_broken"), in_chunks(broken))
            except InvalidRequest:
                continue
            raise AssertionError("a broken archive was unpacked")

    async def test_files_are_added_while_the_sandbox_lives(self, lab: Lab) -> None:
        box = await lab.sandbox()
        outputs = lab.seen("/mnt/session/tool-outputs")
        await lab.bash(box, f"echo mine > kept; echo old > {outputs}/old; ln -s $PWD/kept {outputs}/linked")
        names = [f"mnt/session/tool-outputs/{name}" for name in ("new", "linked")]
        files = archive_of(*((member(name), b"theirs") for name in names))
        await lab.provider.unpack(await lab.workspace(), in_chunks(files))
        assert await lab.bash(box, f"(cd {outputs}; cat new linked old)") == "theirstheirsold"
        assert await lab.bash(box, "cat kept") == "mine", "no link is written through"

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


def _much_grace() -> contextlib.AbstractContextManager[object]:
    """A machine that does much else may need all of the grace for what takes a moment."""
    return patch.object(limits, "CANCEL_GRACE_SECONDS", 60.0)
