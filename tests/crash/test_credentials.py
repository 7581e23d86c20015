"""Credentials of a whole server at work: used, rotated, and in plain in the memory of one process alone."""

import asyncio
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from corral.cli.audit import Wanted, list_audit
from corral.cli.connect import Api, Server
from corral.egress.process import KEY_FILE
from corral.testing.messages_reply import Reply
from corral.testing.origin import Origin
from tests.memory import below, holds
from tests.served import KEY, WAIT_SECONDS, text
from tests.stage import Stage, staged, words

CANARY = "canary-0f-a-session-at-w0rk"
ROTATED = "canary-after-it-was-r0tated"
AUTH: dict[str, Any] = {
    "type": "environment_variable",
    "secret_name": "TOKEN",
    "secret_value": CANARY,
    "networking": {"type": "limited", "allowed_hosts": ["localhost", "api.example.com"]},
}
_numbers = count(1)


async def said(stage: Stage, session_id: str, command: str) -> str:
    """What a command prints, in a turn of its own."""
    stage.play(Reply.tools((f"toolu_{next(_numbers)}", "bash", {"command": command})), Reply.text("Done."))
    async with stage.watch(session_id) as tail:
        await stage.send(session_id, text("Go on."))
        await tail.idle(seconds=60)
        return words(await tail.until("agent.tool_result"))


@pytest.fixture
def origin(tmp_path: Path) -> Any:
    with Origin.start(tmp_path) as origin:
        yield origin


@pytest.mark.timeout(300)
async def test_a_session_at_work(origin: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    assert origin.authority
    settings = {
        "egress_internal_hosts": ("localhost",),
        "egress_ca": origin.authority,
        "log_level": "debug",
    }
    async with staged(settings=settings) as stages, stages.open() as stage:
        server, beta = stage.server, stage.client.beta
        vault = await beta.vaults.create(display_name="V")
        made = await beta.vaults.credentials.create(vault.id, auth=AUTH)
        environment = await beta.environments.create(
            name="limited",
            config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["localhost"]}},
        )
        stage._environment_id = environment.id
        session = await stage.session(vault_ids=[vault.id])
        get = (
            "curl -sS --noproxy '' -x $https_proxy -H \"Authorization: $TOKEN\""
            f" https://localhost:{origin.port}/headers"
        )
        found = await said(stage, session.id, f"echo $TOKEN; {get}")
        placeholder = re.match(r"corral_ph_[0-9a-f]{32}\n", found)
        assert placeholder and found.count(placeholder[0].strip()) == 2
        assert CANARY not in found
        assert dict(origin.requests[-1][2])["Authorization"] == CANARY

        events = await stage.history(session.id)
        [error] = [event.error for event in events if event.type == "session.error"]
        assert error.type == "credential_host_unreachable_error"
        assert (error.credential_id, error.vault_id) == (made.id, vault.id)
        assert "api.example.com" in error.message and error.retry_status.type == "retrying"

        await beta.vaults.credentials.update(
            made.id,
            vault_id=vault.id,
            auth={"type": "environment_variable", "secret_value": ROTATED},
        )
        async with asyncio.timeout(60):  # as is promised
            while dict(origin.requests[-1][2])["Authorization"] != ROTATED:
                assert ROTATED not in await said(stage, session.id, f"{get}; sleep 2")
        async with asyncio.timeout(30):
            while True:
                if {each["credential_id"] for each in await audit(stage, session.id)} == {None, made.id}:
                    break
                await asyncio.sleep(0.2)
        with contextlib.closing(Api(Server(url=server.url, key=KEY))) as api:
            wanted = Wanted(session_id=session.id)
            await asyncio.to_thread(list_audit, api, wanted, most=10, as_json=False)
        assert f"with {made.id}" in capsys.readouterr().out
        assert server.log and CANARY not in server.log and ROTATED not in server.log
        for path, content in server.files():
            for secret in (CANARY.encode(), b64encode(CANARY.encode())):
                assert secret not in content, path


