"""The vault's keys between a real egress process's desk, on its socket, and a real store."""

import asyncio
import json
import shutil
import tempfile
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.app.vault import VaultDuty
from corral.catalog.vaults import VaultKey
from corral.egress.process import KEY_FILE, serve_egress
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import CredentialId
from corral.kernel.limits import VAULT_RESEAL_BATCH
from corral.supervisor.adopt import ask_json
from corral.testing.contract_vaults import HERE, variable, vault
from corral.vault.ring import FileKeys, KeyRing
from tests.opened import Opened
from tests.sealed import sealed_secrets_of

SECONDS = 60.0


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
async def data_dir() -> AsyncIterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="corral-"))  # not under pytest's: a socket's path is short
    ready = asyncio.Event()
    egress = asyncio.ensure_future(serve_egress(data_dir=path, on_ready=ready.set))
    await asyncio.wait_for(ready.wait(), SECONDS)
    yield path
    egress.cancel()
    await asyncio.wait([egress])
    shutil.rmtree(path)


@pytest.fixture
async def opened(data_dir: Path) -> AsyncIterator[Opened]:
    opened = await Opened.open(data_dir / "corral.db")
    yield opened
    await opened.database.close()


def key_file(data_dir: Path) -> Path:
    return data_dir / "egress" / "private" / KEY_FILE


