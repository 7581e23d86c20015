"""Credentials of MCP servers, from a sealed store to the official SDK's server over TLS, and the tokens
that are refreshed on the way: a real egress process with its server's duties, a token endpoint, sockets."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from corral.app import validation
from corral.app.tokens import TokenDuty
from corral.app.validation import QueuedValidation, Validation, ValidationDuty
from corral.catalog.credentials import new_credential, place_of, updated_credential, without_secrets
from corral.catalog.mcp.servers import McpServer
from corral.catalog.records import Wire
from corral.catalog.tokens import Where
from corral.catalog.vaults import SealedSecret, VaultKey, new_vault
from corral.egress import refresh, wishes
from corral.egress.policy import OperatorHosts
from corral.kernel.clock import SystemClock, rfc3339
from corral.kernel.errors import VaultUnavailable
from corral.kernel.ids import CREDENTIAL, VAULT, CredentialId, SessionId, VaultId
from corral.mcp.connector import McpConnector
from corral.mcp.way import Roads
from corral.session.content import ToolResult
from corral.store.database import Database
from corral.store.tokens import Tokens
from corral.testing.contract_vaults import HERE
from corral.testing.origin import Origin
from corral.testing.sessions import new_session
from corral.vault.ring import FileKeys, KeyRing
from tests.contract.test_mcp import call, server, words
from tests.gateway import Gateway, until
from tests.mcp_host import McpHost
from tests.oauth_host import OAuthHost
from tests.opened import Opened
from tests.sealed import sealed_secrets_of


class LocalServers(OperatorHosts):
    """They are at ports that nobody knows before they start."""

    def of_servers(self) -> OperatorHosts:
        return OperatorHosts(internal=("localhost",))


@pytest.fixture(scope="module")
def mcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpHost]:
    with McpHost.start("oauth", tmp_path_factory.mktemp("oauth")) as host:
        yield host


@pytest.fixture
def login(mcp: McpHost) -> Iterator[OAuthHost]:
    mcp.allow()
    (mcp.directory / "calls").unlink(missing_ok=True)
    with OAuthHost.start(mcp) as host:
        yield host


class WatchedTokens(Tokens):
    """outcomes: of the claims that were made."""

    def __init__(self, database: Database, outcomes: list[str]) -> None:
        super().__init__(database)
        self._outcomes = outcomes

    async def claim(self, *args: Any, **fields: Any) -> Any:
        outcome, found = await super().claim(*args, **fields)
        self._outcomes.append(outcome)
        return outcome, found


@dataclass
class Node:
    """An egress process, and its server's duty for tokens, over a store that others may share.
    claims: what came of those that it made."""

    gateway: Gateway
    opened: Opened
    connector: McpConnector
    duty: "asyncio.Task[None] | None" = None
    claims: list[str] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def start(
        cls, opened: Opened, mcp: McpHost, *, keys: Path | None = None
    ) -> "AsyncIterator[Node]":
        async with Gateway.start(
            names={"localhost": ["127.0.0.1"]},
            operator=LocalServers(),
            authorities=mcp.authority,
            store=opened.stores.session_credentials,
        ) as gateway:
            if keys is not None:
                gateway.key_file.write_bytes(keys.read_bytes())
                gateway.key_file.chmod(0o600)
            node = cls(gateway, opened, McpConnector(Roads(gateway.data_dir), list_seconds=30.0))
            node.link()
            try:
                yield node
            finally:
                await node.unlink()
                await node.connector.aclose()

    def link(self) -> None:
        store = WatchedTokens(self.opened.database, self.claims)
        duty = TokenDuty(self.gateway.data_dir, store, self.opened.stores.vault_keys, SystemClock())
        self.duty = asyncio.ensure_future(duty.run())

    async def unlink(self) -> None:
        assert self.duty
        self.duty.cancel()
        await asyncio.wait([self.duty])

    async def key(self) -> VaultKey:
        """The vault's, made at the first call."""
        key = await self.opened.stores.vault_keys.current()
        if key is None:
            made = (await self.gateway.ask("vault/newer", {"current": None}))["key"]
            key = VaultKey(key_id=made["id"], public_key=b64decode(made["public_key"]))
            await self.opened.stores.vault_keys.add_first(key, now=datetime.now(UTC))
        return key

    async def sealed(self, record: Wire, secrets: dict[str, str]) -> list[SealedSecret]:
        return sealed_secrets_of(record, key=await self.key(), **secrets)

    async def credential(self, auth: dict[str, Any], *, vault_id: VaultId | None = None) -> Wire:
        """expires_at: may have passed."""
        stores, now = self.opened.stores, datetime.now(UTC)
        if vault_id is None:
            vault_id = VaultId(stores.ids.mint(VAULT))
            vault = new_vault({"display_name": "v"}, vault_id=vault_id, now=now)
            await stores.vaults.create(vault, workspace_id=HERE)
        shown, secrets = without_secrets(auth)
        record = new_credential(
            {"auth": shown},
            vault_id=vault_id,
            credential_id=CredentialId(stores.ids.mint(CREDENTIAL)),
            now=now - timedelta(days=1),
        )
        sealed = await self.sealed(record, secrets)
        await stores.credentials.create(record, sealed, workspace_id=HERE)
        return record

    async def session(self, *credentials: Wire) -> SessionId:
        stores = self.opened.stores
        record = new_session(stores.ids, datetime.now(UTC))
        vault_ids = [each["vault_id"] for each in credentials]
        await stores.sessions.create(replace(record, vault_ids=vault_ids))
        return record.session_id

    async def stored(self, credential: Wire) -> tuple[Wire, dict[str, str]]:
        """The record as it is now, and its secrets."""
        stores, ring = self.opened.stores, KeyRing(FileKeys(self.gateway.key_file))
        [found] = [
            each
            for each in await stores.session_credentials.of_session(await self.session(credential))
            if each.record["id"] == credential["id"]
        ]
        return found.record, {
            each.name: ring.open(
                each.sealed,
                key_id=each.key_id,
                place=place_of(found.record, each.name, workspace_id=HERE).encode(),
            ).decode()
            for each in found.secrets
        }

    async def echo(self, session_id: SessionId, to: McpServer, text: str = "x") -> ToolResult:
        return await self.connector.run(call(to, "echo", session_id=session_id, text=text))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    opened = await Opened.open(tmp_path / "corral.db")
    yield opened
    await opened.database.close()


