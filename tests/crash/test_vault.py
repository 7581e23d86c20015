"""Secrets of a whole server: planted, searched for wherever they must not be, kept through every death."""

import asyncio
import contextlib
import json
import logging
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import anthropic
import pytest

from corral.egress.process import KEY_FILE
from corral.store.archive import members
from corral.store.database import Database
from corral.store.vault_keys import VaultKeys
from corral.vault.ring import FileKeys, KeyRing
from tests.served import WAIT_SECONDS, Served, served

CANARY = "canary-5ecret"
ANYWHERE = {"type": "unrestricted"}


def key_file(data_dir: Path) -> Path:
    return data_dir / "egress" / "private" / KEY_FILE


def processes(server: Served) -> dict[int, Path]:
    """Supervisor and everything below it, by pid."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    assert server.process is not None
    found = {server.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: Path(f"/proc/{pid}") for pid in found}


def unpacked(archive: Path) -> bytes:
    """Everything in a backup, its columns of bytes as they are."""
    content = bytearray()
    for _, data in members(archive):
        content += data
        for line in data.splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                for value in json.loads(line).values():
                    with contextlib.suppress(ValueError, TypeError):
                        content += b64decode(value)
    return bytes(content)


async def corral(server: Served, *arguments: str | Path) -> str:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "corral.cli", *map(str, arguments), "--data-dir", server.config.data_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, output.decode()
    return output.decode()


async def plant(client: anthropic.AsyncAnthropic) -> dict[str, dict[str, str]]:
    """Secrets of every kind, some replaced, some refused; what is to be kept, by credential."""
    credentials = client.beta.vaults.credentials
    vault = await client.beta.vaults.create(display_name="V")
    refresh = {
        "client_id": "c",
        "refresh_token": f"{CANARY}-refresh",
        "token_endpoint": "https://auth.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_post", "client_secret": f"{CANARY}-client"},
    }
    auth: dict[str, Any] = {
        "type": "mcp_oauth",
        "mcp_server_url": "https://mcp.example.com",
        "access_token": f"{CANARY}-access",
        "refresh": refresh,
    }
    oauth = await credentials.create(vault.id, auth=auth, extra_headers={"idempotency-key": "planted"})
    with pytest.raises(anthropic.ConflictError):
        await credentials.create(vault.id, auth=auth)
    with pytest.raises(anthropic.BadRequestError):
        await credentials.create(vault.id, auth={**auth, "access_token": [CANARY]})
    kept = {
        oauth.id: {
            "access_token": f"{CANARY}-access",
            "refresh_token": f"{CANARY}-refresh",
            "client_secret": f"{CANARY}-client",
        }
    }
    for number in range(8):
        made = await credentials.create(
            vault.id,
            auth={
                "type": "environment_variable",
                "secret_name": f"V{number}",
                "secret_value": f"{CANARY}-first",
                "networking": ANYWHERE,
            },
        )
        await credentials.update(
            made.id,
            vault_id=vault.id,
            auth={"type": "environment_variable", "secret_value": f"{CANARY}-{number}"},
        )
        kept[made.id] = {"secret_value": f"{CANARY}-{number}"}
    return kept


async def opened(data_dir: Path) -> dict[str, dict[str, str]]:
    """Every secret, with the key file, as the egress process would open it. The server has ended."""
    database = await Database.open(data_dir / "corral.db")
    keys = VaultKeys(database)
    ring = KeyRing(FileKeys(key_file(data_dir)))
    found: dict[str, dict[str, str]] = {}
    key_ids = [use.key.key_id for use in await keys.all()]
    for secret in await keys.sealed_otherwise(key_ids, after=None, limit=999):
        content = ring.open(secret.sealed, key_id=secret.key_id, place=secret.place.encode())
        found.setdefault(secret.place.credential_id, {})[secret.place.name] = content.decode()
    await database.close()
    return found


async def test_planted_secrets_are_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the client's own log has what it sends
    archive = tmp_path / "backup.tar.zst"
    async with served(settings={"log_level": "debug"}) as server:
        data_dir = server.config.data_dir
        assert key_file(data_dir).stat().st_mode & 0o777 == 0o600
        assert key_file(data_dir).parent.stat().st_mode & 0o777 == 0o700
        private = key_file(data_dir).read_bytes().split()[1]
        kept = await plant(server.client)
        said = await corral(server, "vault", "status")
        assert "current" in said and "11" in said
        await corral(server, "backup", archive)

        looked = 0
        for pid, entry in processes(server).items():
            for name in ("environ", "cmdline"):
                try:
                    content = (entry / name).read_bytes()
                except OSError:
                    continue  # closed to its own user, or gone
                looked += 1
                assert CANARY.encode() not in content, (pid, name)
                assert private not in content, (pid, name)
        assert looked > 5
        found = {**dict(server.files()), archive: unpacked(archive)}
        assert b"mcp.example.com" in found[archive]
        assert b"mcp.example.com" in found[data_dir / "corral.db-wal"] + found[data_dir / "corral.db"]
        for path, content in found.items():
            assert CANARY.encode() not in content, path
            assert private not in content or path == key_file(data_dir), path
        assert " debug " in server.log
        metrics = await asyncio.to_thread(_metrics, server.url)
        assert CANARY not in metrics
        await server.stop()
        assert await opened(data_dir) == kept


def _metrics(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/metrics", timeout=WAIT_SECONDS) as answer:
        return str(answer.read().decode())


async def test_rotation_goes_on_after_a_kill() -> None:
    """Each process that takes part is killed as soon as a rotation was asked for."""
    async with served() as server:
        data_dir = server.config.data_dir
        kept = await plant(server.client)
        http = server.client.with_options(max_retries=5)

        async def keys() -> Any:
            return await http.get("/corral/v1/vault/keys", cast_to=object)

        seen = {key_file(data_dir).read_text().split()[0]}
        for role in ("server", "egress"):
            await http.post("/corral/v1/vault/rotate_key", cast_to=object)
            await server.kill(role)
            async with asyncio.timeout(WAIT_SECONDS):
                while (found := await keys())["is_rotating"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            [key] = found["keys"]
            assert key["secrets"] == 11
            assert key["id"] not in seen
            seen.add(key["id"])
        assert "forgotten" in await corral(server, "vault", "rotate-key")
        await server.stop()
        assert await opened(data_dir) == kept
