"""A whole server that root started for two users: who its processes are, and what they cannot read of each
other, whoever is killed."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from base64 import b64decode
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from corral.daemon import private_path, token_path
from corral.egress.process import KEY_FILE
from corral.hands.providers.cgroup import Cgroups
from corral.testing.messages_reply import Reply
from corral.testing.origin import Origin
from tests.contract.ordinary_user import python_of_all
from tests.memory import below, holds
from tests.served import Served, lives, text, until
from tests.stage import Stage, staged, words

CANARY = "canary-0f-the-egress-us3r"
# No distribution gives these to anybody, and tests side by side are users of their own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
USER, EGRESS = 65_420 + 2 * _WORKER, 65_421 + 2 * _WORKER
AUTH: dict[str, Any] = {
    "type": "environment_variable",
    "secret_name": "TOKEN",
    "secret_value": CANARY,
    "networking": {"type": "limited", "allowed_hosts": ["localhost"]},
}
# Says which of these paths it can open, or list.
LOOK = """
import json, os, sys
found = []
for path in json.loads(sys.argv[1]):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
        found.append(path)
    except PermissionError:
        pass
print(json.dumps(found))
"""
_numbers = count(1)


def uids(pid: int) -> list[int]:
    """Real, effective, saved, of the file system."""
    return status(pid, "Uid")


def status(pid: int, field: str) -> list[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(word) for line in lines if line.startswith(f"{field}:") for word in line.split()[1:]]


def as_user(uid: int, *paths: Path) -> set[Path]:
    """Those of the paths that a process of this user can open."""
    said = subprocess.run(
        ["/usr/bin/python3", "-c", LOOK, json.dumps([str(path) for path in paths])],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    return {Path(path) for path in json.loads(said.stdout)}


def check_processes(server: Served) -> None:
    """Each is who it is to be, and can become nobody else."""
    assert server.process
    assert uids(server.process.pid) == [0, USER, 0, USER]
    assert status(server.process.pid, "Groups") == []
    for role, uid in (("server", USER), ("hands", USER), ("egress", EGRESS)):
        for pid in below(server.pid(role)):
            with contextlib.suppress(OSError):  # hands start and end sandboxes meanwhile
                found = (set(uids(pid)), set(status(pid, "Gid")), status(pid, "NoNewPrivs"))
                assert found == ({uid}, {uid}, [1]), role
        assert status(server.pid(role), "Groups") == []


def check_files(data_dir: Path) -> None:
    """Each belongs to who keeps it; nothing is root's."""
    private = private_path(data_dir, "egress")
    for directory, _, names in os.walk(data_dir):
        for path in (Path(directory), *(Path(directory, name) for name in names)):
            owner = EGRESS if path.is_relative_to(private) else USER
            with contextlib.suppress(FileNotFoundError):  # files of running processes come and go
                assert path.lstat().st_uid == owner, path
    assert private.stat().st_mode & 0o777 == 0o700


def closed_to_server(server: Served) -> list[Path]:
    private, egress = private_path(server.config.data_dir, "egress"), Path(f"/proc/{server.pid('egress')}")
    kept = [private, private / KEY_FILE, private / "authority.seed", private / "tokens", private / "audit"]
    return [*kept, *(egress / name for name in ("mem", "environ", "fd"))]


async def said(stage: Stage, session_id: str, command: str) -> str:
    """What a command prints, in a turn of its own."""
    stage.play(Reply.tools((f"toolu_{next(_numbers)}", "bash", {"command": command})), Reply.text("Done."))
    async with stage.watch(session_id) as tail:
        await stage.send_surely(session_id, text("Go on."), seconds=60)
        await tail.idle(seconds=60)
        return words(await tail.until("agent.tool_result"))


async def replaced(server: Served, role: str) -> None:
    """kill -9, and return when another one serves."""
    before = server.pid(role)
    await server.kill(role)
    await until(lambda: server._known_pid(role) not in (None, before))


@pytest.mark.timeout(300)  # it reads the memory of every process
async def test_two_users(open_dir: Path) -> None:
    python, path = python_of_all()
    settings: dict[str, Any] = {
        "user": str(USER),
        "egress_user": str(EGRESS),
        "egress_internal_hosts": ("localhost",),
    }
    with Origin.start(open_dir) as origin:
        assert origin.authority
        settings["egress_ca"] = origin.authority
        async with (
            staged(settings=settings, parent=open_dir, python=python, PYTHONPATH=path) as stages,
            stages.open() as stage,
        ):
            await _a_life(stage, origin)


