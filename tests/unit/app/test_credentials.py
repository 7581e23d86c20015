"""Sealed credentials from a real store to a real egress process's desk, opened there, and never too old."""

import asyncio
import json
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from corral.app.credentials import CredentialDuty
from corral.catalog.credentials import updated_credential
from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.vaults import VaultKey, new_vault
from corral.daemon import listening, made_token, socket_path
from corral.egress import wishes
from corral.egress.credentials import CredentialsUnavailable, CredentialUnusable
from corral.egress.process import _Egress
from corral.egress.substitution import Substitution, additions_of
from corral.egress.target import Target
from corral.egress.wishes import CredentialDesk
from corral.kernel.ids import RESOURCE, VAULT, CredentialId, ResourceId, SessionId, VaultId
from corral.kernel.limits import (
    CREDENTIALS_PART_BYTES,
    EGRESS_REQUEST_BYTES_MAX,
    METADATA_KEY_CHARS_MAX,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_CHARS_MAX,
    SECRET_CHARS_MAX,
)
from corral.testing.contract_vaults import HERE, bearer, variable
from corral.testing.sessions import new_session
from corral.vault.ring import FileKeys, KeyRing
from corral.vault.seal import seal
from tests.opened import Opened
from tests.sealed import sealed_secrets_of

SECONDS = 30.0


class Link:
    """A desk, a store and the duty between them, which asks at the egress process's own socket. What is
    asked there can be held up, or its connection broken, before the desk answers. asked: what it was."""

    def __init__(self, opened: Opened, desk: CredentialDesk, data_dir: Path) -> None:
        self.opened, self.desk = opened, desk
        self.duty = CredentialDuty(data_dir, opened.stores.session_credentials)
        self.asked: list[str] = []
        self.is_cut = False
        self.hung_up_on: SessionId | None = None
        self.may_give, self.has_read = asyncio.Event(), asyncio.Event()
        self.may_give.set()

    async def answer(self, what: str, body: bytes) -> tuple[str, dict[str, object]]:
        """As a desk of the egress process; an OSError is a connection that breaks."""
        self.asked.append(what)
        if self.is_cut or (self.hung_up_on is not None and self.hung_up_on.encode() in body):
            raise ConnectionResetError
        if what == "give":
            self.has_read.set()
            await self.may_give.wait()
        return await self.desk.answer(what, body)


@pytest.fixture
async def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Link]:
    monkeypatch.setattr(
        wishes, "CREDENTIALS_WAIT_SECONDS", SECONDS
    )  # nothing here depends on how fast it is
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 600.0)
    with tempfile.TemporaryDirectory(prefix="corral-") as short:  # a socket's path is
        data_dir, ended = Path(short), asyncio.Event()
        opened = await Opened.open(tmp_path / "corral.db")
        ring = KeyRing(FileKeys(tmp_path / "keys"))
        link = Link(opened, CredentialDesk(ring, asyncio.Lock(), ended=ended), data_dir)
        token = made_token(data_dir, "egress")
        egress = _Egress(token=token, desks={"credentials": link}, counts=dict, ended=ended)
        key_id, public_key = ring.newer_than(None, now=opened.stores.clock.now())
        key = VaultKey(key_id=key_id, public_key=public_key)
        await opened.stores.vault_keys.add_first(key, now=opened.stores.clock.now())
        with listening(socket_path(data_dir, "egress")) as listener:
            server = await asyncio.start_unix_server(egress.answer, sock=listener)
            running = asyncio.ensure_future(link.duty.run())
            yield link
            running.cancel()
            await asyncio.wait([running])
            ended.set()
            server.close()
            await egress.last_answer()
        await opened.database.close()


async def made(link: Link, record: Wire, **secrets: str) -> Wire:
    key = await link.opened.stores.vault_keys.current()
    assert key is not None
    sealed = sealed_secrets_of(record, key=key, **secrets)
    await link.opened.stores.credentials.create(record, sealed, workspace_id=HERE)
    return record


async def session_with(link: Link, *vault_ids: VaultId) -> SessionId:
    stores = link.opened.stores
    record = replace(new_session(stores.ids, stores.clock.now()), vault_ids=vault_ids)
    await stores.sessions.create(record)
    return record.session_id


async def a_vault(link: Link) -> VaultId:
    stores = link.opened.stores
    made = new_vault(
        {"display_name": "v"}, vault_id=VaultId(stores.ids.mint(VAULT)), now=stores.clock.now()
    )
    await stores.vaults.create(made, workspace_id=HERE)
    return VaultId(made["id"])


