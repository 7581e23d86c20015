"""The provider contract on bwrap, as whoever runs the tests and, run by root, as an ordinary user too."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from corral.hands.providers.binary import find_bwrap
from corral.hands.providers.bwrap import BwrapProvider
from corral.kernel import limits
from corral.kernel.errors import SandboxUnavailable
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import (
    Lab,
    archive_of,
    cgroup_directories,
    in_chunks,
    is_running,
    member,
    new_mark,
    pids_of,
    until,
)
from tests.contract.ordinary_user import contract_as_ordinary_user


class TestBwrap(ProviderContract):
    @pytest.fixture
    async def lab(self, tmp_path: Path) -> AsyncIterator[Lab]:
        async with Lab.open(BwrapProvider(state_dir=tmp_path), root=tmp_path) as lab:
            yield lab


SCRIPT = """
import asyncio, sys
from pathlib import Path
from corral.hands.providers.bwrap import BwrapProvider
from corral.testing.lab import Lab
"""


async def run_script(body: str, *args: str, prefix: tuple[str, ...] = ()) -> asyncio.subprocess.Process:
    """Corral code in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-c", SCRIPT + body, *args,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


async def test_sandboxes_die_with_a_killed_host(tmp_path: Path) -> None:
    """Warm ones too; and the next host clears away what is left of the pool and of a probe."""
    mark = new_mark()
    body = """
async def main():
    async with Lab.open(BwrapProvider(state_dir=Path(sys.argv[1])), root=Path(sys.argv[1])) as lab:
        await lab.bash(await lab.sandbox(), f"sleep {sys.argv[2]} & setsid sleep {sys.argv[2]} &")
        while not lab.provider._pool:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    host = await run_script(body, str(tmp_path), mark)
    assert host.stdout
    assert (await host.stdout.readline()).strip() == b"ready", await host.stdout.read()
    await until(lambda: len(pids_of(mark)) >= 3)  # two sleeps, and the host
    host.kill()
    await host.wait()
    await until(lambda: not is_running(mark))
    assert list(tmp_path.glob("pool-*"))
    (tmp_path / f"probe-{host.pid}-0" / "files").mkdir(parents=True)
    (tmp_path / f"probe-{host.pid}-0" / "files" / "usr").symlink_to("/usr")
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    assert (await provider.probe()).is_available
    assert not list(tmp_path.glob("pool-*")) and not list(tmp_path.glob("probe-*"))
    path = tmp_path / "workspaces" / "sesn_1"
    await provider.remove_workspace(path)
    await provider.aclose()


def descendants(name: str, of: int | None = None) -> list[int]:
    """Pids of the programs of this name that this process has started, directly or not."""
    found = []
    for children in Path(f"/proc/{of or os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, children.read_text().split()):
                found += descendants(name, of=pid)
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
    return found


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_sandbox_that_is_killed_in_mid_restore_does_not_make_the_checkpoint_broken(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It can be tried again; a checkpoint that is called broken is given up."""

    async def archive() -> AsyncIterator[bytes]:
        whole = archive_of((member("workspace/large"), bytes(64_000_000)))
        yield whole[:100_000]
        while not (found := descendants("tar")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)
        async for chunk in in_chunks(whole[100_000:], 100_000):
            yield chunk

    async def restore() -> None:
        async with Lab.open(BwrapProvider(state_dir=tmp_path, pool_size=0), root=tmp_path) as lab:
            workspace = await lab.workspace("sesn_1")
            with pytest.raises(SandboxUnavailable) as caught:
                await lab.provider.unpack(workspace, archive())
            assert caught.value.retryable

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(restore())


async def test_pool_hands_out_and_refills(tmp_path: Path) -> None:
    provider = BwrapProvider(state_dir=tmp_path)
    async with Lab.open(provider, root=tmp_path) as lab:
        assert (await provider.probe()).is_available
        await until(lambda: bool(provider._pool))
        warm = provider._pool[0][1]
        box = await lab.sandbox()
        assert box is warm
        await lab.bash(box, "echo mine > a")
        assert (lab.root / "sesn_1" / "files" / "a").read_text() == "mine\n"
        await until(lambda: bool(provider._pool))
        spare = provider._pool[0][1]
        await box.destroy()
        again = await lab.sandbox()
        assert again is not spare, "a workspace with files in it gets a sandbox of its own"
        assert await lab.bash(again, "cat a") == "mine"
        await spare.destroy()
        assert await lab.sandbox("sesn_2") is not spare
    assert not list(tmp_path.glob("pool-*")) and not list(tmp_path.glob("probe-*"))


async def test_file_systems_of_the_machine_say_nothing(tmp_path: Path) -> None:
    """Reading how one lies on its disk holds up everybody who writes."""
    async with Lab.open(BwrapProvider(state_dir=tmp_path, pool_size=0), root=tmp_path) as lab:
        assert await lab.bash(await lab.sandbox(), "ls -A /proc/fs | wc -l") == "0"


