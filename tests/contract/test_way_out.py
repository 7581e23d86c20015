"""Sandboxes by bwrap get out through the egress process, and in no other way."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from corral.catalog.mcp.servers import opened_endpoints
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.way_out import Egress
from corral.session.call import Recipe
from corral.testing.lab import Lab
from corral.testing.origin import Origin
from tests.gateway import UNRESTRICTED, Gateway, limited, until

HOST = "origin.test"


@pytest.fixture
def plain() -> Iterator[Origin]:
    with Origin.start() as origin:
        yield origin


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway.start(names={HOST: ["127.0.0.1"], "other.test": ["127.0.0.1"]}) as gateway:
        yield gateway


@pytest.fixture
async def lab(tmp_path: Path, gateway: Gateway) -> AsyncIterator[Lab]:
    provider = BwrapProvider(state_dir=tmp_path, egress=Egress(gateway.data_dir))
    async with Lab.open(provider, root=tmp_path) as lab:
        yield lab


def recipe(networking: Mapping[str, object] = UNRESTRICTED, *servers: str) -> Recipe:
    """servers: URLs of its agent's MCP servers."""
    environment = {"type": "cloud", "networking": dict(networking)}
    agent = {"mcp_servers": [{"url": url} for url in servers]}
    return Recipe(environment=environment, mcp_endpoints=opened_endpoints(agent, environment))


async def test_programs_find_their_way_out(
    lab: Lab, gateway: Gateway, plain: Origin, tmp_path: Path
) -> None:
    """By the standard variables; cold, and warm from the pool."""
    for number in range(3):
        session = f"sesn_{number}"
        box = await lab.sandbox(session, recipe=recipe())
        assert await lab.bash(box, f"curl -sS http://{HOST}:{plain.port}/") == "hello"
        assert (await gateway.entries())[-1]["session_id"] == session
    assert await lab.bash(box, f"curl -sS http://{HOST}:{plain.port}/bytes/5000000 | wc -c") == "5000000"
    fetch = "from urllib.request import urlopen; print(urlopen('%s').read().decode())"
    assert await lab.bash(box, f'python3 -c "{fetch % f"http://{HOST}:{plain.port}/"}"') == "hello"
    with Origin.start(tmp_path, HOST) as secure:
        assert secure.authority
        (lab.root / session / "files" / "authority.pem").write_bytes(secure.authority.read_bytes())
        curl = f"curl -sS --cacert authority.pem https://{HOST}:{secure.port}/"
        assert await lab.bash(box, curl) == "hello"


