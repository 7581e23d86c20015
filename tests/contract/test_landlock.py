"""The provider contract on Landlock, as whoever runs the tests and as an ordinary user, and what is its
own: the keeper, older kernels, a machine that forbids user namespaces."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.hands.keeper.landlock import abi
from corral.hands.providers.landlock import LandlockProvider
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import Lab, is_gone, is_running, new_mark, pids_of, until
from tests.contract.ordinary_user import (
    NO_NAMESPACES,
    contract_as_ordinary_user,
    run_as_ordinary_user,
)

pytestmark = pytest.mark.skipif(abi() == 0, reason="this kernel has no Landlock")


class TestLandlock(ProviderContract):
    @pytest.fixture
    async def lab(self, open_dir: Path) -> AsyncIterator[Lab]:
        async with Lab.open(LandlockProvider(state_dir=open_dir), root=open_dir) as lab:
            yield lab


@pytest.mark.timeout(900)
async def test_the_whole_contract_as_an_ordinary_user() -> None:
    await contract_as_ordinary_user(f"{__file__}::TestLandlock")


@pytest.mark.parametrize("version", [1, 3, 5])
async def test_an_older_kernel_has_more_gaps_and_the_same_files(
    open_dir: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Without scopes: the keeper ends what it kept one by one, and the gap is said."""
    monkeypatch.setattr("corral.hands.providers.landlock.abi", lambda: version)
    marks = [new_mark() for _ in range(3)]
    async with Lab.open(LandlockProvider(state_dir=open_dir), root=open_dir) as lab:
        assert not lab.provider.capabilities.holds("signals")
        assert (await lab.provider.probe()).is_available
        box, other = await lab.sandbox(), await lab.sandbox("sesn_other")
        await lab.bash(other, f"sleep {marks[2]} &")
        again = f"while :; do sleep {marks[1]} & wait; done"
        await lab.bash(box, f"(setsid sleep {marks[0]} &); (nohup setsid bash -c '{again}' &)")
        await lab.bash(box, "echo kept > a; mkdir -p d; mv a d/ 2>/dev/null || cp a d/a; cat d/a")
        await lab.fails(box, f"cat {lab.root}/sesn_other/files/x; ls /root")
        await until(lambda: all(map(is_running, marks)))
        await box.destroy()
        assert all(map(is_gone, marks[:2]))
        assert is_running(marks[2])