async def test_sandboxes_leave_no_cgroups(tmp_path: Path) -> None:
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    if not provider.capabilities.holds("memory"):
        pytest.skip("no writable cgroup here")

    mark = new_mark()
    async with Lab.open(provider, root=tmp_path) as lab:
        await lab.bash(await lab.sandbox(), f"sleep {mark} &")
        await until(lambda: is_running(mark))
        (pid,) = pids_of(mark)
        lines = [line.split(":") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        groups = [path for _, _, path in lines if path.startswith("/corral/")]
        assert groups and len(set(groups)) == 1
        name = groups[0].removeprefix("/corral/")
        assert cgroup_directories(name)
    assert not cgroup_directories(name)


async def test_python_of_the_host_is_bound_where_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.hands.providers.binary._SYSTEM_PYTHONS", ())
    async with Lab.open(BwrapProvider(state_dir=tmp_path, pool_size=0), root=tmp_path) as lab:
        assert (await lab.provider.probe()).is_available
        prefix = await lab.bash(await lab.sandbox(), "python3 -c 'import sys; print(sys.prefix)'")
        assert Path(prefix) == Path(sys.base_prefix).resolve()


async def test_a_reachable_data_directory_needs_no_staging() -> None:
    root = Path(tempfile.mkdtemp(dir="/var/tmp"))
    root.chmod(0o755)
    try:
        async with Lab.open(BwrapProvider(state_dir=root, pool_size=0), root=root) as lab:
            assert await lab.bash(await lab.sandbox(), "echo here") == "here"
    finally:
        shutil.rmtree(root)


async def test_without_user_namespaces_it_fails_closed_with_the_remedy(tmp_path: Path) -> None:
    body = """
async def main():
    provider = BwrapProvider(state_dir=Path(sys.argv[1]))
    probe = await provider.probe()
    assert not probe.is_available
    print(probe.remedy)
    assert "/" not in probe.summary, probe.summary
    await provider.aclose()
asyncio.run(main())
"""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    prefix = ("unshare", "-Ur", "sh", "-c", forbid, "sh")
    process = await run_script(body, str(tmp_path), prefix=prefix)
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert "sudo sysctl -w user.max_user_namespaces" in said


async def test_without_bwrap_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.hands.providers.binary._candidates", list)
    provider = BwrapProvider(state_dir=tmp_path)
    probe = await provider.probe()
    assert not probe.is_available and "apt install bubblewrap" in probe.remedy
    assert probe.summary == "there is no working bwrap"
    await provider.aclose()


async def test_a_flood_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """More output than any buffer takes, and nobody reads it."""
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    async with Lab.open(provider, root=tmp_path) as lab:
        home = await lab.workspace()
        provider._lay_out(home)
        process = await provider._workspaces._start(home, ["/bin/sh", "-c", "exec yes"])
        await process.reader.readexactly(300_000)
        async with asyncio.timeout(60):
            await process.close()


@pytest.mark.timeout(900)
async def test_the_whole_contract_as_an_ordinary_user() -> None:
    await contract_as_ordinary_user(f"{__file__}::TestBwrap")


@pytest.mark.parametrize("goes_to", ["process 1", "another reaper"])
async def test_a_boot_orphaned_by_a_killed_host_is_ended_by_the_next_one(
    tmp_path: Path, request: pytest.FixtureRequest, goes_to: str
) -> None:
    """A host killed within a boot leaves an init that waits for ever: made here on purpose."""
    if goes_to == "another reaper":  # as below `systemd --user`: this process is it
        prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
        prctl(set_child_subreaper, 1)

        def end() -> None:
            prctl(set_child_subreaper, 0)
            for child in psutil.Process().children():  # a reaper also reaps what it did not start
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

        request.addfinalizer(end)
    os.mkfifo(tmp_path / "blocked")
    orphan = '"$1" --unshare-user --ro-bind / / --block-fd 9 true "$2" 9<>"$2/blocked" &'
    arguments = ("/bin/sh", "-c", orphan, "sh", str(find_bwrap(None).path), str(tmp_path))
    shell = await asyncio.create_subprocess_exec(
        *arguments, stderr=subprocess.DEVNULL, start_new_session=True
    )
    await shell.wait()
    await until(lambda: is_running(str(tmp_path)))
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    try:
        assert (await provider.probe()).is_available
    finally:
        await provider.aclose()
    await until(lambda: not is_running(str(tmp_path)))


async def test_a_boot_is_ended_at_any_moment(tmp_path: Path) -> None:
    """Whose archive breaks off while its sandbox starts: bwrap names its init in several writes, and must
    not be killed between them."""

    async def cut_off_after(seconds: float) -> AsyncIterator[bytes]:
        await asyncio.sleep(seconds)
        raise ConnectionAbortedError
        yield b""

    provider = BwrapProvider(state_dir=tmp_path, pool_size=0)
    mark = new_mark()
    workspace = tmp_path / mark
    await provider.prepare_workspace(workspace)
    try:
        for attempt in range(60):  # of which one in five was left behind
            async with asyncio.timeout(limits.SANDBOX_BOOT_SECONDS_MAX / 2):
                with pytest.raises(ConnectionAbortedError):
                    await provider.unpack(workspace, cut_off_after(attempt * 0.0005))
            assert not is_running(mark)
    finally:
        await provider.aclose()
