"""The script as a sandbox runs it, where there is no sandbox: what nothing stops, gets through."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from corral.redteam.canaries import Canaries
from corral.redteam.outside import Outside
from corral.redteam.stage import script


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    async with Outside.around(tmp_path, Canaries()) as outside:
        yield outside


async def tried(
    outside: Outside, *names: str, environment: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    workspace = outside.root / "workspace"
    workspace.mkdir(exist_ok=True)
    (workspace / "redteam.py").write_text(script())
    (workspace / "redteam.json").write_text(json.dumps(outside.facts))
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-IS", "redteam.py", "redteam.json", *names),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=workspace,
        env={"PATH": os.defpath, **(environment or {})},
    )
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    lines = [json.loads(line) for line in output.decode().splitlines()]
    return {line["attempt"]: line for line in lines}


OPEN = (
    "files.secret", "files.climbs", "files.follows", "files.links", "files.lists", "files.makes",
    "files.shared-folder", "files.tells", "files.watches", "unix-sockets.outside",
    "abstract-sockets.outside",
    "network.service", "proc.sees-victim", "proc.arguments-victim", "signals.ends-victim",
    "kernel.hostname",
    "namespaces.shares-net", "git.file", "git.alternates",
)  # fmt: skip


async def test_without_walls_attempts_get_through(outside: Outside) -> None:
    found = await tried(outside, *OPEN)
    assert {name for name, said in found.items() if said["end"] == "won"} >= set(OPEN) - {
        "signals.ends-victim", "kernel.hostname", "git.file", "git.alternates",
    }, found  # fmt: skip
    assert found["git.alternates"]["canaries"][0].startswith("repository:")
    assert found["files.secret"]["canaries"][0].startswith("file:")
    assert all(said["end"] != "untried" for said in found.values()), found


async def test_what_was_reached_shows_outside(outside: Outside) -> None:
    assert outside.trips() == {}
    await tried(outside, "network.service", "unix-sockets.outside", "abstract-sockets.outside")
    assert outside.trips().keys() == {"forbidden", "unix", "abstract"}
    await tried(outside, "files.overwrites", "signals.ends-victim", "network.datagram")
    async with asyncio.timeout(30):
        while not outside.trips().keys() >= {"outside", "victim", "datagram"}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_secret_in_the_environment_is_found(outside: Outside) -> None:
    secret = outside.canaries.plant("server")
    names = ("environments.own", "proc.own-memory")
    found = await tried(outside, *names, environment={"SECRET": secret})
    assert [found[name]["end"] for name in names] == ["won", "won"]
    found = await tried(outside, *names)
    assert [found[name]["end"] for name in names] == ["held", "held"]


async def test_what_could_not_be_tried_is_not_held(outside: Outside) -> None:
    """A tool, a fact or a service that is not there."""
    found = await tried(
        outside, "git.submodule", "journal.reads", "smuggling.pipelined", environment={"PATH": "/nowhere"}
    )
    assert {said["end"] for said in found.values()} == {"untried"}
    assert "git" in found["git.submodule"]["why"] and "journal" in found["journal.reads"]["why"]