async def test_sandboxes_die_with_a_killed_host(open_dir: Path) -> None:
    body = """
import asyncio, sys
from pathlib import Path
from corral.hands.providers.landlock import LandlockProvider
from corral.testing.lab import Lab
async def main():
    root = Path(sys.argv[1])
    async with Lab.open(LandlockProvider(state_dir=root), root=root) as lab:
        await lab.bash(await lab.sandbox(), f"sleep {sys.argv[2]} & setsid nohup sleep {sys.argv[2]} &")
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    mark = new_mark()
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", body, str(open_dir), mark, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert host.stdout
    assert (await host.stdout.readline()).strip() == b"ready", await host.stdout.read()
    await until(lambda: len(pids_of(mark)) >= 3)  # two sleeps, and the host
    host.kill()
    await host.wait()
    await until(lambda: is_gone(mark))
    await until(lambda: is_gone(f"{open_dir}/inside"))


async def test_nobody_inside_can_end_or_stop_the_keeper(open_dir: Path) -> None:
    provider = LandlockProvider(state_dir=open_dir)
    if not provider.capabilities.holds("signals"):
        pytest.skip("this kernel's Landlock has no scopes")
    mark = new_mark()
    async with Lab.open(provider, root=open_dir) as lab:
        box = await lab.sandbox()
        await lab.bash(box, f"setsid nohup sleep {mark} >/dev/null 2>&1 &")
        (keeper,) = pids_of(f"{open_dir}/inside")[:1]
        keepers = [pid for pid in pids_of("keeper") if pid in pids_of(str(open_dir))]
        assert keeper in keepers
        for pid in keepers:
            for number in ("KILL", "STOP", "TERM"):
                await lab.fails(box, f"kill -{number} {pid}")
        await box.destroy()
        assert is_gone(mark)


async def test_sessions_cannot_touch_each_others_paths(open_dir: Path) -> None:
    """All have one uid, and Landlock does not know chmod: whoever is root gives each a group of its own."""
    async with Lab.open(LandlockProvider(state_dir=open_dir), root=open_dir) as lab:
        if not lab.provider.capabilities.holds("user"):
            pytest.skip("one user owns everything here: a gap that is declared")
        box, other = await lab.sandbox(), await lab.sandbox("sesn_other")
        await lab.bash(other, "echo mine > a; chmod 640 a")
        theirs = lab.root / "sesn_other" / "files" / "a"
        for attempt in ("chmod 777", "touch -d @0", "stat", "chmod -R 777", "ln -f"):
            await lab.fails(box, f"{attempt} {theirs}")
        await lab.provider.prepare_workspace(lab.root / "sesn_other")
        await lab.provider.prepare_memory(lab.root / "sesn_other", "notes")  # it leaves the wall as it is
        await lab.fails(box, f"chmod 777 {theirs}")
        assert await lab.bash(other, "stat -c %a a") == "640"


async def test_a_file_tool_knows_documented_paths_and_commands_are_told(open_dir: Path) -> None:
    async with Lab.open(LandlockProvider(state_dir=open_dir), root=open_dir) as lab:
        box = await lab.sandbox()
        await box.run(lab.call("write", file_path="/mnt/session/outputs/report", content="done"))
        home = await lab.workspace()
        assert (lab.provider.place(home, "outputs") / "report").read_text() == "done"
        assert lab.provider.seen(home, "/mnt/session/outputs/report") == f"{home}/outputs/report"
        assert lab.provider.seen(home, "/usr/bin") == "/usr/bin"
        assert await lab.bash(box, "echo $HOME $TMPDIR") == f"{home}/tmp {home}/tmp"


async def test_an_unreachable_directory_is_said_with_the_remedy(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's sandboxes have another user")
    tmp_path.chmod(0o700)
    provider = LandlockProvider(state_dir=tmp_path)
    probe = await provider.probe()
    assert not probe.is_available and str(tmp_path) not in probe.summary
    assert "--data-dir" in probe.remedy and "chmod o+x" in probe.remedy
    async with asyncio.timeout(60):
        await provider.aclose()


async def test_without_landlock_it_says_what_kernel_is_needed(
    open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.hands.providers.landlock.abi", lambda: 0)
    provider = LandlockProvider(state_dir=open_dir)
    probe = await provider.probe()
    assert not probe.is_available and "Linux 5.13" in probe.remedy
    await provider.aclose()


@pytest.mark.timeout(900)
async def test_the_contract_where_user_namespaces_are_forbidden() -> None:
    """As in a container: what it is for."""
    chosen = "tool or host or network or left or archive"
    await contract_as_ordinary_user(f"{__file__}::TestLandlock", "-k", chosen, prefix=NO_NAMESPACES)


async def corral(*arguments: str, **environment: str) -> tuple[int, str]:
    """Where user namespaces are forbidden."""
    return await run_as_ordinary_user(
        "-m", "corral.cli", *arguments, prefix=NO_NAMESPACES, environment=environment
    )


async def test_the_demo_falls_back_and_says_so() -> None:
    code, said = await corral("demo")
    assert code == 0 and "VERIFIED" in said, said
    lines = [line for line in said.splitlines() if line.startswith("sandbox: landlock, weaker than bwrap")]
    assert len(lines) == 1


async def test_a_server_never_falls_back_and_the_doctor_ranks() -> None:
    code, said = await corral("serve", "--data-dir={home}/d", "--port=0")
    assert code != 0 and "no sandbox can be made here" in said and "sysctl" in said, said
    code, said = await corral("doctor", "--json", "--data-dir={home}/d")
    found = {check["name"]: check for check in json.loads(said)["checks"]}
    assert found["sandbox"]["state"] == "failed" and found["sandbox landlock"]["state"] == "ok"
    assert "--sandbox landlock" in found["sandbox"]["remedy"]
    code, said = await corral("doctor", "--json", "--data-dir={home}/d", CORRAL_SANDBOX="landlock")
    found = {check["name"]: check for check in json.loads(said)["checks"]}
    assert found["sandbox"]["state"] == "ok" and found["sandbox bwrap"]["state"] == "warning"
    assert "paths: /workspace" in found["sandbox"]["detail"]