async def test_what_a_session_has_is_opened(link: Link) -> None:
    stores = link.opened.stores
    first, second = await a_vault(link), await a_vault(link)
    ours = await made(link, variable(stores, first, "TOKEN"), secret_value="canary of the first")
    await made(link, variable(stores, second, "TOKEN"), secret_value="canary of the second")
    server = await made(link, bearer(stores, second, "https://MCP.test:443/a/"), token="canary of a server")
    session_id = await session_with(link, first, second)
    found = await asyncio.wait_for(link.desk.of(session_id), SECONDS)
    assert [each.credential_id for each in found.credentials] == [ours["id"], server["id"]]
    [one] = found.variables()
    assert (one.kind, one.secret("secret_value")) == ("environment_variable", "canary of the first")
    assert "canary" not in repr(found)
    of_server = found.of_server("https://mcp.test/a")
    assert of_server and of_server.secret("token") == "canary of a server"
    assert of_server.vault_id == second
    for url in ("https://mcp.test/b", "http://mcp.test/a", "https://mcp.test:8443/a", "nonsense"):
        assert found.of_server(url) is None
    with pytest.raises(CredentialUnusable):
        of_server.secret("access_token")
    assert (await link.desk.of(session_id)) is found, "it is asked for once"


async def test_a_session_that_cannot_be_given_keeps_no_other_from_its_own(link: Link) -> None:
    """Such as one that the egress process hangs up on."""
    vault = await a_vault(link)
    await made(link, variable(link.opened.stores, vault, "TOKEN"), secret_value="canary")
    link.hung_up_on = await session_with(link, vault)
    waits = asyncio.ensure_future(link.desk.of(link.hung_up_on))
    other = await session_with(link, vault)
    found = await asyncio.wait_for(link.desk.of(other), SECONDS)
    assert [each.secret("secret_value") for each in found.variables()] == ["canary"]
    waits.cancel()
    await asyncio.wait([waits])


async def test_tokens_of_repositories_are_opened(link: Link) -> None:
    stores = link.opened.stores
    key = await stores.vault_keys.current()
    assert key is not None

    def token(url: str, *, sealed_for: str | None = None) -> SealedToken:
        place = TokenPlace(workspace_id=HERE, resource_id=ResourceId(stores.ids.mint(RESOURCE)), url=url)
        to = replace(place, url=sealed_for or url).encode()
        sealed = seal(b"canary of " + url.encode(), public_key=key.public_key, place=to)
        return SealedToken(place=place, key_id=key.key_id, sealed=sealed)

    record = new_session(stores.ids, stores.clock.now())
    ours, moved = "https://git.test:8443/ada/engine", "https://git.test:8443/eve/engine"
    await stores.sessions.create(record, tokens=[token(ours), token(moved, sealed_for=ours)])
    found = await asyncio.wait_for(link.desk.of(record.session_id), SECONDS)
    assert "canary" not in repr(found)
    assert {each.url.text: each.token for each in found.repositories} == {
        ours: f"canary of {ours}",
        moved: None,
    }
    [resource_id] = [each.resource_id for each in found.repositories if each.url.text == ours]

    def put(host: str, port: int, path: str) -> tuple[list[tuple[bytes, bytes]], list[CredentialId]]:
        """On a request that has a header of its own."""
        substitution = Substitution(additions=additions_of(found, Target(host, port)))
        return substitution.head([(b"authorization", b"of the sandbox")], path.encode())

    asks = (
        *("info/refs?service=git-upload-pack", "info/refs?service=git-receive-pack"),
        *("git-upload-pack", "git-receive-pack", "info/lfs/objects/batch", "info/lfs/locks?limit=1"),
    )
    for name in ("ada/engine", "ada/engine.git"):
        for ask in asks:
            [(header, value)], used = put("git.test", 8443, f"/{name}/{ask}")
            assert (header, used) == (b"Authorization", [resource_id])
            assert b64decode(value.split()[1]) == f"x-access-token:canary of {ours}".encode()
    for host, port, path in (
        ("git.test", 443, "/ada/engine/git-upload-pack"),
        ("git.test.evil", 8443, "/ada/engine/git-upload-pack"),
        *(
            ("git.test", 8443, path)
            for path in (
                "/ada/engine2/git-upload-pack",
                "/ada/other/git-upload-pack",
                "/ada/engine/../other/git-upload-pack",
                "/ada/engine/%2e%2e/other/git-upload-pack",
                "/ada/engine//git-upload-pack",
                "/ada/engine/git-upload-pack/../../other/info/refs",
                "//ada/engine/git-upload-pack",
                "/ada/engine/settings",
                "/ada/engine/info/refs?service=git-upload-pack&x=y",
                "/ada/engine/git-upload-pack#x",
                "/ada/engine",
                "/",
                "/eve/engine/git-upload-pack",  # what was sealed for another does not open
            )
        ),
    ):
        assert put(host, port, path) == ([(b"authorization", b"of the sandbox")], []), (host, port, path)


