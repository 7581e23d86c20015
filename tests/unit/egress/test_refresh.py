"""A refresh token that was used is worth nothing any more: the new one is kept, whatever comes between."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from corral.catalog.networking import NetworkPolicy
from corral.egress.audit import AuditDesk
from corral.egress.credentials import Credential
from corral.egress.keeping import Seals, TokenDesk
from corral.egress.names import Names
from corral.egress.outside import Outside
from corral.egress.policy import Gate, OperatorHosts
from corral.egress.refresh import NotRefreshed, Refresher
from corral.egress.spool import Spool
from corral.kernel.clock import SystemClock
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId
from corral.testing.web_server import WebServer
from corral.vault.ring import FileKeys, KeyRing

SECONDS = 30.0
SESSION = SessionId("sesn_1")
NEW = {"access_token": "new", "refresh_token": "twice", "expires_in": 3600}


def expired(endpoint: str) -> Credential:
    grant = {"client_id": "c", "token_endpoint": endpoint, "scope": None, "resource": None}
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


class Endpoint(WebServer):
    """A token endpoint that answers when it may, and only what comes after `meanwhile`."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        self.meanwhile: Callable[[], object] = lambda: None


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.is_asked.set()
        self.server.may_answer.wait(SECONDS)
        self.server.meanwhile()
        body = json.dumps(NEW).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Bench:
    """A refresher on a real ring and desk, whose server grants every claim.

    kept: by which keys the new tokens were sealed that it was asked to keep, and that were on the disk."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.ring = KeyRing(FileKeys(folder / "keys"))
        self.key_id, _ = self.ring.newer_than(None, now=datetime.now(UTC))
        self.folder, self.endpoint = folder / "tokens", endpoint
        seals = Seals(self.ring, asyncio.Lock())
        self.desk = TokenDesk(self.folder, seals, ended=asyncio.Event())
        gate = Gate(policy=NetworkPolicy(hosts=None), operator=OperatorHosts(internal=("127.0.0.1",)))
        self.outside = Outside(gate, resolve=Names(at_once_max=1).resolve)
        self.book = Spool(folder / "audit", clock=SystemClock())
        self.refresher = Refresher(self.outside, self.desk, seals, SystemClock(), book=self.book)
        self.kept: list[str] = []

    def expired(self) -> Credential:
        return expired(f"http://127.0.0.1:{self.endpoint.port}/token")

    async def entries(self) -> list[dict[str, Any]]:
        """What the audit has: beginnings and ends."""
        _, page = await AuditDesk(self.book).answer("read", b"{}")
        return [each for line in json.loads(json.dumps(page))["lines"] for each in line.values()]

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
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    endpoint = Endpoint()
    with endpoint.running():
        bench = Bench(tmp_path, endpoint)
        serving = asyncio.ensure_future(bench.serve())
        yield bench
        endpoint.may_answer.set()
        serving.cancel()
        await asyncio.wait([serving])
        await bench.outside.aclose()
        bench.book.close()


async def test_an_orderly_end_waits_for_an_exchange_that_has_begun(bench: Bench) -> None:
    waits = asyncio.ensure_future(bench.refresher.current(bench.expired(), SESSION))
    assert await asyncio.to_thread(bench.endpoint.is_asked.wait, SECONDS)
    ends = asyncio.ensure_future(bench.refresher.aclose())
    await asyncio.sleep(0)  # it has begun to end
    bench.endpoint.may_answer.set()
    await asyncio.wait_for(ends, SECONDS)
    assert bench.kept == [bench.key_id] * 2
    await asyncio.gather(waits, return_exceptions=True)


async def test_a_key_that_is_forgotten_meanwhile_is_not_needed(bench: Bench) -> None:
    """The keys were rotated after the claim."""
    claimed_with = bench.key_id

    def rotate() -> None:
        bench.key_id, _ = bench.ring.newer_than(claimed_with, now=datetime.now(UTC))
        bench.ring.forget([claimed_with])

    bench.endpoint.meanwhile = rotate
    bench.endpoint.may_answer.set()
    newest = await asyncio.wait_for(bench.refresher.current(bench.expired(), SESSION), SECONDS)
    assert newest.secret("access_token") == "new"
    assert bench.kept == [bench.key_id] * 2 and bench.key_id != claimed_with
    await bench.refresher.aclose()


async def test_what_is_asked_of_a_token_endpoint_is_in_the_audit(bench: Bench) -> None:
    bench.endpoint.may_answer.set()
    credential = bench.expired()
    await asyncio.wait_for(bench.refresher.current(credential, SESSION), SECONDS)
    begun, ended = await bench.entries()
    assert (begun["session_id"], begun["host"], begun["port"]) == (
        SESSION,
        "127.0.0.1",
        bench.endpoint.port,
    )
    assert (begun["method"], begun["decision"]) == ("POST", "allowed")
    assert begun["credential_id"] == credential.credential_id
    assert ended["received_bytes"] == len(json.dumps(NEW)) and not ended["failed"]
    await bench.refresher.aclose()


async def test_a_token_endpoint_inside_is_refused_and_in_the_audit(bench: Bench) -> None:
    inside = expired("https://10.1.2.3/token")
    with pytest.raises(NotRefreshed, match="not public"):
        await asyncio.wait_for(bench.refresher.current(inside, SESSION), SECONDS)
    [denied] = await bench.entries()
    assert (denied["host"], denied["decision"], denied["session_id"]) == ("10.1.2.3", "denied", SESSION)
    await bench.refresher.aclose()
