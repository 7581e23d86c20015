"""A refresh token that was used is worth nothing any more: the new one is kept, whatever comes between."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from corral.egress import refresh
from corral.egress.credentials import Credential
from corral.egress.keeping import Seals, TokenDesk
from corral.egress.outside import Outside
from corral.egress.refresh import Exchange, Refresher
from corral.kernel.clock import SystemClock
from corral.kernel.ids import DEFAULT_WORKSPACE
from corral.vault.ring import FileKeys, KeyRing

SECONDS = 30.0
NEW = {"access_token": "new", "refresh_token": "twice", "expires_in": 3600}


def expired() -> Credential:
    grant = {"client_id": "c", "token_endpoint": "https://t.test/", "scope": None, "resource": None}
    auth = {
        "type": "mcp_oauth",
        "mcp_server_url": "https://m.test/",
        "expires_at": "2026-01-01T00:00:00Z",
        "refresh": {**grant, "token_endpoint_auth": {"type": "none"}},
    }
    ids = {"id": "vcrd_1", "vault_id": "vlt_1", "updated_at": "2026-01-01T00:00:00.000000Z"}
    return Credential(
        workspace_id=DEFAULT_WORKSPACE,
        record={**ids, "auth": auth},
        secrets={"access_token": "old", "refresh_token": "once"},
    )


class Bench:
    """A refresher on a real ring and desk, whose server grants every claim.

    kept: by which keys the new tokens were sealed that it was asked to keep, and that were on the disk."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ring = KeyRing(FileKeys(folder / "keys"))
        self.key_id, _ = self.ring.newer_than(None, now=datetime.now(UTC))
        self.folder = folder / "tokens"
        seals = Seals(self.ring, asyncio.Lock())
        self.desk = TokenDesk(self.folder, seals, ended=asyncio.Event())
        self.refresher = Refresher(cast(Outside, None), self.desk, seals, SystemClock())
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr(refresh, "exchanged", self._exchanged)
        monkeypatch.setattr(refresh, "TOKEN_LINK_SECONDS", SECONDS)
        self.kept: list[str] = []

    async def _exchanged(self, outside: object, credential: Credential) -> Exchange:
        self.is_asked.set()
        await self.may_answer.wait()
        self.meanwhile()
        return Exchange(status=200, content_type="", body=json.dumps(NEW).encode())

    async def serve(self) -> None:
        while True:
            asked = json.loads(json.dumps((await self.desk.answer("wanted", b"{}"))[1]))
            told = [self._told(each) for each in asked["asks"]]
            await self.desk.answer("told", json.dumps({"answers": told}).encode())

    def _told(self, ask: dict[str, Any]) -> dict[str, Any]:
        answer = {"ask_id": ask["ask_id"], "credential": None, "key_id": None}
        if ask["what"] == "claim":
            return {**answer, "outcome": "claimed", "key_id": self.key_id}
        [path] = self.folder.iterdir()
        assert json.loads(path.read_text())["secrets"] == ask["secrets"]
        self.kept += [secret["key_id"] for secret in ask["secrets"]]
        return {**answer, "outcome": "kept"}


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def test_an_orderly_end_waits_for_an_exchange_that_has_begun(bench: Bench) -> None:
    server = asyncio.ensure_future(bench.serve())
    waits = asyncio.ensure_future(bench.refresher.current(expired()))
    await asyncio.wait_for(bench.is_asked.wait(), SECONDS)
    ends = asyncio.ensure_future(bench.refresher.aclose())
    bench.may_answer.set()
    await asyncio.wait_for(ends, SECONDS)
    assert bench.kept == [bench.key_id] * 2
    for task in (server, waits):
        task.cancel()
    await asyncio.gather(server, waits, return_exceptions=True)


async def test_a_key_that_is_forgotten_meanwhile_is_not_needed(bench: Bench) -> None:
    """The keys were rotated after the claim."""
    claimed_with = bench.key_id

    def rotate() -> None:
        bench.key_id, _ = bench.ring.newer_than(claimed_with, now=datetime.now(UTC))
        bench.ring.forget([claimed_with])

    bench.meanwhile = rotate
    bench.may_answer.set()
    server = asyncio.ensure_future(bench.serve())
    newest = await asyncio.wait_for(bench.refresher.current(expired()), SECONDS)
    assert newest.secret("access_token") == "new"
    assert bench.kept == [bench.key_id] * 2 and bench.key_id != claimed_with
    await bench.refresher.aclose()
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