async def sealed_secrets(opened: Opened, count: int) -> None:
    """So many, two to a credential, under the current key."""
    key = await opened.stores.vault_keys.current()
    assert key is not None
    vault_id = ""
    for number in range(count // 2):
        if number % 20 == 0:
            vault_id = await vault(opened.stores)
        credential = variable(opened.stores, vault_id, f"V{number}")
        secret = f"canary of {credential['id']}"
        await opened.stores.credentials.create(credential, [], workspace_id=HERE)
        await opened.stores.credentials.update(
            vault_id,
            CredentialId(credential["id"]),
            lambda current: {**current, "display_name": "sealed"},
            sealed_secrets_of(credential, key=key, secret_value=secret, token=secret),
            workspace_id=HERE,
        )


async def opens(opened: Opened, data_dir: Path, key_id: str) -> int:
    """How many secrets are sealed with the key, and open to what they were."""
    ring = KeyRing(FileKeys(key_file(data_dir)))
    found = await opened.stores.vault_keys.sealed_otherwise([key_id], after=None, limit=9999)
    for secret in found:
        content = ring.open(secret.sealed, key_id=key_id, place=secret.place.encode())
        assert content == f"canary of {secret.place.credential_id}".encode()
    return len(found)


class Cut:
    """A port of a process that is killed before or after its nth call."""

    def __init__(self, keys: Any, calls: int, *, after: bool) -> None:
        self._keys, self._left, self._after = keys, calls, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._keys, name)

        async def call(*args: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = await method(*args, **named)
            if self._left == 0:
                raise Killed
            return result

        return call


async def test_the_first_key_is_made_once(opened: Opened, data_dir: Path) -> None:
    keys = opened.stores.vault_keys
    duties = [VaultDuty(data_dir, keys, opened.stores.clock) for _ in range(3)]
    checks = await asyncio.gather(*(duty.look() for duty in duties))
    assert {check.status for check in checks} == {"ok"}
    [use] = await keys.all()
    assert use.is_current
    assert key_file(data_dir).read_text().startswith(f"{use.key.key_id} ")
    assert key_file(data_dir).stat().st_mode & 0o777 == 0o600


async def test_a_key_of_another_node_is_missed(opened: Opened, data_dir: Path) -> None:
    """No second key is made: what the others seal would not open here, and the other way round."""
    keys = opened.stores.vault_keys
    await keys.add_first(VaultKey(key_id="vkey_far", public_key=b"\1" * 32), now=opened.stores.clock.now())
    duty = VaultDuty(data_dir, keys, opened.stores.clock)
    check = await duty.look()
    assert (check.status, "vkey_far" in str(check.reason)) == ("warning", True)
    await keys.ask_rotation(now=opened.stores.clock.now())
    await duty.work()
    assert [use.key.key_id for use in await keys.all()] == ["vkey_far"]
    assert not key_file(data_dir).exists()


async def test_rotation_survives_a_kill_at_every_step(opened: Opened, data_dir: Path) -> None:
    keys, clock = opened.stores.vault_keys, opened.stores.clock
    await VaultDuty(data_dir, keys, clock).look()
    count = 2 * VAULT_RESEAL_BATCH + 2
    await sealed_secrets(opened, count)
    kills = 0
    for after in (False, True):
        is_cut, step = True, 0
        while is_cut:  # a rotation for each step; the last one is not cut
            step += 1
            [before] = await keys.all()
            await keys.ask_rotation(now=clock.now())
            is_cut = False
            try:
                await VaultDuty(data_dir, Cut(keys, step, after=after), clock).work()  # type: ignore[arg-type]
            except Killed:
                is_cut, kills = True, kills + 1
            current = (await keys.all())[0].key.key_id
            held = key_file(data_dir).read_text()
            assert sum([await opens(opened, data_dir, use.key.key_id) for use in await keys.all()]) == count
            await VaultDuty(data_dir, keys, clock).work()
            [use] = await keys.all()
            assert use.key.key_id != before.key.key_id
            assert use.key.key_id in held or not is_cut or current == before.key.key_id
            assert await opens(opened, data_dir, use.key.key_id) == count == use.secrets
    assert kills > 12
    assert key_file(data_dir).read_text().count("\n") <= 3  # a kill between the two leaves an unused line


async def test_the_desk_gives_no_secret_away(opened: Opened, data_dir: Path) -> None:
    """Whoever asks it cannot have a secret sealed for a key of his own, nor for another place."""
    keys = opened.stores.vault_keys
    duty = VaultDuty(data_dir, keys, opened.stores.clock)
    await duty.look()
    await sealed_secrets(opened, 2)
    [use] = await keys.all()
    [secret, _] = await keys.sealed_otherwise([use.key.key_id], after=None, limit=2)

    def reseal(**changes: str) -> Any:
        one = {
            "key_id": secret.key_id,
            "place": b64encode(secret.place.encode()).decode(),
            "sealed": b64encode(secret.sealed).decode(),
        }
        body = {"to": changes.pop("to", use.key.key_id), "secrets": [{**one, **changes}]}
        return ask_json(data_dir, "egress", "vault/reseal", json.dumps(body).encode(), seconds=SECONDS)

    status, answer = await asyncio.to_thread(reseal)
    assert status == 200
    assert b64decode(answer["sealed"][0]) != secret.sealed
    for changes in ({"to": "vkey_mine"}, {"place": "bWluZQ=="}, {"key_id": "vkey_mine"}):
        assert await asyncio.to_thread(lambda: reseal(**changes)) == (200, {"sealed": [None]})  # noqa: B023
    status, answer = await asyncio.to_thread(lambda: reseal(sealed="a"))
    assert status == 400
    for what in ("open", "", "../health"):
        status, _ = await asyncio.to_thread(
            ask_json, data_dir, "egress", f"vault/{what}", b"{}", seconds=SECONDS
        )
        assert status == 404


async def test_a_key_file_that_is_broken_is_told(opened: Opened, data_dir: Path) -> None:
    key_file(data_dir).write_text("canary")
    key_file(data_dir).chmod(0o600)
    duty = VaultDuty(data_dir, opened.stores.vault_keys, opened.stores.clock)
    check = await duty.look()
    assert (check.status, "line 1" in str(check.reason)) == ("failed", True)
    assert "canary" not in str(check.reason)
    with pytest.raises(VaultUnavailable):
        await opened.stores.vault_keys.ask_rotation(now=opened.stores.clock.now())
