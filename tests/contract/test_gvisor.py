"""The provider contract on gVisor, as whoever runs the tests and as an ordinary user, and what is its own:
its way out, what a killed host leaves, and what is said when it does not work.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.hands.ports import Probe
from corral.hands.providers.gvisor import GvisorProvider
from corral.hands.providers.system import System
from corral.hands.way_out import Egress
from corral.redteam.attack import attack
from corral.redteam.bare import BareStage
from corral.redteam.canaries import Canaries
from corral.redteam.inside.attempts import by_name
from corral.redteam.outside import Outside
from corral.session.call import Recipe
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import Lab, is_gone, pids_of, until
from corral.testing.origin import Origin
from tests.contract.ordinary_user import contract_as_ordinary_user
from tests.gateway import UNRESTRICTED, Gateway, limited
from tests.registry import Registry
from tests.root_system import made_root_for_gvisor

needs_runsc = pytest.mark.skipif(shutil.which("runsc") is None, reason="there is no runsc")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_root_for_gvisor(tmp_path_factory.mktemp("root") / "root")


@needs_runsc
class TestGvisor(ProviderContract):
    @pytest.fixture
    async def lab(self, tmp_path: Path, root: Path) -> AsyncIterator[Lab]:
        provider = GvisorProvider(state_dir=tmp_path, pool_size=0, system=System.at(root))
        async with Lab.open(provider, root=tmp_path) as lab:
            yield lab


@needs_runsc
@pytest.mark.timeout(900)
async def test_an_ordinary_user_has_the_same_walls() -> None:
    """What depends on the user: rights, bounds, what is left, files."""
    chosen = "probe or bounds or left or moves"
    await contract_as_ordinary_user(f"{__file__}::TestGvisor", "-k", chosen)


@needs_runsc
async def test_programs_get_out_by_their_door_and_in_no_other_way(tmp_path: Path, root: Path) -> None:
    """Cold, and warm from the pool: then it is its session's from when it was handed out."""
    names = {name: ["127.0.0.1"] for name in ("origin.test", "other.test", "localhost")}
    wide, narrow = (
        Recipe(environment={"type": "cloud", "networking": networking})
        for networking in (UNRESTRICTED, limited("origin.test"))
    )
    (tmp_path / "registry").mkdir()
    async with contextlib.AsyncExitStack() as opened:
        origin = opened.enter_context(Origin.start())
        registry = opened.enter_context(Registry.start(tmp_path / "registry"))
        gateway = await opened.enter_async_context(Gateway.start(names=names))
        provider = GvisorProvider(
            state_dir=tmp_path, egress=Egress(gateway.data_dir), system=System.at(root)
        )
        lab = await opened.enter_async_context(Lab.open(provider, root=tmp_path))

        def curl(path: str, *options: str, name: str = "origin.test") -> str:
            words = ("curl", "-s", "--max-time", "60", *options, f"http://{name}:{origin.port}/{path}")
            return " ".join(words)

        first = await lab.sandbox("sesn_1", recipe=wide)
        assert await lab.bash(first, curl("")) == "hello"
        assert (await gateway.entries())[-1]["session_id"] == "sesn_1"
        assert await lab.bash(first, curl("chunked/5000000") + " | wc -c") == "5000000"
        sent = "head -c 3000000 /dev/zero | " + curl("echo", "-T", "-", "-X", "POST") + " | wc -c"
        assert await lab.bash(first, sent) == "3000000"
        many = f"seq 40 | xargs -P 40 -I@ {curl('bytes/1000')} | wc -c"
        assert await lab.bash(first, many) == "40000"
        await lab.fails(first, curl("", "--noproxy", "'*'", name="127.0.0.1"))

        registry.wheel("greet", "1.0", {"greet/__init__.py": "print('hi')\n"})
        files = lab.root / "sesn_1" / "files"
        (files / "authority.pem").write_bytes(registry.authority.read_bytes())
        install = (
            "NO_PROXY= no_proxy= python3 -m pip -q --disable-pip-version-check install --cert authority.pem"
            f" --index-url {registry.url}/simple/ --target site greet"
        )
        assert await lab.bash(first, f"{install} && cd site && python3 -c 'import greet'") == "hi"

        await until(lambda: bool(provider._pool), 60)
        warm = provider._pool[0][1]
        second = await lab.sandbox("sesn_2", recipe=narrow)
        assert second is warm
        assert await lab.bash(second, curl("")) == "hello"
        assert (await gateway.entries())[-1]["session_id"] == "sesn_2"
        refused = curl("", "-w", "' %{http_code}'", name="other.test")
        assert (await lab.bash(second, refused)).endswith(" 403")

        # Whoever is in there may end what carries, which comes again; but not listen in its place.
        await asyncio.gather(second.run(lab.call("bash", command="kill -9 -1")), return_exceptions=True)
        await second.run(lab.call("bash", restart=True))
        taken = "import socket; socket.socket().bind((chr(48), 3128))"
        assert "in use" in await lab.fails(second, f"python3 -c '{taken}'")
        assert await lab.bash(second, curl("", "--retry", "9", "--retry-all-errors")) == "hello"
        await gateway.end()
        later = f"{curl('')} > later & sleep 0.2"
        await lab.bash(second, later)
        await gateway.serve()
        assert await lab.bash(second, "wait; cat later") == "hello"
    assert not list(tmp_path.glob("door-*")) and not list(tmp_path.glob("pool-*"))


