"""The host on the default provider: what the local one cannot show."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from corral.hands.host import HandsHost
from corral.hands.journal import Journal
from corral.hands.news import SANDBOX_STOPPED
from corral.hands.providers.bwrap import BwrapProvider
from corral.session.call import INTERRUPTED, Recipe

SESSION = "sesn_1"


@pytest.fixture
async def host(tmp_path: Path, journal: Journal) -> AsyncIterator[HandsHost]:
    provider = BwrapProvider(state_dir=tmp_path)
    async with HandsHost(provider, journal=journal, host_id="host_1", state_dir=tmp_path) as host:
        probe = await host.probe()
        if not probe.is_available:
            pytest.skip(f"no bwrap here: {probe.report}; {probe.remedy}")
        yield host


def text(result) -> str:
    return "".join(block["text"] for block in result.content)


def sleeper(mark: str) -> psutil.Process | None:
    """The sandboxed `sleep <mark>`, seen from the host."""
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"] == ["sleep", mark]:
            return process
    return None


async def until(fact) -> None:
    async with asyncio.timeout(60):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_files_outlive_a_killed_sandbox(host, bash):
    await host.execute(bash("c1", "echo kept > /workspace/file; cd /tmp; VAR=shell"), epoch=1)
    assert text(await host.execute(bash("c2", "echo $VAR $PWD"), epoch=1)) == "shell /tmp"
    running = asyncio.create_task(host.execute(bash("c3", "sleep 7001"), epoch=1))
    await until(lambda: sleeper("7001"))
    inside = sleeper("7001")
    assert inside
    sandbox = next(p for p in inside.parents() if p.ppid() == psutil.Process().pid)
    sandbox.kill()  # all of it goes with its first process
    result = await running
    assert (text(result), result.is_error) == (SANDBOX_STOPPED, True)
    assert text(await host.execute(bash("c4", "cat /workspace/file; echo -$VAR-"), epoch=1)) == "kept\n--"


async def test_cancel_kills_what_runs_in_time_and_the_session_goes_on(host, bash):
    running = asyncio.create_task(host.execute(bash("c1", "sleep 7002"), epoch=1))
    await until(lambda: sleeper("7002"))
    async with asyncio.timeout(60):
        await host.cancel(SESSION, epoch=1, call_ids=["c1"])
    result = await running
    assert result.is_error and text(result) == INTERRUPTED
    await until(lambda: sleeper("7002") is None)  # it was killed, and ends when it gets a processor
    assert text(await host.execute(bash("c2", "echo on"), epoch=1)) == "on"


async def test_a_deleted_session_leaves_no_process_and_no_file(host, bash, tmp_path):
    await host.provision(SESSION, epoch=1, recipe=Recipe())
    running = asyncio.create_task(host.execute(bash("c1", "echo x > /workspace/f; sleep 7003"), epoch=1))
    await until(lambda: sleeper("7003"))
    await host.release(SESSION, delete_workspace=True)
    assert (await running).is_error
    await until(lambda: sleeper("7003") is None)
    assert not (tmp_path / "workspaces" / SESSION).exists()


async def test_a_workspace_goes_in_and_comes_out(host, bash):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("in.txt")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))

    async def stream() -> AsyncIterator[bytes]:
        yield packed.getvalue()

    await host.held.import_workspace(SESSION, stream())
    result = await host.execute(bash("c1", "cat /workspace/in.txt; echo def > /workspace/out.txt"), epoch=1)
    assert text(result) == "abc"
    data = b"".join([chunk async for chunk in host.held.export_workspace(SESSION)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = {name.removeprefix("./"): name for name in archive.getnames()}
        member = archive.extractfile(names["out.txt"])
        assert member and member.read() == b"def\n"