async def test_a_session_without_and_one_that_is_gone(link: Link) -> None:
    for session_id in (await session_with(link), SessionId("sesn_gone")):
        assert (await asyncio.wait_for(link.desk.of(session_id), SECONDS)).credentials == ()


async def test_a_change_is_in_force_once_it_is_not_fresh(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = link.opened.stores
    vault_id = await a_vault(link)
    record = await made(link, variable(stores, vault_id, "TOKEN"), secret_value="canary one")
    session_id = await session_with(link, vault_id)
    assert (await link.desk.of(session_id)).variables()[0].secret("secret_value") == "canary one"
    await rotated(link, record, "canary two")
    assert (await link.desk.of(session_id)).variables()[0].secret("secret_value") == "canary one"
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
    assert (await link.desk.of(session_id)).variables()[0].secret("secret_value") == "canary two"
    await stores.vaults.archive(vault_id, workspace_id=HERE, now=stores.clock.now())
    assert (await link.desk.of(session_id)).credentials == ()


async def rotated(link: Link, record: Wire, secret: str) -> None:
    stores, key = link.opened.stores, await link.opened.stores.vault_keys.current()
    assert key is not None
    await stores.credentials.update(
        record["vault_id"],
        CredentialId(record["id"]),
        lambda current: updated_credential(current, {}, ["secret_value"], now=stores.clock.now()),
        sealed_secrets_of(record, key=key, secret_value=secret),
        workspace_id=HERE,
    )


async def test_who_asks_anew_gets_nothing_that_was_read_before(link: Link) -> None:
    """The secret is changed after the server has read it for somebody else, and before it is given."""
    vault_id = await a_vault(link)
    record = await made(link, variable(link.opened.stores, vault_id, "TOKEN"), secret_value="canary one")
    session_id = await session_with(link, vault_id)
    link.may_give.clear()
    first = asyncio.ensure_future(link.desk.again(session_id))
    await asyncio.wait_for(link.has_read.wait(), SECONDS)
    await rotated(link, record, "canary two")
    others = [asyncio.ensure_future(link.desk.again(session_id)) for _ in range(3)]
    of = asyncio.ensure_future(link.desk.of(session_id))
    await asyncio.sleep(0)  # they have begun
    assert sum(each.waiting for each in link.desk._wanted[session_id]) == 5
    link.may_give.set()
    before = [(await asyncio.wait_for(each, SECONDS)).variables()[0] for each in (first, of)]
    assert [each.secret("secret_value") for each in before] == ["canary one"] * 2
    for each in others:
        found = (await asyncio.wait_for(each, SECONDS)).variables()[0]
        assert found.secret("secret_value") == "canary two"
    assert link.asked.count("give") == 2
    assert not link.desk._wanted


async def test_who_asks_anew_gets_nothing_old(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it would do for others."""
    vault_id = await a_vault(link)
    await made(link, variable(link.opened.stores, vault_id, "TOKEN"), secret_value="canary one")
    session_id = await session_with(link, vault_id)
    known = await asyncio.wait_for(link.desk.again(session_id), SECONDS)
    link.is_cut = True
    monkeypatch.setattr(wishes, "CREDENTIALS_AGAIN_SECONDS", 0.05)
    with pytest.raises(CredentialsUnavailable):
        await link.desk.again(session_id)
    assert await link.desk.of(session_id) is known


async def test_what_does_not_fit_into_one_request_comes_in_parts(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.app.credentials.CREDENTIALS_PART_BYTES", 2_000)
    stores, names = link.opened.stores, [f"TOKEN_{number}" for number in range(10)]
    vaults = [await a_vault(link), await a_vault(link)]
    for vault_id in vaults:
        for name in names:
            await made(link, variable(stores, vault_id, name), secret_value=f"canary of {vault_id}")
    found = await asyncio.wait_for(link.desk.of(await session_with(link, *vaults)), SECONDS)
    assert [each.auth["secret_name"] for each in found.variables()] == names
    assert {each.secret("secret_value") for each in found.variables()} == {f"canary of {vaults[0]}"}
    assert link.asked.count("give") > 5


def test_one_credential_fits_into_a_request_beside_a_part() -> None:
    """Of the largest size that the API takes, in letters that JSON spells with twelve bytes."""
    of_metadata = METADATA_PAIRS_MAX * (METADATA_KEY_CHARS_MAX + METADATA_VALUE_CHARS_MAX)
    texts = 12 * (of_metadata + 8 * 2048)  # name, URLs, client_id, scope, resource, hosts
    sealed = 3 * 4 * (4 * SECRET_CHARS_MAX + 1_000) // 3
    assert CREDENTIALS_PART_BYTES + texts + sealed < EGRESS_REQUEST_BYTES_MAX


async def test_plain_secrets_in_memory_are_bounded(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "CREDENTIALS_PLAIN_CHARS_MAX", 25)
    vault_id = await a_vault(link)
    await made(link, variable(link.opened.stores, vault_id, "TOKEN"), secret_value="canary one")
    sessions = [await session_with(link, vault_id) for _ in range(4)]
    for session_id in sessions:
        assert (await asyncio.wait_for(link.desk.of(session_id), SECONDS)).variables()
    assert list(link.desk._known) == sessions[2:], "ten characters each"
    monkeypatch.setattr(wishes, "CREDENTIALS_PLAIN_CHARS_MAX", 5)
    assert (await asyncio.wait_for(link.desk.again(sessions[0]), SECONDS)).variables(), "alone too large"


async def test_what_is_too_old_is_not_used(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    vault_id = await a_vault(link)
    await made(link, variable(link.opened.stores, vault_id, "TOKEN"), secret_value="canary one")
    session_id = await session_with(link, vault_id)
    await link.desk.of(session_id)
    link.is_cut = True
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", 0.05)
    assert (await link.desk.of(session_id)).credentials, "the server is away for a moment"
    monkeypatch.setattr(wishes, "CREDENTIALS_STALE_SECONDS", 0.0)
    with pytest.raises(CredentialsUnavailable):
        await link.desk.of(session_id)
    link.is_cut = False
    monkeypatch.setattr(wishes, "CREDENTIALS_WAIT_SECONDS", SECONDS)
    monkeypatch.setattr(wishes, "CREDENTIALS_STALE_SECONDS", SECONDS)
    assert (await asyncio.wait_for(link.desk.of(SessionId("sesn_2")), SECONDS)).credentials == ()


async def test_what_is_too_old_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while no server asks for anything."""
    monkeypatch.setattr(wishes, "CREDENTIALS_STALE_SECONDS", 0.2)
    desk = CredentialDesk(KeyRing(FileKeys(tmp_path / "keys")), asyncio.Lock(), ended=asyncio.Event())
    given = {"session_id": "sesn_1", "credentials": [], "repositories": []}
    given |= {"round": 1, "part": 0, "is_last": True}
    assert (await desk.answer("give", json.dumps(given).encode()))[0] == "200 OK"
    async with asyncio.timeout(SECONDS):
        while desk._known:  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.05)


async def test_one_that_cannot_be_given_does_not_hold_up_the_others(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of whose credentials the store has a row that cannot be read."""
    monkeypatch.setattr("corral.app.credentials.CREDENTIALS_RETRY_SECONDS", 0.05)
    vault_id = await a_vault(link)
    record = await made(link, variable(link.opened.stores, vault_id, "TOKEN"), secret_value="canary")
    broken = text("UPDATE credentials SET body = '{' WHERE credential_id = :credential_id")
    await link.opened.database.write(
        lambda connection: connection.execute(broken, {"credential_id": record["id"]}).rowcount
    )
    bad = asyncio.ensure_future(link.desk.of(await session_with(link, vault_id)))
    good = await asyncio.gather(*(link.desk.of(SessionId(f"sesn_{n}")) for n in range(20)))
    assert len(good) == 20 and not bad.done()
    bad.cancel()
    await asyncio.wait([bad])


async def test_a_secret_that_does_not_open_is_not_another_ones(link: Link) -> None:
    """It stays the one that is used: the second vault's is not taken instead."""
    stores = link.opened.stores
    first, second = await a_vault(link), await a_vault(link)
    record = variable(stores, first, "TOKEN")
    key = await stores.vault_keys.current()
    assert key is not None
    moved = sealed_secrets_of(variable(stores, second, "TOKEN"), key=key, secret_value="canary")
    await stores.credentials.create(record, moved, workspace_id=HERE)  # sealed for another place
    await made(link, variable(stores, second, "TOKEN"), secret_value="canary of the second")
    session_id = await session_with(link, first, second)
    [found] = (await link.desk.of(session_id)).credentials
    assert found.credential_id == record["id"]
    with pytest.raises(CredentialUnusable) as failure:
        found.secret("secret_value")
    assert "canary" not in str(failure.value)
