"""Packages of environments, end to end: the official SDK, real processes, real package managers."""

import shutil
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corral.testing.messages_reply import Reply
from tests.registry import Registry
from tests.served import KEY, text
from tests.stage import Stage, Stages, Tail, staged, words

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREET = {"greet/__init__.py": "def main():\n    print('salve')\n"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("registry")) as running:
        running.wheel("greet", "1.0", GREET, scripts={"greet": "greet:main"})
        running.tarball(
            "hello",
            "1.0.0",
            {"index.js": "#!/usr/bin/env node\nmodule.exports = 'hello'; console.log('hello');\n"},
            scripts={"hello": "index.js"},
        )
        running.deb(
            "ave",
            "1.0",
            {"usr/bin/ave": "#!/bin/sh\necho ave\n", "etc/ave.conf": "x=1\n"},
            postinst="update-alternatives --install /usr/bin/caesar caesar /usr/bin/ave 1",
        )
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(registry: Registry) -> AsyncIterator[Stages]:
    settings = {
        "packages_private_hosts": (registry.where,),
        "packages_ca": registry.authority,
        "packages_config": registry.config,
    }
    async with staged(settings=settings) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


_numbers = count(1)


async def session_with(stage: Stage, **packages: list[str]) -> Any:
    """Its environment reaches no host of its own."""
    networking = {"type": "limited", "allow_package_managers": True}
    config: Any = {"type": "cloud", "networking": networking, "packages": packages}
    stage._environment_id = (await stage.client.beta.environments.create(name="test", config=config)).id
    return await stage.session()


async def turn(
    stage: Stage, session_id: str, tail: Tail, command: str, number: int = 1, *, ends: bool = True
) -> str:
    """The model runs a command; what it printed. ends: the model is asked again afterwards."""
    call = f"toolu_{next(_numbers)}", "bash", {"command": command}
    stage.play(Reply.tools(call), *([Reply.text("Done.")] if ends else []))
    await stage.send(session_id, text("Look."))
    await tail.idle(number, seconds=120)
    return words(tail.of("agent.tool_result")[-1]).strip()


async def test_a_session_with_packages(registry: Registry, stage: Stage) -> None:
    look = (
        "greet; python3 -c 'import greet; greet.main()'; hello; node -e \"require('hello')\"; caesar;"
        " cat /etc/ave.conf"
    )
    wanted = {"apt": ["ave"], "npm": ["hello"], "pip": ["greet==1.0"]}
    shown = ["salve", "salve", "hello", "hello", "ave", "x=1"]
    session = await session_with(stage, **wanted)
    async with stage.watch(session.id) as tail:
        said = await turn(stage, session.id, tail, f"{look}; touch /opt/corral/packages/pip/x; env")
        assert said.split("\n")[:6] == shown
        assert "Read-only file system" in said and registry.where not in said
        assert not tail.of("session.error")
    assert registry.taken()
    # Installed once; and once more for nobody: what a host has lost comes from the blobs.
    for loses in (False, True):
        if loses:
            shutil.rmtree(stage.server.config.data_dir / "hands" / "layers")
        again = await session_with(stage, **wanted)
        async with stage.watch(again.id) as tail:
            assert (await turn(stage, again.id, tail, look)).split() == shown
    assert not registry.taken()


async def test_packages_that_fail_are_tried_three_times(registry: Registry, stage: Stage) -> None:
    session = await session_with(stage, pip=["missing==1.0"])
    async with stage.watch(session.id) as tail:
        said = await turn(stage, session.id, tail, "touch /workspace/ran", ends=False)
        errors = [event.error for event in tail.of("session.error")]
        assert [error.retry_status.type for error in errors] == ["retrying", "retrying", "exhausted"]
        assert {error.type for error in errors} == {"unknown_error"}
        assert "missing==1.0" in errors[0].message and "was not run" in said
        assert tail.of("session.status_idle")[-1].stop_reason.type == "retries_exhausted"
        # The next turn tries again.
        registry.wheel("missing", "1.0", {"missing/__init__.py": ""})
        await turn(stage, session.id, tail, "python3 -c 'import missing'; ls /workspace; echo ok", 2)
        assert words(tail.of("agent.tool_result")[-1]).strip() == "ok"


async def test_hostile_packages_stay_in_their_place(
    registry: Registry, stage: Stage, tmp_path: Path
) -> None:
    """Whatever a package's own program does while it is installed, and whatever it leaves."""
    outside = stage.server.config.data_dir
    setup = (
        "import os, setuptools\n"
        "def link(to, at):\n    os.path.lexists(at) or os.symlink(to, at)\n"
        "os.makedirs('/opt/corral/packages/pip/bin', exist_ok=True)\n"
        f"link({str(outside)!r}, '/opt/corral/packages/data')\n"
        "link('/', '/opt/corral/packages/npm')\n"
        "link('/', '/opt/corral/packages/apt')\n"
        "link('/etc/passwd', '/opt/corral/packages/pip/bin/users')\n"
        "said = os.popen('id -u; ls -a / /root /home 2>&1; env; ls /sys 2>&1').read()\n"
        "open('/opt/corral/packages/pip/said', 'w').write(said)\n"
        "setuptools.setup(name='hostile', version='1.0')\n"
    )
    registry.sdist("hostile", "1.0", setup)
    session = await session_with(stage, pip=["hostile"])
    async with stage.watch(session.id) as tail:
        said = await turn(
            stage,
            session.id,
            tail,
            "cd /opt/corral/packages; cat pip/said; echo; cat pip/bin/users; ls data/ npm/root; env",
        )
    assert "agent:x:1000" in said, "a link leads to what the sandbox has there itself"
    assert "root:x:0:0:root:/root:/bin/bash" not in said
    assert "corral.db" not in said and KEY not in said