@pytest.fixture
async def node(opened: Opened, mcp: McpHost, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", 30.0)  # on a busy machine
    async with Node.start(opened, mcp) as node:
        yield node


def ago(**past: float) -> datetime:
    return datetime.now(UTC) - timedelta(**past)


async def test_a_bearer_goes_to_its_server_alone(node: Node, mcp: McpHost, login: OAuthHost) -> None:
    mcp.allow("canary-token")
    bearer = {"type": "static_bearer", "mcp_server_url": f"{mcp.url}/", "token": "canary-token"}
    with_one, without = await node.session(await node.credential(bearer)), await node.session()
    result = await node.echo(with_one, server(mcp))
    assert (words(result), result.trouble) == ("x", None)
    refused = await node.echo(without, server(mcp))
    assert refused.trouble and refused.trouble["type"] == "mcp_authentication_failed_error"
    assert "asks for a credential (HTTP 401)" in words(refused)
    mcp.allow("another")
    result = await node.echo(with_one, server(mcp))
    assert result.trouble and result.trouble["type"] == "mcp_authentication_failed_error"
    entries = await node.gateway.entries()
    by_session = {session_id: set() for session_id in (with_one, without)}
    for entry in entries:
        by_session[entry["session_id"]].add(entry["credential_id"])
    assert by_session[without] == {None} and None not in by_session[with_one]
    assert "canary" not in json.dumps(entries) + repr(result)


async def test_a_token_stays_with_its_server(node: Node) -> None:
    """Wherever a server sends a client: another port is another server, and so is another scheme."""
    with Origin.start() as ours, Origin.start() as other:
        url = f"http://localhost:{ours.port}/mcp"
        bearer = {"type": "static_bearer", "mcp_server_url": url, "token": "canary-token"}
        session_id = await node.session(await node.credential(bearer))
        way = Roads(node.gateway.data_dir).way(session_id, McpServer(name="notes", url=url))
        async with way.client() as client:
            mine = {"Authorization": "Bearer of a server's choice", "Corral-Trouble": "refused"}
            for where in (f"{url}/other", f"http://localhost:{other.port}/mcp"):
                await client.get(where, headers=mine)
    [(_, path, headers)] = ours.requests
    assert (path, dict(headers)["Authorization"]) == ("/mcp/other", "Bearer canary-token")
    [(_, _, headers)] = other.requests
    assert not {name.lower() for name, _ in headers} & {
        "authorization", "proxy-authorization", "corral-grant", "corral-trouble",
    }  # fmt: skip
    ids = [entry["credential_id"] for entry in await node.gateway.entries()]
    assert ids[0] is not None and ids[1] is None


async def test_what_a_server_says_back_is_masked(node: Node) -> None:
    with Origin.start() as origin:
        url = f"http://localhost:{origin.port}/mcp"
        bearer = {"type": "static_bearer", "mcp_server_url": url, "token": "canary-token"}
        session_id = await node.session(await node.credential(bearer))
        way = Roads(node.gateway.data_dir).way(session_id, McpServer(name="notes", url=url))
        async with way.client() as client:
            said = await client.get(url.replace("/mcp", "/headers"))
            assert dict(said.json())["Authorization"] == "Bearer ********"
            echoed = await client.post(
                url.replace("/mcp", "/echo"), content=b"x" * 300_000 + b"canary-token"
            )
            assert echoed.content == b"x" * 300_000 + b"********"
            assert (await client.get(url.replace("/mcp", "/status/204"))).status_code == 204
            assert (await client.head(url.replace("/mcp", "/bytes/7"))).status_code == 200


@pytest.mark.parametrize("kind", ["none", "client_secret_basic", "client_secret_post"])
async def test_an_expired_token_is_refreshed_once(
    node: Node, mcp: McpHost, login: OAuthHost, kind: Any
) -> None:
    """A hundred calls at once, of ten sessions: one refresh, and nobody is refused."""
    login.kind = kind
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    sessions = [await node.session(made) for _ in range(10)]
    results = await asyncio.gather(
        *(node.echo(sessions[n % 10], server(mcp), text=f"call {n}") for n in range(100))
    )
    assert [words(result) for result in results] == [f"call {n}" for n in range(100)]
    assert len(login.requests) == 1 and login.requests[0]["grant_type"] == "refresh_token"
    record, secrets = await node.stored(made)
    assert (secrets["access_token"], secrets["refresh_token"]) == ("canary-access-1", "canary-refresh-1")
    assert record["auth"]["expires_at"] > rfc3339(datetime.now(UTC) + timedelta(minutes=50))
    assert record["updated_at"] > made["updated_at"]
    assert "canary" not in json.dumps(record)


async def test_it_is_refreshed_before_it_expires_and_after_a_refusal(
    node: Node, mcp: McpHost, login: OAuthHost
) -> None:
    soon = await node.credential(login.auth(expires_at=ago(minutes=-4)))
    session_id = await node.session(soon)
    assert words(await node.echo(session_id, server(mcp))) == "x"
    assert len(login.requests) == 1
    mcp.allow("canary-access-1")
    assert words(await node.echo(session_id, server(mcp))) == "x"
    assert len(login.requests) == 1, "it has an hour"
    unsaid = await node.credential(login.auth())  # nobody knows when it expires: the server says so
    session_id = await node.session(unsaid)
    assert words(await node.echo(session_id, server(mcp))) == "x"
    assert len(login.requests) == 2
    mcp.allow("something else")
    refused = await node.echo(session_id, server(mcp))
    assert refused.trouble and "does not take credential" in words(refused)
    assert len(login.requests) == 2, "a new token that is refused is not asked for again at once"


async def test_two_nodes_refresh_once(node: Node, opened: Opened, mcp: McpHost, login: OAuthHost) -> None:
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    async with Node.start(opened, mcp, keys=node.gateway.key_file) as other:
        sessions = [await node.session(made) for _ in range(2)]
        login.go.clear()
        calls = [
            asyncio.create_task(each.echo(session_id, server(mcp)))
            for each, session_id in zip((node, other), sessions, strict=True)
        ]
        await until(lambda: _is("busy" in other.claims + node.claims and bool(login.waiting)))
        login.go.set()
        assert [words(result) for result in await asyncio.gather(*calls)] == ["x", "x"]
        assert len(login.requests) == 1
        assert sorted({*node.claims, *other.claims}) == ["busy", "changed", "claimed"]


async def test_a_refresh_that_fails(
    node: Node, mcp: McpHost, login: OAuthHost, caplog: pytest.LogCaptureFixture
) -> None:
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    session_id = await node.session(made)
    login.refresh_token = "another one"
    refused = await node.echo(session_id, server(mcp))
    assert refused.trouble and refused.trouble["type"] == "mcp_authentication_failed_error"
    assert "the token endpoint answered with HTTP 400 (invalid_grant)" in words(refused)
    assert "canary" not in words(refused) + caplog.text
    await node.echo(session_id, server(mcp))
    assert len(login.requests) == 1, "it is not asked again so soon"
    assert mcp.calls == []


async def test_a_token_endpoint_that_cannot_be_asked(node: Node, mcp: McpHost, login: OAuthHost) -> None:
    auth = login.auth(expires_at=ago(minutes=1))
    auth["refresh"] = {**auth["refresh"], "token_endpoint": "https://localhost:1/token"}
    refused = await node.echo(await node.session(await node.credential(auth)), server(mcp))
    assert refused.trouble and refused.trouble["type"] == "mcp_authentication_failed_error"
    assert "the token endpoint cannot be asked: it takes no connections" in words(refused)
    assert mcp.calls == [], "nothing goes without the token that there is to be"


async def test_a_token_that_still_holds_is_used_while_refreshing_fails(
    node: Node, mcp: McpHost, login: OAuthHost
) -> None:
    login.answer = (503, "down")
    mcp.allow("canary-access-0")
    session_id = await node.session(await node.credential(login.auth(expires_at=ago(minutes=-2))))
    assert words(await node.echo(session_id, server(mcp))) == "x"
    assert len(login.requests) == 1


async def test_a_rotation_reaches_a_running_session(
    node: Node, mcp: McpHost, login: OAuthHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
    stores = node.opened.stores
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    session_id = await node.session(made)
    login.refresh_token = "canary-refresh-of-the-user"
    assert (await node.echo(session_id, server(mcp))).trouble
    shown, secrets = without_secrets(
        {"type": "mcp_oauth", "refresh": {"refresh_token": "canary-refresh-of-the-user"}}
    )
    await stores.credentials.update(
        made["vault_id"],
        made["id"],
        lambda current: updated_credential(current, {"auth": shown}, secrets, now=datetime.now(UTC)),
        await node.sealed(made, secrets),
        workspace_id=HERE,
    )
    assert words(await node.echo(session_id, server(mcp))) == "x"
    await stores.credentials.archive(made["vault_id"], made["id"], workspace_id=HERE, now=datetime.now(UTC))
    refused = await node.echo(session_id, server(mcp))
    assert refused.trouble and "asks for a credential" in words(refused)


@pytest.mark.parametrize("rotates", [True, False])
async def test_a_token_that_is_set_during_a_refresh_stays(
    node: Node, mcp: McpHost, login: OAuthHost, monkeypatch: pytest.MonkeyPatch, rotates: bool
) -> None:
    """The refresh token beside it was used up meanwhile, so a new one of those is kept."""
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
    login.rotates = rotates
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    session_id = await node.session(made)
    login.go.clear()
    calling = asyncio.create_task(node.echo(session_id, server(mcp)))
    await until(lambda: _is(bool(login.waiting)))
    until_then = rfc3339(ago(minutes=-90))
    given = {"access_token": "canary-of-the-user", "expires_at": ago(minutes=-90)}
    shown, secrets = without_secrets({"type": "mcp_oauth", **given})
    await node.opened.stores.credentials.update(
        made["vault_id"],
        made["id"],
        lambda current: updated_credential(current, {"auth": shown}, secrets, now=ago(hours=1)),
        await node.sealed(made, secrets),
        workspace_id=HERE,
    )
    login.go.set()
    await calling
    mcp.allow("canary-of-the-user")
    assert words(await node.echo(session_id, server(mcp))) == "x"
    record, secrets = await node.stored(made)
    assert secrets["access_token"] == "canary-of-the-user"
    assert secrets["refresh_token"] == ("canary-refresh-1" if rotates else "canary-refresh-0")
    assert record["auth"]["expires_at"][:16] == until_then[:16] and len(login.requests) == 1


async def test_a_name_that_is_changed_during_a_refresh_costs_no_token(
    node: Node, mcp: McpHost, login: OAuthHost
) -> None:
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    session_id = await node.session(made)
    login.go.clear()
    calling = asyncio.create_task(node.echo(session_id, server(mcp)))
    await until(lambda: _is(bool(login.waiting)))
    await node.opened.stores.credentials.update(
        made["vault_id"],
        made["id"],
        lambda current: updated_credential(current, {"display_name": "new"}, [], now=datetime.now(UTC)),
        [],
        workspace_id=HERE,
    )
    login.go.set()
    assert words(await calling) == "x"
    record, secrets = await node.stored(made)
    assert record["display_name"] == "new"
    assert (secrets["access_token"], secrets["refresh_token"]) == ("canary-access-1", "canary-refresh-1")


async def test_new_tokens_outlive_the_process_and_a_server_that_is_away(
    node: Node, mcp: McpHost, login: OAuthHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the token endpoint and the store: what was given is on the disk, sealed."""
    monkeypatch.setattr(refresh, "TOKEN_LINK_SECONDS", 0.2)
    made = await node.credential(login.auth(expires_at=ago(minutes=1)))
    session_id = await node.session(made)
    login.go.clear()
    calling = asyncio.create_task(node.echo(session_id, server(mcp)))
    await until(lambda: _is(bool(login.waiting)))
    await node.unlink()  # the server is away
    login.go.set()
    assert words(await calling) == "x", "it is used, and kept later"
    kept = [path for path in node.gateway.tokens.iterdir() if path.suffix == ".json"]
    assert len(kept) == 1 and b"canary" not in kept[0].read_bytes()
    await node.gateway.end()
    await node.gateway.serve()
    node.link()
    await until(lambda: _is(not any(node.gateway.tokens.iterdir())))
    _, secrets = await node.stored(made)
    assert (secrets["access_token"], secrets["refresh_token"]) == ("canary-access-1", "canary-refresh-1")
    assert words(await node.echo(session_id, server(mcp))) == "x"
    assert len(login.requests) == 1


async def test_a_node_that_opens_no_secrets_asks_another_one(
    node: Node, mcp: McpHost, login: OAuthHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = node.opened.stores
    made = await node.credential(login.auth())
    where = Where(workspace_id=HERE, vault_id=made["vault_id"], credential_id=made["id"])
    here = Validation(node.gateway.data_dir, stores.tokens)
    duty = asyncio.ensure_future(ValidationDuty(stores.validations, here).run())
    try:
        answer = await QueuedValidation(stores.validations).validate(where)
    finally:
        duty.cancel()
        await asyncio.wait([duty])
    assert (answer["status"], answer["refresh"]) == (
        "valid", {"status": "succeeded", "http_response": None},
    )  # fmt: skip
    _, secrets = await node.stored(made)
    assert secrets["access_token"] == "canary-access-1", "the new token is kept"
    monkeypatch.setattr(validation, "VALIDATION_SECONDS", 0.1)
    with pytest.raises(VaultUnavailable, match="No node with the role egress"):
        await QueuedValidation(stores.validations).validate(where)
    assert await stores.validations.take(seconds=60) is None, "nobody waits for it any more"


async def _is(so: bool) -> bool:
    return so
