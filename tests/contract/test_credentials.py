"""Credentials in sandboxes by bwrap: programs find the placeholder in their environment, trust the proxy by
themselves, and never see what it puts in."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.egress import wishes
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.way_out import Egress
from corral.kernel.errors import SandboxUnavailable
from corral.session.call import Recipe
from corral.testing.lab import Lab
from corral.testing.origin import Origin
from tests.gateway import UNRESTRICTED, Gateway, limited

CANARY = "canary/5ecret+of&a=sandbox"
HOST, OTHER = "origin.test", "other.test"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Origin]:
    with Origin.start(tmp_path, HOST, OTHER) as origin:
        yield origin


@pytest.fixture
async def gateway(secure: Origin, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", 30.0)  # on a busy machine
    names = {name: ["127.0.0.1"] for name in (HOST, OTHER)}
    async with Gateway.start(names=names, trusted=secure.authority) as gateway:
        yield gateway


@pytest.fixture
async def lab(tmp_path: Path, gateway: Gateway) -> AsyncIterator[Lab]:
    provider = BwrapProvider(state_dir=tmp_path, egress=Egress(gateway.data_dir))
    async with Lab.open(provider, root=tmp_path) as lab:
        yield lab


def recipe(**variables: str) -> Recipe:
    return Recipe(environment={"type": "cloud", "networking": UNRESTRICTED}, variables=variables)


PROGRAMS = {
    "curl": 'curl -sS -H "Authorization: $TOKEN" {url}',
    "curl, told nothing": 'env -i https_proxy=$https_proxy curl -sS -H "Authorization: $TOKEN" {url}',
    "python": """python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("{url}",
        headers=dict(Authorization=os.environ["TOKEN"]))).read().decode())'""",
    "git": 'git -c http.extraHeader="Authorization: $TOKEN" ls-remote {url} 2>&1 || true',
    "wget": 'wget -q -O - --header "Authorization: $TOKEN" {url}',
}


async def test_programs_use_what_they_never_see(lab: Lab, gateway: Gateway, secure: Origin) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY, networking=limited(HOST))
    box = await lab.sandbox("sesn_1", recipe=recipe(TOKEN=held))
    assert await lab.bash(box, "echo $TOKEN") == held
    ran = []
    for name, program in PROGRAMS.items():
        if not await lab.bash(box, f"command -v {program.split()[0]} || true"):
            continue
        secure.requests.clear()
        said = await lab.bash(box, program.format(url=f"https://{HOST}:{secure.port}/headers"))
        assert secure.requests, f"{name}: {said}"
        assert dict(secure.requests[-1][2])["Authorization"] == CANARY, name
        assert CANARY not in said and (name == "git" or held in said), name
        ran.append(name)
    assert "curl" in ran
    everything = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; env; cat /run/corral/authorities.pem"
    assert CANARY not in await lab.bash(box, f"({everything}) | tr '\\0' '\\n' | grep -a -c canary || true")
    assert CANARY not in json.dumps(await gateway.ended())


async def test_other_hosts_are_not_ours(lab: Lab, gateway: Gateway, secure: Origin) -> None:
    """What is passed through shows the certificate of the host; a sandbox trusts what this machine does."""
    held = await gateway.gives("sesn_1", "TOKEN", CANARY, networking=limited(HOST))
    box = await lab.sandbox("sesn_1", recipe=recipe(TOKEN=held))
    said = await lab.fails(box, f"curl -sS https://{OTHER}:{secure.port}/")
    assert "certificate" in said
    assert secure.authority
    (lab.root / "sesn_1" / "files" / "their.pem").write_bytes(secure.authority.read_bytes())
    get = f'curl -sS --cacert their.pem -H "Authorization: $TOKEN" https://{OTHER}:{secure.port}/headers'
    assert held in await lab.bash(box, get)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        count = f"grep -c BEGIN {bundle}"
        assert int(await lab.bash(box, count)) == bundle.read_text().count("BEGIN CERTIFICATE") + 1


async def test_the_next_sandbox_of_a_session_trusts_the_same(
    lab: Lab, gateway: Gateway, secure: Origin
) -> None:
    held = await gateway.gives("sesn_1", "TOKEN", CANARY)
    get = f'curl -sS -H "Authorization: $TOKEN" https://{HOST}:{secure.port}/headers'
    for _ in range(2):
        box = await lab.sandbox("sesn_1", recipe=recipe(TOKEN=held))
        assert held in await lab.bash(box, get)
        await box.destroy()
    box = await lab.sandbox("sesn_1", recipe=recipe())  # its credential was archived
    assert await lab.bash(box, "echo -$TOKEN-") == "--"


async def test_ours_cannot_be_taken_by_a_variable(lab: Lab, gateway: Gateway) -> None:
    box = await lab.sandbox("sesn_1", recipe=recipe(PATH="/nowhere", https_proxy="http://evil.test"))
    assert await lab.bash(box, "echo $https_proxy; command -v ls") == "http://127.0.0.1:3128\n/usr/bin/ls"


async def test_without_an_egress_process_there_is_no_sandbox(
    lab: Lab, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.end()
    with monkeypatch.context() as patch, pytest.raises(SandboxUnavailable, match="credentials cannot be"):
        patch.setattr("corral.hands.way_out.HANDS_CONNECT_SECONDS", 0.3)
        await lab.sandbox("sesn_1", recipe=recipe(TOKEN="placeholder"))
    await gateway.serve()
    await lab.sandbox("sesn_2", recipe=recipe(TOKEN="placeholder"))
