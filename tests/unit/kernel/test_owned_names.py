"""Whose is it? Also where pids come again."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from corral.catalog.sandbox import DEFAULT_BOUNDS
from corral.confine.scratch import Scratch
from corral.hands.providers.cgroup import Cgroups
from corral.hands.providers.layers import LayerShelf
from corral.hands.providers.leftovers import clear_stages, clear_state
from corral.kernel.owned_names import is_orphaned, owned_name

OF_AN_EARLIER_ONE = f"{os.getpid()}-1-0011"  # which had our pid, and began right after boot


async def test_a_name_lives_as_long_as_its_process() -> None:
    script = "import sys; from corral.kernel.owned_names import owned_name; print(owned_name()); input()"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdin and other.stdout
    name = (await other.stdout.readline()).decode().strip()
    assert name.startswith(f"{other.pid}-") and not is_orphaned(name)
    other.stdin.close()
    await other.wait()
    assert is_orphaned(name)
    assert not is_orphaned(owned_name()) and owned_name() != owned_name()
    for strange in (OF_AN_EARLIER_ONE, "x", "", "../1-1"):
        assert is_orphaned(strange), strange


def test_what_a_running_process_of_an_earlier_version_named_is_its_own() -> None:
    """`/run` has the stages of all of a machine's processes."""
    for earlier in (f"{os.getpid()}-k3_x0011", str(os.getpid())):
        assert not is_orphaned(earlier)
    for gone in ("4194305-k3_x0011", "4194305"):  # more than a kernel's largest pid
        assert is_orphaned(gone)


async def test_what_an_earlier_process_of_our_pid_left_goes(tmp_path: Path) -> None:
    scratch, layers, state = (tmp_path / name for name in ("scratch", "layers", "state"))
    left = [scratch / OF_AN_EARLIER_ONE, layers / f".new-{OF_AN_EARLIER_ONE}"]
    left += [state / f"{kind}-{OF_AN_EARLIER_ONE}" for kind in ("pool", "probe", "corral-stage")]
    ours = [scratch / owned_name(), layers / f".old-{owned_name()}"]
    ours += [state / f"{kind}-{owned_name()}" for kind in ("pool", "probe", "corral-stage")]
    for folder in left + ours:
        folder.mkdir(parents=True)
    assert Scratch(scratch, make=Path.mkdir).place().parent == scratch
    async with LayerShelf(layers, in_use=set).bring("1" * 64) as fresh:
        assert fresh is not None
        fresh.mkdir()
    clear_state(state)
    assert clear_stages(state) == [str(left[-1])]
    assert [path for path in left if path.exists()] == [] and all(path.exists() for path in ours)


def test_a_group_of_an_earlier_process_of_our_pid_goes() -> None:
    groups = Cgroups()
    if not groups.limits_processes:
        pytest.skip("this process may make no control groups")
    ours, earlier = groups.create(DEFAULT_BOUNDS), []
    for file in ours.procs_files:
        earlier.append(file.parent.with_name(OF_AN_EARLIER_ONE))
        earlier[-1].mkdir()
    Cgroups()
    assert not any(folder.exists() for folder in earlier)
    assert all(file.exists() for file in ours.procs_files)
    ours.remove()
