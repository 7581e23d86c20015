"""Package managers and git as they are, in a sandbox of each kind that has a network: they find the proxy
by the usual variables, and trust what it shows by the sandbox's own authority. The session may use package
managers, and has a variable for the registry, so its TLS is opened: everything that comes is read and
written by the egress process.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from corral.egress.policy import OperatorHosts
from corral.hands.ports import Provider, Sandbox
from corral.hands.providers.bwrap import BwrapProvider
from corral.hands.providers.container import ContainerProvider
from corral.hands.providers.gvisor import GvisorProvider
from corral.hands.providers.system import System
from corral.hands.way_out import Egress
from corral.session.call import Mount, Recipe
from corral.testing.git_host import GitHost, basic, git
from corral.testing.lab import Lab, archive_of, in_chunks, member
from tests.contract.container_suite import opened_engine
from tests.gateway import Gateway, limited
from tests.registry import Registry
from tests.root_system import made_root_for_gvisor

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

REGISTRY, GIT_HOST, SESSION = "packages.test", "git.test", "sesn_1"
TOKEN, GIT_TOKEN = "npm_canary_of_a_registry", "ghp_canary_of_a_repository"
LARGE = hashlib.sha512(b"large").digest() * (1 << 19)  # 32 MiB
MILLISECONDS = 120_000


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A sandbox, and what is around it."""

    lab: Lab
    box: Sandbox
    registry: Registry
    git_host: GitHost

    async def runs(self, command: str) -> str:
        """What it says. It must succeed."""
        return await self.lab.bash(self.box, f"cd /workspace && {{ {command}; }}", timeout_ms=MILLISECONDS)

    async def needs(self, program: str) -> None:
        found = await self.lab.bash(self.box, f"command -v {program} || true")
        if not found:
            pytest.skip(f"there is no {program} in sandboxes of this machine")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("registry"), name=REGISTRY) as registry:
        registry.wheel("greet", "1.0", {"greet/__init__.py": "print('hello from pip')"})
        hello = "#!/usr/bin/env node\nconsole.log('hello from npm')\n"
        registry.tarball("hello", "1.0.0", {"index.js": hello}, scripts={"hello": "index.js"})
        registry.crate("salve", "1.0.0", {"src/lib.rs": "pub fn salve() {}\n"})
        if shutil.which("dpkg-deb"):
            registry.deb("ave", "1.0", {"usr/bin/ave": "#!/bin/sh\necho hello from apt\n"})
        registry.files["/files/large"] = LARGE
        yield registry


@pytest.fixture(scope="module")
def git_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with GitHost.start(tmp_path_factory.mktemp("git"), name=GIT_HOST) as host:
        host.push("ada/engine", {"README.md": "an engine\n"})
        host.tokens["ada/engine"] = GIT_TOKEN
        yield host


@pytest.fixture(scope="module")
def cargo() -> bytes | None:
    """The program, which sandboxes have if it lies below /usr."""
    found = shutil.which("cargo")
    if shutil.which("rustup"):  # then the one that is found starts another
        asked = subprocess.run(["rustup", "which", "cargo"], capture_output=True, text=True, check=False)
        found = asked.stdout.strip()
    return Path(found).read_bytes() if found else None