async def test_what_is_refused_is_said(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    box = await lab.sandbox(recipe=recipe(limited(HOST)))
    assert await lab.bash(box, f"curl -sS http://{HOST}:{plain.port}/") == "hello"
    said = await lab.bash(box, f"curl -s -w '%{{http_code}}' http://other.test:{plain.port}/")
    assert said.startswith("other.test is blocked: ") and said.endswith("403")
    said = await lab.fails(box, f"curl -sSv https://other.test:{plain.port}/")
    assert "403 other.test is blocked" in said
    assert plain.connections == 1


async def test_there_is_no_other_way(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    box = await lab.sandbox(recipe=recipe())
    assert "resolve" in await lab.fails(box, f"curl -sS --noproxy '*' http://{HOST}:{plain.port}/")
    await lab.fails(box, f"curl -sS --noproxy '*' http://127.0.0.1:{plain.port}/")
    for sort in ("tcp", "udp"):
        await lab.fails(box, f"exec 3<>/dev/{sort}/192.0.2.1/80")
    assert await lab.bash(box, "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | wc -l") == "1"
    assert not plain.connections


async def test_nobody_inside_listens_in_its_place(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    """Also while the egress process is away; and what was asked for meanwhile is answered by the next."""
    box = await lab.sandbox(recipe=recipe())
    assert await lab.bash(box, f"curl -sS http://{HOST}:{plain.port}/") == "hello"
    await gateway.end()
    take = (
        "import socket\n"
        "for host in ('127.0.0.1', '0.0.0.0'):\n"
        "    with socket.socket() as s:\n"
        "        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        "        try:\n"
        "            s.bind((host, 3128)); s.listen(); print('taken')\n"
        "        except OSError as e: print(e.strerror)\n"
    )
    assert await lab.bash(box, f'python3 -c "{take}"') == "Address already in use\nAddress already in use"
    await lab.bash(box, f"curl -sS http://{HOST}:{plain.port}/ > later & sleep 0.2")
    await gateway.serve()
    assert await lab.bash(box, "wait; cat later") == "hello"


async def test_a_door_is_of_one_sandbox(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    """Nothing in a sandbox could be carried to another one: its environments and files name no secret."""
    narrow = await lab.sandbox("sesn_1", recipe=recipe(limited()))
    wide = await lab.sandbox("sesn_2", recipe=recipe())
    everything = "env | sort | grep -i -v -e ^_= -e ^oldpwd; ls -la /run /run/corral /proc/self/fd/ | wc -l"
    assert await lab.bash(narrow, everything) == await lab.bash(wide, everything)
    assert await lab.bash(wide, f"curl -sS http://{HOST}:{plain.port}/") == "hello"
    said = await lab.bash(narrow, f"curl -s -w '%{{http_code}}' http://{HOST}:{plain.port}/")
    assert said.endswith("403")


async def test_package_managers_reach_what_they_are_set_to(lab: Lab, gateway: Gateway) -> None:
    """By what they say themselves in the sandbox: no host is known beforehand."""
    ask = await lab.sandbox("sesn_ask", recipe=recipe())
    said = await lab.bash(
        ask, "npm config get registry; python3 -m pip config get global.index-url || true"
    )
    hosts = {host for word in said.split() if (host := urlsplit(word).hostname)}
    assert hosts
    wide = await lab.sandbox("sesn_1", recipe=recipe(limited(allow_package_managers=True)))
    narrow = await lab.sandbox("sesn_2", recipe=recipe(limited()))
    for host in hosts:
        status = f"curl -s -o /dev/null -w '%{{http_code}}' http://{host}/"
        assert await lab.bash(wide, status) == "502"  # it does not resolve here, but it was asked for
        assert await lab.bash(narrow, status) == "403"
    assert await lab.bash(wide, f"curl -s -o /dev/null -w '%{{http_code}}' http://{HOST}/") == "403"


async def test_mcp_servers_of_the_agent_are_reached_where_that_is_said(
    lab: Lab, gateway: Gateway, plain: Origin
) -> None:
    url = f"http://{HOST}:{plain.port}/mcp"
    opened = await lab.sandbox("sesn_1", recipe=recipe(limited(allow_mcp_servers=True), url))
    closed = await lab.sandbox("sesn_2", recipe=recipe(limited(), url))
    other = await lab.sandbox("sesn_3", recipe=recipe(limited(allow_mcp_servers=True)))
    status = "curl -s -o /dev/null -w '%{http_code}' "
    assert await lab.bash(opened, f"curl -sS http://{HOST}:{plain.port}/") == "hello"
    assert await lab.bash(opened, f"{status} http://other.test:{plain.port}/") == "403"
    for box in (closed, other):
        assert await lab.bash(box, f"{status} http://{HOST}:{plain.port}/") == "403"
    assert plain.connections == 1


async def test_nothing_stays_behind_a_sandbox(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    box = await lab.sandbox(recipe=recipe())
    stuck = f"curl -sSN http://{HOST}:{plain.port}/slow > came & disown; echo on"
    assert await lab.bash(box, stuck) == "on"
    came = lab.root / "sesn_1" / "files" / "came"

    async def is_answered() -> bool:
        return came.exists() and came.read_text() == "1"

    await until(is_answered)
    await box.destroy()
    [entry] = await gateway.ended()
    assert entry["decision"] == "allowed" and entry["received_bytes"]


async def test_without_an_egress_process_there_is_none(tmp_path: Path) -> None:
    async with Lab.open(BwrapProvider(state_dir=tmp_path), root=tmp_path) as lab:
        box = await lab.sandbox(recipe=recipe())
        assert await lab.bash(box, "env | grep -i -c proxy || true") == "0"
        await lab.fails(box, "exec 3<>/dev/tcp/127.0.0.1/3128")


async def test_two_hundred_at_once(lab: Lab, gateway: Gateway, plain: Origin) -> None:
    boxes = await asyncio.gather(*(lab.sandbox(f"sesn_{n}", recipe=recipe()) for n in range(2)))
    url = f"http://{HOST}:{plain.port}/bytes/1000"
    many = f"seq 100 | xargs -P 100 -I@ curl -sS --max-time 60 {url} | wc -c"
    assert await asyncio.gather(*(lab.bash(box, many) for box in boxes)) == ["100000"] * 2
