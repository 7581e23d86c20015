"""Sandboxes with the programs of a root file system, which is made from packages of this machine."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.catalog.hosts import HostList
from corral.catalog.packages import PLACE, layer_digest
from corral.egress.policy import OperatorHosts
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.providers.ground import ground
from corral.hands.providers.system import System
from corral.hands.way_out import Egress
from corral.kernel.ids import SessionId
from corral.packages.installer import Installer
from corral.session.call import Mount, Recipe
from corral.testing.contract_provider import ProviderContract
from corral.testing.lab import Lab, archive_of, in_chunks, member
from tests.contract.ordinary_user import contract_as_ordinary_user
from tests.gateway import Gateway
from tests.registry import Registry
from tests.root_system import MARK, made_root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a Python, and what the contract's commands need."""
    essential = (
        "coreutils dash debianutils diffutils dpkg findutils grep hostname libc-bin sed tar util-linux"
    )
    packages = [*essential.split(), "apt", "python3-pip", "python3-venv"]
    return made_root(tmp_path_factory.mktemp("root") / "root", *packages)


@pytest.fixture(scope="module")
def bare_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With hardly more than a shell."""
    return made_root(tmp_path_factory.mktemp("bare") / "root", "coreutils")


class TestRoot:
    """The core of the provider contract."""

    @pytest.fixture
    async def lab(self, tmp_path: Path, root: Path) -> AsyncIterator[Lab]:
        provider = BwrapProvider(state_dir=tmp_path, system=System.at(root))
        async with Lab.open(provider, root=tmp_path) as lab:
            yield lab

    test_probe = ProviderContract.test_probe_is_available
    test_tools = ProviderContract.test_every_tool_works
    test_python = ProviderContract.test_python_and_unittest_are_there
    test_cancel = ProviderContract.test_cancel_kills_within_the_grace
    test_survival = ProviderContract.test_workspace_survives_the_sandbox
    test_moving = ProviderContract.test_what_a_session_keeps_moves_to_another_workspace
    test_host = ProviderContract.test_the_host_cannot_be_seen
    test_network = ProviderContract.test_there_is_no_network
    test_privileges = ProviderContract.test_privileges_cannot_be_gained
    test_links = ProviderContract.test_planted_links_lead_nowhere

    async def test_programs_are_those_of_the_root(self, lab: Lab, root: Path) -> None:
        box = await lab.sandbox()
        assert await lab.bash(box, MARK) == "marked"
        assert await lab.bash(box, "ls /usr/bin | wc -l") == str(len(list((root / "usr/bin").iterdir())))
        await lab.fails(box, "touch /usr/bin/x || touch /etc/x")
        assert await lab.bash(box, "cut -d: -f1 /etc/passwd | xargs") == "root agent", (
            "not those of the root"
        )


class TestBareRoot:
    """It has neither Python nor tar nor find; what Corral needs, it brings along."""

    @pytest.fixture
    async def lab(self, tmp_path: Path, bare_root: Path) -> AsyncIterator[Lab]:
        provider = BwrapProvider(state_dir=tmp_path, pool_size=0, system=System.at(bare_root))
        async with Lab.open(provider, root=tmp_path) as lab:
            yield lab

    test_probe = ProviderContract.test_probe_is_available
    test_tools = ProviderContract.test_every_tool_works

    async def test_workspaces_are_tended_without_its_programs(self, lab: Lab) -> None:
        path = await lab.workspace()
        await lab.provider.import_archive(path, in_chunks(archive_of((member("a"), b"a")), 1000))
        box = await lab.sandbox()
        for absent in ("python3", "tar", "find"):
            await lab.fails(box, f"type {absent}")
        assert await lab.bash(box, "cat a; mkdir -p x/y; chmod 0 x; echo $PATH") == (
            "a/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        await box.destroy()
        there = await lab.workspace("sesn_2")
        await lab.provider.unpack(there, lab.provider.pack(path))
        assert await lab.bash(await lab.sandbox("sesn_2"), "cat a") == "a"
        await lab.provider.remove_workspace(path)
        assert not path.exists()


@pytest.mark.timeout(900)
async def test_a_root_serves_an_ordinary_user() -> None:
    await contract_as_ordinary_user(f"{__file__}::TestBareRoot")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("registry")) as registry:
        registry.deb("ave", "1.0", {"usr/bin/ave": "#!/bin/sh\necho ave\n"}, postinst=f"{MARK} > /etc/ave")
        registry.wheel("greet", "1.0", {"greet/__init__.py": "import sys\nprint(sys.base_prefix)\n"})
        yield registry


@pytest.fixture
async def egress(registry: Registry) -> AsyncIterator[Egress]:
    operator = OperatorHosts(errands={"packages": HostList(private=[registry.where])})
    async with Gateway.start(names={"localhost": ["127.0.0.1"]}, operator=operator) as gateway:
        yield Egress(gateway.data_dir)


async def test_packages_are_installed_on_the_root(
    tmp_path: Path, root: Path, registry: Registry, egress: Egress
) -> None:
    system = System.at(root)
    packages = {"apt": ("ave",), "pip": ("greet",)}
    digest = layer_digest(packages, ground=await asyncio.to_thread(ground, packages, system))
    assert digest != layer_digest(packages, ground=await asyncio.to_thread(ground, packages))
    installer = Installer(
        tmp_path / "packages",
        hosts=HostList(private=[registry.where]),
        egress=egress,
        authorities=registry.authority,
        config=registry.config,
        system=system,
    )
    provider = BwrapProvider(state_dir=tmp_path, pool_size=0, system=system)
    mount = Mount(mount_id="packages", kind="packages", path=PLACE, digest=digest, mode="read_only")
    environment = {"type": "cloud", "packages": {name: list(wanted) for name, wanted in packages.items()}}
    try:
        async with Lab.open(provider, root=tmp_path) as lab:
            await provider.put_layer(digest, installer.install(packages, session_id=SessionId("sesn_1")))
            box = await lab.sandbox(recipe=Recipe(environment=environment, mounts=(mount,)))
            assert await lab.bash(box, f"ave; cat /etc/ave; {MARK}") == "ave\nmarked\nmarked"
            assert await lab.bash(box, "python3 -c 'import greet'") == "/usr"
    finally:
        await installer.aclose()
