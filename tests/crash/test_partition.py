"""A cable is pulled between machines: network namespaces of this one, with a bridge between them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.chaos import network
from corral.chaos.network import Network
from corral.testing import postgres
from tests.crash.test_chaos import chaos, short_path

__all__ = ["short_path"]

if (reason := network.missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

PORT = 8421
SERVER = f"""
import socket
with socket.create_server(("0.0.0.0", {PORT})) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
CLIENT = f"import socket, sys; socket.create_connection((sys.argv[1], {PORT}), timeout=1)"

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


async def reaches(address: str, *inside: str) -> bool:
    """Whether a program, inside a machine if one is named, gets a connection."""
    client = await asyncio.create_subprocess_exec(
        *inside, sys.executable, "-c", CLIENT, address, stderr=subprocess.DEVNULL
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
                assert not await reaches(there, *net.inside("a"))
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


@pytest.mark.timeout(600)
def test_no_law_is_broken_by_partitions(short_path: Path) -> None:
    """Brains and hands on two machines that speak mutual TLS; each is cut off from the other, the database
    and the model, and their servers are killed."""
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    faults = ("--faults", "partition,kill-server", "--seconds", "40")
    report = chaos(short_path, "--cluster", "postgres", "--sessions", "6", *faults)
    assert report["faults"]["partition"] >= 2 and report["kills"] >= 3
    assert report["turns"] >= 6 and report["calls"] >= 6
