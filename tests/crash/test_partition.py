"""A cable is pulled between machines: network namespaces of this one, with a bridge between them."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.chaos import network
from corral.chaos.cluster import APART, MACHINES
from corral.chaos.network import Network
from corral.chaos.schedule import Kind, Lane
from corral.testing import postgres
from tests.crash.test_chaos import chaos, short_path
from tests.served import WAIT_SECONDS

__all__ = ["short_path"]

if (reason := network.missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

PORT = 8421
FAULTS: tuple[Kind, ...] = ("partition", "kill-server")
SERVER = f"""
import socket
with socket.create_server(("0.0.0.0", {PORT})) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
CLIENT = f"import socket, sys; socket.create_connection((sys.argv[1], {PORT}), float(sys.argv[2]))"
SILENT_SECONDS = 1.0  # what cannot be reached says nothing

MADE = """
from corral.chaos.network import network
with network(["x"]) as made:
    print(made.name, flush=True)
    input()
"""


@pytest.fixture
def net() -> Iterator[Network]:
    with network.network(["a", "b"]) as made:
        yield made


async def reaches(address: str, *inside: str, seconds: float = WAIT_SECONDS) -> bool:
    """Whether a program, inside a machine if one is named, gets a connection."""
    client = await asyncio.create_subprocess_exec(
        *inside, sys.executable, "-c", CLIENT, address, str(seconds), stderr=subprocess.DEVNULL
    )
    return await client.wait() == 0


async def test_a_pulled_machine_reaches_nobody_until_it_is_back(net: Network) -> None:
    command = [*net.inside("b"), sys.executable, "-c", SERVER]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert server.stdout and await server.stdout.readline() == b"ready\n"
        there = net.addresses["b"]
        assert await reaches(there, *net.inside("a"))
        assert await reaches(there)  # and so do we
        for pulled in ("a", "b"):
            async with net.pulled(pulled):
                assert not await reaches(there, *net.inside("a"), seconds=SILENT_SECONDS)
            assert await reaches(there, *net.inside("a"))
    finally:
        server.kill()
        await server.wait()


def test_what_a_killed_run_left_is_cleared_away() -> None:
    """Its namespaces and its bridge; what another run uses stays."""
    left = subprocess.Popen([sys.executable, "-c", MADE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert left.stdout
        name = left.stdout.readline().decode().strip()
        space, bridge = Path(f"/run/netns/{name}x"), Path(f"/sys/class/net/{name}")
        with network.network(["a"]):
            assert space.exists() and bridge.exists()
    finally:
        left.kill()
        left.communicate()
    assert space.exists() and bridge.exists()
    with network.network(["a"]):
        assert not space.exists() and not bridge.exists()


def a_seed() -> int:
    """Any whose run begins with the partition of each machine, for a slow machine gets no further than to a
    few faults."""
    while True:
        seed = random.randrange(1_000_000)
        lanes = [Lane(name=name, seed=seed, kinds=FAULTS, roles=APART[name]) for name in MACHINES]
        if all(next(lane.faults()).kind == "partition" for lane in lanes):
            return seed


@pytest.mark.timeout(600)
def test_no_law_is_broken_by_partitions(short_path: Path) -> None:
    """Brains and hands on two machines that speak mutual TLS; each is cut off from the other, the database
    and the model, and their servers are killed."""
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    faults = ("--faults", ",".join(FAULTS), "--seconds", "40", "--seed", str(a_seed()))
    report = chaos(short_path, "--cluster", "postgres", "--sessions", "6", *faults)
    assert report["faults"]["partition"] >= 2 and report["kills"] >= 3
    assert report["turns"] >= 6 and report["calls"] >= 6