@needs_runsc
@pytest.mark.timeout(600)
async def test_a_hostile_agent_is_held(root: Path) -> None:
    """Where it makes a difference whose kernel it is."""
    groups = ("proc", "descriptors", "ptrace", "setuid", "namespaces", "mounts", "kernel", "unix-sockets")
    names = [
        name
        for name, attempt in by_name().items()
        if name.partition(".")[0] in groups and attempt.seconds <= 8 and not attempt.ends
    ]
    with tempfile.TemporaryDirectory(prefix="redteam-") as path:
        place = Path(path)
        place.chmod(0o755)
        state = place / "state"
        state.mkdir(mode=0o711)
        provider = GvisorProvider(state_dir=state, pool_size=0, system=System.at(root))
        async with (
            Outside.around(place, Canaries()) as outside,
            BareStage.around(provider, outside) as stage,
        ):
            findings = await attack(stage, names, trips=outside.trips, show=quiet)
    assert not [finding for finding in findings if finding.verdict == "escaped"]
    untried = [finding for finding in findings if finding.verdict == "untried"]
    assert sum(finding.verdict == "held" for finding in findings) > 100, untried


def quiet(_: str) -> None:
    """Nobody watches."""


_HOST = """
import asyncio, sys
from pathlib import Path
from corral.hands.providers.gvisor import GvisorProvider
from corral.hands.providers.system import System
from corral.hands.way_out import Egress
from corral.testing.lab import Lab

async def main():
    place = Path(sys.argv[1])
    system = System.at(Path(sys.argv[2]))
    provider = GvisorProvider(state_dir=place, pool_size=0, system=system, egress=Egress(place))
    async with Lab.open(provider, root=place) as lab:
        await lab.bash(await lab.sandbox(sys.argv[3]), "sleep 600 & setsid nohup sleep 600 &")
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@needs_runsc
async def test_sandboxes_die_with_a_killed_host(tmp_path: Path, root: Path) -> None:
    """All that runsc has started; and the next host clears its door away."""
    session = "sesn_of_a_host_that_is_killed"
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOST, str(tmp_path), str(root), session, stdout=subprocess.PIPE
    )
    assert host.stdout and (await host.stdout.readline()).strip() == b"ready"
    (bwrap, *_) = pids_of(f"/{session}/")
    group = f"/proc/{bwrap}/cgroup"
    assert "runsc" in Path(f"/proc/{bwrap}/cmdline").read_text() and Path(group).exists()
    kernels = {pid for pid in pids_of("--network=none") if is_below(pid, bwrap)}
    assert len(kernels) >= 3, "what was asked to run it, its kernel, and who opens files for that"
    assert list(tmp_path.glob("door-*/way"))
    host.kill()
    await host.wait()
    await until(lambda: is_gone(f"/{session}/"), 60)
    await until(lambda: not any(map(is_alive, kernels)), 60)
    provider = GvisorProvider(state_dir=tmp_path, pool_size=0, system=System.at(root))
    assert (await provider.probe()).is_available
    await provider.remove_workspace(tmp_path / "workspaces" / session)
    await provider.aclose()
    assert not list(tmp_path.glob("door-*"))


def is_below(pid: int, above: int) -> bool:
    with contextlib.suppress(OSError):  # one of another test, which has just ended
        while pid > 1 and pid != above:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == above


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def probed(path: Path) -> Probe:
    provider = GvisorProvider(state_dir=path)
    probe = await provider.probe()
    await provider.aclose()
    assert not probe.is_available and "/" not in probe.summary
    return probe


async def test_without_runsc_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.hands.providers.gvisor.shutil.which", lambda *_, **__: None)
    probe = await probed(tmp_path)
    assert probe.summary == "there is no runsc" and "apt install runsc" in probe.remedy


@needs_runsc
async def test_programs_that_a_gvisor_does_not_serve_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `ls` of Debian 12 says on gVisor of 2022, said here by another program wherever this runs."""
    complaint = "ls: cannot access /: Invalid argument"
    monkeypatch.setattr("corral.hands.providers.gvisor._TRIAL", f"echo '{complaint}'; exit 2")
    probe = await probed(tmp_path)
    assert "refuses what the programs of sandboxes ask of it" in probe.summary
    assert complaint in probe.detail and "--sandbox-root" in probe.remedy and "newer runsc" in probe.remedy
