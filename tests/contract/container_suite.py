"""What every provider of containers must do, beside the contract of all providers: its door, what a killed
host leaves, images, and what is said when something is missing. One file of tests for each engine uses it,
so that they run side by side."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.hands.ports import Probe, SandboxLost
from corral.hands.providers.container import ContainerProvider
from corral.hands.providers.engines import EngineName
from corral.hands.providers.system import MACHINE, System
from corral.hands.way_out import Egress
from corral.session.call import Recipe
from corral.testing.lab import Lab, is_gone, new_mark, pids_of, until
from corral.testing.origin import Origin
from tests.contract.container_engines import NoEngine, docker_environment, podman_environment
from tests.gateway import UNRESTRICTED, Gateway, limited
from tests.root_system import MARK, made_root

__all__ = ["ContainerChecks", "opened_engine"]


@contextlib.contextmanager
def opened_engine(name: EngineName) -> Iterator[EngineName]:
    """While it works here, by the variables of this process; skips with the reason where it cannot."""
    environment = docker_environment if name == "docker" else podman_environment
    with pytest.MonkeyPatch.context() as patch:
        try:
            with environment() as variables:
                for variable, value in variables.items():
                    patch.setenv(variable, value)
                yield name
        except NoEngine as none:
            pytest.skip(str(none))


class ContainerChecks:
    """Give it a fixture `engine`."""

    @pytest.fixture
    async def lab(self, engine: EngineName, tmp_path: Path) -> AsyncIterator[Lab]:
        provider = ContainerProvider(engine, state_dir=tmp_path, pool_size=0)
        async with Lab.open(provider, root=tmp_path) as lab:
            yield lab

    async def test_a_sandbox_gets_out_by_its_door_and_in_no_other_way(
        self, engine: EngineName, tmp_path: Path
    ) -> None:
        """Cold, and warm from the pool: then it is its session's from when it was handed out."""
        names = {"origin.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}
        wide, narrow = (
            Recipe(environment={"type": "cloud", "networking": networking})
            for networking in (UNRESTRICTED, limited("origin.test"))
        )
        async with contextlib.AsyncExitStack() as opened:
            origin = opened.enter_context(Origin.start())
            gateway = await opened.enter_async_context(Gateway.start(names=names))
            provider = ContainerProvider(engine, state_dir=tmp_path, egress=Egress(gateway.data_dir))
            lab = await opened.enter_async_context(Lab.open(provider, root=tmp_path))

            def curl(name: str, *options: str) -> str:
                words = ("curl", "-s", "--max-time", "60", "-w", "' %{http_code}'", *options)
                return " ".join([*words, f"http://{name}:{origin.port}/"])

            first = await lab.sandbox("sesn_1", recipe=wide)
            assert await lab.bash(first, curl("origin.test")) == "hello 200"
            await until(lambda: bool(provider._pool), 60)
            warm = provider._pool[0][1]
            second = await lab.sandbox("sesn_2", recipe=narrow)
            assert second is warm
            assert await lab.bash(second, curl("origin.test")) == "hello 200"
            assert (await gateway.entries())[-1]["session_id"] == "sesn_2"
            assert (await lab.bash(second, curl("other.test"))).endswith(" 403")
            await lab.fails(second, "test -e /run/corral/door/way")
            await lab.fails(second, curl("127.0.0.1", "--noproxy", "'*'"))
            assert origin.connections == 2
        assert not list(tmp_path.glob("door-*")) and not list(tmp_path.glob("pool-*"))

    async def test_a_credential_is_used_and_never_seen(self, engine: EngineName, tmp_path: Path) -> None:
        """By a program that trusts what this machine does, and by one that is told nothing."""
        canary = f"canary/{secrets.token_hex(8)}"
        async with contextlib.AsyncExitStack() as opened:
            origin = opened.enter_context(Origin.start(tmp_path, "origin.test"))
            gateway = await opened.enter_async_context(
                Gateway.start(names={"origin.test": ["127.0.0.1"]}, trusted=origin.authority)
            )
            provider = ContainerProvider(
                engine, state_dir=tmp_path, pool_size=0, egress=Egress(gateway.data_dir)
            )
            lab = await opened.enter_async_context(Lab.open(provider, root=tmp_path))
            held = await gateway.gives("sesn_1", "TOKEN", canary, networking=limited("origin.test"))
            box = await lab.sandbox(
                "sesn_1", recipe=Recipe(environment={"networking": UNRESTRICTED}, variables={"TOKEN": held})
            )
            for prefix in ("", "env -i https_proxy=$https_proxy "):
                url = f"https://origin.test:{origin.port}/headers"
                said = await lab.bash(box, f'{prefix}curl -sS -H "Authorization: $TOKEN" {url}')
                assert dict(origin.requests[-1][2])["Authorization"] == canary
                assert held in said and canary not in said

    async def test_what_a_killed_host_leaves_ends_and_is_removed(
        self, engine: EngineName, tmp_path: Path
    ) -> None:
        """The agent ends with its pipe; what does not, the next host on this directory removes."""
        mark = new_mark()
        host = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _HOST, engine, str(tmp_path), mark, stdout=subprocess.PIPE
        )
        assert host.stdout and (await host.stdout.readline()).strip() == b"ready"
        names = await containers(engine, tmp_path)
        assert len(names) == 2, "one at work, and a warm one"
        await until(lambda: len(pids_of(mark)) >= 3)  # two sleeps, and the host
        image = await said_by(engine, "inspect", "--format", "{{.Image}}", names[0])
        host.kill()
        await host.wait()
        await until(lambda: is_gone(mark), 60)

        theirs = names[0].rpartition("-")[0] + "-0123456789abcdef"
        create = ("create", "--ulimit", "nofile=64:64", "--ulimit", "nproc=64:64", "--network", "none")
        await said_by(engine, *create, "--name", theirs, "--label", label_of(tmp_path), image, "true")
        others = await said_by(engine, *create, image, "true")
        provider = ContainerProvider(engine, state_dir=tmp_path, pool_size=0)
        try:
            assert (await provider.probe()).is_available
            assert not await containers(engine, tmp_path)
            await provider.remove_workspace(tmp_path / "workspaces" / "sesn_1")
        finally:
            await provider.aclose()
            await said_by(engine, "rm", others)
        assert not list(tmp_path.glob("pool-*"))

    async def test_a_container_that_others_end_is_a_loss(
        self, engine: EngineName, lab: Lab, tmp_path: Path
    ) -> None:
        box, mark = await lab.sandbox(), new_mark()
        task = await lab.started(box, lab.call("bash", command=f"echo kept > a; sleep {mark}"), mark)
        (name,) = await containers(engine, tmp_path)
        await said_by(engine, "kill", name)
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], SandboxLost)
        again = await lab.sandbox()
        assert await lab.bash(again, "cat a") == "kept"
        await again.destroy()
        assert not await containers(engine, tmp_path)

    async def test_what_an_engine_has_lost_is_made_again(
        self, engine: EngineName, lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As one does that is installed anew under a server that goes on."""
        first = await lab.sandbox()
        (name,) = await containers(engine, tmp_path)
        image = await said_by(engine, "inspect", "--format", "{{.Image}}", name)
        await first.destroy()
        await said_by(engine, "image", "rm", "--force", image)
        again = await lab.sandbox()
        assert await lab.bash(again, "echo made") == "made"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert image.removeprefix("sha256:") in caplog.text

    async def test_an_image_or_a_root_of_the_operators_choice(
        self, engine: EngineName, tmp_path: Path
    ) -> None:
        """With hardly more than a shell: what Corral needs comes along."""
        root, name = made_root(tmp_path / "root", "coreutils"), f"localhost/chosen:{secrets.token_hex(8)}"
        archive = tmp_path / "root.tar"
        with tarfile.open(archive, "w") as packed:
            packed.add(root, ".")
        await said_by(engine, "import", str(archive), name)
        for state, system, image in (("a", MACHINE, name), ("b", System.at(root), None)):
            place = tmp_path / state
            place.mkdir(mode=0o711)
            provider = ContainerProvider(engine, state_dir=place, pool_size=0, system=system, image=image)
            async with Lab.open(provider, root=place) as lab:
                probe = await provider.probe()
                assert probe.is_available, f"{probe.report}; {probe.remedy}"
                box = await lab.sandbox()
                assert await lab.bash(box, f". {MARK}") == "marked"
                assert "not found" in await lab.fails(box, "python3 --version")
                result = await box.run(lab.call("write", file_path="a", content="kept\n"))
                assert not result.is_error
                there = await lab.workspace("sesn_there")
                await provider.unpack(there, provider.pack(await lab.workspace()))
                assert await lab.bash(await lab.sandbox("sesn_there"), "cat a") == "kept"
                for command in ("echo x > /new", "echo x > /usr/bin/new", f"rm -f /usr/bin/{MARK}"):
                    assert "Read-only file system" in await lab.fails(box, command)

    async def test_what_is_missing_is_said(
        self, engine: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def probed(image: str | None = None) -> Probe:
            provider = ContainerProvider(engine, state_dir=tmp_path, image=image)
            probe = await provider.probe()
            await provider.aclose()
            assert not probe.is_available and "/" not in probe.summary
            return probe

        probe = await probed("localhost/absent:1")
        assert probe.summary == "the image of sandboxes is not there"
        assert (
            "localhost/absent:1" in probe.detail and f"`{engine} pull localhost/absent:1`" in probe.remedy
        )
        with tarfile.open(tmp_path / "empty.tar", "w"):
            pass
        await said_by(engine, "import", str(tmp_path / "empty.tar"), "localhost/empty:1")
        probe = await probed("localhost/empty:1")
        assert probe.summary == "the image of sandboxes has no bash that runs here"
        assert "/bin/bash" in probe.remedy
        if engine == "docker":
            monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
            probe = await probed()
            assert probe.summary == "docker does not answer" and "start its daemon" in probe.remedy
        monkeypatch.setenv("PATH", str(tmp_path))
        probe = await probed()
        assert probe.summary == f"there is no {engine}" and f"install {engine}" in probe.remedy


_HOST = """
import asyncio, sys
from pathlib import Path
from corral.hands.providers.container import ContainerProvider
from corral.testing.lab import Lab

async def main():
    root = Path(sys.argv[2])
    provider = ContainerProvider(sys.argv[1], state_dir=root)
    async with Lab.open(provider, root=root) as lab:
        await lab.bash(await lab.sandbox(), f"sleep {sys.argv[3]} & setsid nohup sleep {sys.argv[3]} &")
        while not provider._pool:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def said_by(engine: EngineName, *words: str) -> str:
    """What a command of it says, which must work."""
    process = await asyncio.create_subprocess_exec(
        engine, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return said.decode().strip()


async def containers(engine: EngineName, state_dir: Path) -> list[str]:
    """The names of those that a provider with this directory has, or another one has left."""
    wanted = ("--all", "--filter", f"label={label_of(state_dir)}", "--format", "{{.Names}}")
    return (await said_by(engine, "ps", *wanted)).split()


def label_of(state_dir: Path) -> str:
    return f"corral.state={hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]}"