@contextlib.contextmanager
def provided(name: str, state_dir: Path, egress: Egress) -> Iterator[Provider]:
    if name == "bwrap":
        yield BwrapProvider(state_dir=state_dir, pool_size=0, egress=egress)
        return
    if name == "gvisor":
        if shutil.which("runsc") is None:
            pytest.skip("there is no runsc")
        root = made_root_for_gvisor(state_dir / "root", "apt", "git", "nodejs", "npm")
        if (modules := Path("/usr/lib/node_modules")).is_dir():  # npm may be newer than its package was
            shutil.copytree(modules, root / modules.relative_to("/"), symlinks=True, dirs_exist_ok=True)
        system = System.at(root)
        yield GvisorProvider(state_dir=state_dir, pool_size=0, egress=egress, system=system)
        return
    engine = "docker" if name == "docker" else "podman"
    with opened_engine(engine):
        yield ContainerProvider(engine, state_dir=state_dir, pool_size=0, egress=egress)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["bwrap", "gvisor", "docker", "podman"], ids=str
)
async def inside(
    request: pytest.FixtureRequest, registry: Registry, git_host: GitHost
) -> AsyncIterator[Inside]:
    async with contextlib.AsyncExitStack() as opened:
        root = Path(opened.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp", prefix="corral-")))
        root.chmod(0o711)
        trusted = root / "trusted.pem"
        trusted.write_bytes(registry.authority.read_bytes() + git_host.authority.read_bytes())
        gateway = await opened.enter_async_context(
            Gateway.start(
                names={REGISTRY: ["127.0.0.1"], GIT_HOST: ["127.0.0.1"], "other.test": ["127.0.0.1"]},
                operator=OperatorHosts(
                    internal=("127.0.0.1",), packages=(REGISTRY,), repositories=(git_host.where,)
                ),
                trusted=trusted,
            )
        )
        await gateway.gives_token(SESSION, git_host.url("ada/engine"), GIT_TOKEN)
        held = await gateway.gives(SESSION, "REGISTRY_TOKEN", TOKEN, networking=limited(REGISTRY))
        provider = opened.enter_context(provided(request.param, root, Egress(gateway.data_dir)))
        probe = await provider.probe()
        if not probe.is_available:
            pytest.skip(probe.report)
        lab = await opened.enter_async_context(Lab.open(provider, root=root))
        repository = Mount(
            mount_id="sesrsc_0", kind="repository", path="/workspace/engine", digest="", mode="copy",
            has_token=True,
        )  # fmt: skip
        recipe = Recipe(
            environment={"type": "cloud", "networking": limited(allow_package_managers=True)},
            variables={"REGISTRY_TOKEN": held},
            mounts=(repository,),
        )
        box = await lab.sandbox(SESSION, recipe=recipe)
        yield Inside(lab=lab, box=box, registry=registry, git_host=git_host)


async def test_nothing_else_is_reached(inside: Inside) -> None:
    asked = (
        f"curl -s -o /dev/null -w '%{{http_connect}}' https://other.test:{inside.registry.port}/ || true"
    )
    assert await inside.runs(asked) == "403"


async def test_pip_installs(inside: Inside) -> None:
    await inside.needs("pip3")
    index = f"PIP_INDEX_URL={inside.registry.url}/simple/"
    said = await inside.runs(
        f"{index} pip3 install -q --target pip greet && PYTHONPATH=pip python3 -c 'import greet'"
    )
    assert said.splitlines()[-1] == "hello from pip"


async def test_npm_installs_with_a_token_that_it_does_not_have(inside: Inside) -> None:
    await inside.needs("npm")
    where = f"{inside.registry.where}/npm/"
    said = await inside.runs(
        f"mkdir -p npm && cd npm && echo 'registry=https://{where}' > .npmrc &&"
        f" echo '//{where}:_authToken=${{REGISTRY_TOKEN}}' >> .npmrc && npm init -y > /dev/null &&"
        " npm install --no-audit --no-fund hello > /dev/null && node_modules/.bin/hello &&"
        " echo $REGISTRY_TOKEN"
    )
    hello, held = said.splitlines()[-2:]
    assert hello == "hello from npm" and TOKEN not in held
    assert f"Bearer {TOKEN}" in inside.registry.authorizations


async def test_apt_updates_and_downloads(inside: Inside) -> None:
    """Without root, so in directories of its own."""
    await inside.needs("apt-get")
    if "/apt/./ave.deb" not in inside.registry.files:
        pytest.skip("there is no dpkg-deb to make a package with")
    options = (
        "-o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=- -o Dir::State=$PWD/state"
        " -o Dir::Cache=$PWD/cache -o Dir::State::Status=$PWD/status -o APT::Sandbox::User="
    )
    said = await inside.runs(
        "mkdir -p apt/state/lists/partial apt/cache/archives/partial && cd apt && touch status &&"
        f" echo 'deb [trusted=yes] {inside.registry.url}/apt ./' > sources.list &&"
        f" apt-get -qq {options} update && apt-get -qq {options} download ave &&"
        " dpkg-deb -x ave_1.0_all.deb out && out/usr/bin/ave"
    )
    assert said.splitlines()[-1] == "hello from apt"


async def test_cargo_fetches(inside: Inside, cargo: bytes | None) -> None:
    """It is brought along, wherever it lies on this machine."""
    if cargo is None:
        pytest.skip("there is no cargo on this machine")
    program = in_chunks(archive_of((member("bin/cargo", mode=0o755), cargo)))
    await inside.lab.provider.import_archive(await inside.lab.workspace(SESSION), program)
    index = f"sparse+{inside.registry.url}/crates/"
    said = await inside.runs(
        "mkdir -p crate/src crate/.cargo && cd crate && touch src/lib.rs &&"
        f" printf '[registries.ours]\\nindex = \"{index}\"\\n' > .cargo/config.toml &&"
        ' printf \'[package]\\nname = "mine"\\nversion = "0.1.0"\\nedition = "2021"\\n[dependencies]\\n'
        'salve = { version = "1", registry = "ours" }\\n\' > Cargo.toml &&'
        " CARGO_HOME=$PWD/home ../bin/cargo vendor -q > /dev/null && cat vendor/salve/src/lib.rs"
    )
    assert said.splitlines()[-1] == "pub fn salve() {}"


async def test_a_large_download_comes_whole(inside: Inside) -> None:
    said = await inside.runs(f"curl -sS {inside.registry.url}/files/large | sha256sum")
    assert said.split()[0] == hashlib.sha256(LARGE).hexdigest()


async def test_git_clones_and_pushes(inside: Inside) -> None:
    """A private repository; the token is put on outside."""
    await inside.needs("git")
    host, branch = inside.git_host, f"made-{os.getpid()}-{len(inside.git_host.requests)}"
    said = await inside.runs(
        f"rm -rf engine && git clone -q {host.url('ada/engine')} && cd engine && cat README.md &&"
        " git config user.name Ada && git config user.email ada@example.com && echo mine > mine &&"
        " head -c 3000000 /dev/urandom > large && git add -A && git commit -qm Mine &&"
        f" git push -q origin HEAD:refs/heads/{branch} 2>&1 && git rev-parse HEAD && git config --list"
    )
    lines = said.splitlines()
    assert lines[0] == "an engine" and GIT_TOKEN not in said
    assert git("rev-parse", f"refs/heads/{branch}", at=host.bare("ada/engine")) in lines
    assert {header for _, header in host.authorizations} == {basic(GIT_TOKEN)}