SECRETS = {
    "variable": CANARY,
    "changed": ROTATED,
    "bearer": "canary-0f-a-bearer-t0ken",
    "access": "canary-0f-an-access-t0ken",
    "refresh": "canary-0f-a-refresh-t0ken",
    "client": "canary-0f-a-client-s3cret",
}
OTHERS: list[dict[str, Any]] = [
    {
        "type": "static_bearer",
        "mcp_server_url": "https://bearer.example.com/mcp",
        "token": SECRETS["bearer"],
    },
    {
        "type": "mcp_oauth",
        "mcp_server_url": "https://oauth.example.com/mcp",
        "access_token": SECRETS["access"],
        "refresh": {
            "client_id": "corral",
            "refresh_token": SECRETS["refresh"],
            "token_endpoint": "https://login.example.com/token",
            "token_endpoint_auth": {"type": "client_secret_post", "client_secret": SECRETS["client"]},
        },
    },
]


@pytest.mark.timeout(300)  # it reads the memory of every process
async def test_one_process_alone_has_them_in_plain() -> None:
    """The server is sent each of them, and what it lets go of is overwritten."""
    async with staged() as stages, stages.open() as stage:
        server, beta = stage.server, stage.client.beta
        vault = await beta.vaults.create(display_name="V")
        made = [await beta.vaults.credentials.create(vault.id, auth=auth) for auth in (AUTH, *OTHERS)]  # type: ignore[arg-type]
        auth = {"type": "environment_variable", "secret_value": ROTATED}
        await beta.vaults.credentials.update(made[0].id, vault_id=vault.id, auth=auth)  # type: ignore[arg-type]
        session = await stage.session(vault_ids=[vault.id])
        placeholder = (
            await said(stage, session.id, "echo $TOKEN; curl -sm 5 https://api.example.com")
        ).split()[0]

        private = (server.config.data_dir / "egress" / "private" / KEY_FILE).read_bytes().split()[1]
        secrets = {name: secret.encode() for name, secret in SECRETS.items()} | {
            "key": b64decode(private),
            "key as text": private,
            "seed": (server.config.data_dir / "egress" / "private" / "authority.seed").read_bytes(),
        }
        egress = server.pid("egress")
        assert server.process
        others = set().union(*(below(pid) for pid in (server.process.pid, server.pid("hands")))) - {egress}
        assert {server.pid("server"), server.pid("hands")} <= others
        try:
            assert "changed" in holds(egress, secrets), "the search finds what is there"
        except PermissionError:
            pytest.skip("this machine does not let its user read the memory of processes")
        control = {"placeholder": placeholder.encode()}
        assert holds(server.pid("hands"), control), "also in the others"
        looked = 0
        for pid in others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                assert not holds(pid, secrets), pid
                looked += 1
        assert looked >= 4


UNBOUNDED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def _dumps(tmp_path: Path) -> None:
    """A process that is none of ours leaves one beside it."""
    aborts = f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, {UNBOUNDED}); os.abort()"
    subprocess.run([sys.executable, "-c", aborts], cwd=tmp_path, capture_output=True, check=False)
    if not list(tmp_path.glob("core*")):
        pytest.skip("this machine writes no dumps beside its processes")


@pytest.mark.usefixtures("_dumps")
async def test_a_crash_leaves_nothing_of_their_memory_on_the_disk() -> None:
    """Although dumps are asked for."""
    async with staged() as stages, stages.open() as stage:
        for role in ("server", "hands", "egress"):
            pid = stage.server.pid(role)
            beside = Path(f"/proc/{pid}/cwd").readlink()
            before = set(beside.glob("core*"))
            resource.prlimit(pid, resource.RLIMIT_CORE, UNBOUNDED)
            os.kill(pid, signal.SIGABRT)
            async with asyncio.timeout(60):
                while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110  (nothing tells of it)
                    await asyncio.sleep(0.05)
            assert set(beside.glob("core*")) == before, role


async def audit(stage: Stage, session_id: str) -> list[dict[str, Any]]:
    """What is written down of it by now, which arrives within a second or two."""
    async with httpx2.AsyncClient(
        base_url=stage.server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS
    ) as http:
        answer = await http.get("/corral/v1/audit", params={"session_id": session_id, "limit": 1000})
    return list(answer.json()["data"])