async def _a_life(stage: Stage, origin: Origin) -> None:
    server, beta = stage.server, stage.client.beta
    data_dir = server.config.data_dir
    check_processes(server)
    vault = await beta.vaults.create(display_name="V")
    await beta.vaults.credentials.create(vault.id, auth=AUTH)
    environment = await beta.environments.create(
        name="limited",
        config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["localhost"]}},
    )
    stage._environment_id = environment.id
    session = await stage.session(vault_ids=[vault.id])
    get = (
        "curl -sS --noproxy '' -x $https_proxy -H \"Authorization: $TOKEN\""
        f" https://localhost:{origin.port}/headers >seen 2>&1; grep -c corral_ph_ seen"
    )
    seen = 0

    async def uses_the_credential() -> None:
        nonlocal seen
        assert (await said(stage, session.id, get)).endswith("1")
        assert len(origin.requests) == seen + 1
        assert dict(origin.requests[-1][2])["Authorization"] == CANARY
        seen += 1

    await uses_the_credential()
    check_processes(server)
    check_files(data_dir)
    if Cgroups().limits_memory:  # root's can be made here, so it passes some on
        groups = [Path(f"/proc/{pid}/cgroup").read_text() for pid in below(server.pid("hands"))]
        assert any(f"/corral-{USER}/" in group for group in groups)

    # -- who can read what
    closed = closed_to_server(server)
    callers = token_path(data_dir, "egress")
    assert as_user(USER, *closed, callers, data_dir / "corral.db") == {callers, data_dir / "corral.db"}
    key = private_path(data_dir, "egress") / KEY_FILE
    assert as_user(EGRESS, key, callers, data_dir / "corral.db", data_dir / "supervisor.json") == {key}
    stranger = EGRESS + 1_000
    assert as_user(stranger, *closed, callers, callers.with_name("doors.sock"), data_dir) == set()

    # -- who holds what
    private = key.read_bytes().split()[1]
    secrets = {
        "secret": CANARY.encode(),
        "key": b64decode(private),
        "key as text": private,
        "seed": (key.with_name("authority.seed")).read_bytes(),
    }
    egress = server.pid("egress")
    assert server.process
    try:
        assert holds(egress, secrets), "the search finds what is there"
    except PermissionError:
        pytest.skip("this machine does not let its user read the memory of processes")
    for pid in {server.process.pid, server.pid("server"), server.pid("hands")}:
        assert not holds(pid, secrets), pid

    # -- who comes after whom
    for role in ("egress", "hands"):
        await replaced(server, role)
        await uses_the_credential()
        check_processes(server)
    hands, egress = server.pid("hands"), server.pid("egress")
    await server.restart()  # the next supervisor adopts them
    assert (server.pid("hands"), server.pid("egress")) == (hands, egress)
    await uses_the_credential()
    await replaced(server, "egress")  # by a supervisor that did not start it
    await uses_the_credential()
    check_processes(server)

    # -- root's commands leave nothing that the server could not open
    archive = data_dir.parent / "backup.tar.zst"
    await corral(server, "backup", data_dir.parent / "while-it-runs.tar.zst")
    await server.stop()
    await until(lambda: not lives(hands))  # its lock goes before it does
    await corral(server, "backup", archive)
    check_files(data_dir)
    for each in data_dir.glob("corral.db*"):
        each.unlink()
    archive.chmod(0o644)  # it is read as the directory's owner
    await corral(server, "restore", archive)
    check_files(data_dir)
    await server.start()
    await uses_the_credential()
    check_processes(server)
    assert as_user(USER, *closed_to_server(server)) == set()


async def corral(server: Served, *arguments: str | Path) -> str:
    running = await asyncio.create_subprocess_exec(
        *(server.python, "-m", "corral.cli", *map(str, arguments), "--data-dir", server.config.data_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **server.environment},
    )
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, output.decode()
    return output.decode()


async def started(data_dir: Path, **settings: str) -> str:
    """What a supervisor says that cannot start, and its exit status."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "corral.supervisor"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    config = json.dumps({"data_dir": str(data_dir), "port": 0, **settings}).encode() + b"\n"
    output, _ = await asyncio.wait_for(running.communicate(config), 60)
    return f"{running.returncode}: {output.decode()}"


async def test_an_installation_that_they_cannot_read_is_named(open_dir: Path) -> None:
    path = Path(sys.executable).resolve()
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in path.parents):
        pytest.skip("every user can run this interpreter")
    said = await started(open_dir / "d", user=str(USER), egress_user=str(EGRESS))
    assert said.startswith(f"2: corral serve: '{USER}' (user) cannot read ")
    assert "Traceback" not in said
    assert not (open_dir / "d").exists(), "a refused start makes no data directory"
