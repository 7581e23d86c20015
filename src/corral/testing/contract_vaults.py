"""What every store of vaults, credentials and vault keys must do. See contract_store."""

import asyncio
from dataclasses import replace
from typing import Any

from corral.catalog.credentials import new_credential, place_of, updated_credential
from corral.catalog.records import Wire
from corral.catalog.repositories import SealedToken, TokenPlace
from corral.catalog.tokens import Where
from corral.catalog.vaults import SealedSecret, StoredSecret, VaultKey, new_vault
from corral.kernel.clock import rfc3339
from corral.kernel.errors import Conflict, InvalidRequest, NotFound, VaultUnavailable
from corral.kernel.ids import (
    CREDENTIAL,
    DEFAULT_WORKSPACE,
    RESOURCE,
    VAULT,
    CredentialId,
    ResourceId,
    SessionId,
    VaultId,
    WorkspaceId,
)
from corral.kernel.limits import CREDENTIALS_PER_VAULT_MAX
from corral.session.resources import Resource
from corral.testing.sessions import new_session
from corral.testing.stores import Stores, error_of

HERE, ELSEWHERE = DEFAULT_WORKSPACE, WorkspaceId("wrkspc_other")
FIRST, SECOND = (VaultKey(key_id=f"vkey_{n}", public_key=bytes([n]) * 32) for n in (1, 2))


async def vault(stores: Stores, *, workspace_id: WorkspaceId = HERE) -> VaultId:
    await stores.vault_keys.add_first(FIRST, now=stores.clock.now())
    stores.clock.advance(1)
    made = new_vault(
        {"display_name": "v"}, vault_id=VaultId(stores.ids.mint(VAULT)), now=stores.clock.now()
    )
    await stores.vaults.create(made, workspace_id=workspace_id)
    return VaultId(made["id"])


def variable(stores: Stores, vault_id: VaultId, name: str) -> Wire:
    auth = {
        "type": "environment_variable",
        "secret_name": name,
        "networking": {"type": "unrestricted"},
    }
    return bearer(stores, vault_id, auth=auth)


def bearer(stores: Stores, vault_id: VaultId, url: str = "https://mcp.test/a", **fields: Any) -> Wire:
    stores.clock.advance(1)
    return new_credential(
        {"auth": {"type": "static_bearer", "mcp_server_url": url}, **fields},
        vault_id=vault_id,
        credential_id=CredentialId(stores.ids.mint(CREDENTIAL)),
        now=stores.clock.now(),
    )


def oauth(stores: Stores, vault_id: VaultId, url: str = "https://mcp.test/a", **fields: Any) -> Wire:
    """fields: of its `auth`."""
    refresh = {
        "client_id": "client",
        "token_endpoint": "https://login.test/token",
        "token_endpoint_auth": {"type": "client_secret_post"},
    }
    auth = {"type": "mcp_oauth", "mcp_server_url": url, "refresh": refresh, **fields}
    return bearer(stores, vault_id, auth=auth)


def sealed(content: bytes = b"sealed", *, key: VaultKey = FIRST, name: str = "token") -> SealedSecret:
    return SealedSecret(name=name, key_id=key.key_id, sealed=content)


async def stored(stores: Stores, *keys: VaultKey) -> list[StoredSecret]:
    ids = [key.key_id for key in keys or (FIRST, SECOND)]
    return list(await stores.vault_keys.sealed_otherwise(ids, after=None, limit=99))


async def check_vaults(stores: Stores) -> None:
    made = [await vault(stores) for _ in range(3)]
    foreign = await vault(stores, workspace_id=ELSEWHERE)
    first = await stores.vaults.read(made[0], workspace_id=HERE)
    changed = await stores.vaults.update(
        made[0], lambda current: {**current, "display_name": "new"}, workspace_id=HERE
    )
    assert changed == {**first, "display_name": "new"}
    assert await stores.vaults.read(made[0], workspace_id=HERE) == changed
    now = stores.clock.now()
    archived = await stores.vaults.archive(made[1], workspace_id=HERE, now=now)
    assert archived["archived_at"] == rfc3339(now)
    stores.clock.advance(1)
    again = await stores.vaults.archive(made[1], workspace_id=HERE, now=stores.clock.now())
    assert again == archived

    async def listed(include_archived: bool) -> list[str]:
        ids, cursor = [], None
        while True:
            page = await stores.vaults.page(
                workspace_id=HERE, limit=1, cursor=cursor, include_archived=include_archived
            )
            ids += [item["id"] for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return ids

    assert await listed(True) == [made[2], made[1], made[0]]
    assert await listed(False) == [made[2], made[0]]
    await stores.vaults.delete(made[2], workspace_id=HERE)
    for gone in (made[2], foreign):
        for action in (
            stores.vaults.read(gone, workspace_id=HERE),
            stores.vaults.delete(gone, workspace_id=HERE),
            stores.vaults.archive(gone, workspace_id=HERE, now=now),
            stores.vaults.update(gone, lambda current: current, workspace_id=HERE),
            stores.vaults.contents([made[0], gone], workspace_id=HERE),
            stores.credentials.create(bearer(stores, gone), [], workspace_id=HERE),
            stores.credentials.page(gone, workspace_id=HERE, limit=1, cursor=None, include_archived=True),
        ):
            assert isinstance(await error_of(action), NotFound)
    assert await stores.vaults.read(foreign, workspace_id=ELSEWHERE)


async def check_credentials(stores: Stores) -> None:
    vault_id = await vault(stores)
    made = [bearer(stores, vault_id, f"https://mcp.test/{n}") for n in range(3)]
    for credential in made:
        await stores.credentials.create(credential, [sealed()], workspace_id=HERE)
    ids = [CredentialId(credential["id"]) for credential in made]
    assert await stores.credentials.read(vault_id, ids[0], workspace_id=HERE) == made[0]

    def renamed(current: Wire) -> Wire:
        return updated_credential(current, {"display_name": "n"}, ["token"], now=stores.clock.now())

    changed = await stores.credentials.update(
        vault_id, ids[0], renamed, [sealed(b"newer")], workspace_id=HERE
    )
    assert await stores.credentials.read(vault_id, ids[0], workspace_id=HERE) == changed
    assert {secret.place.credential_id: secret.sealed for secret in await stored(stores)} == {
        ids[0]: b"newer", ids[1]: b"sealed", ids[2]: b"sealed",
    }  # fmt: skip
    [secret] = [each for each in await stored(stores) if each.place.credential_id == ids[0]]
    assert secret.place == place_of(changed, "token", workspace_id=HERE)
    now = stores.clock.now()
    archived = await stores.credentials.archive(vault_id, ids[0], workspace_id=HERE, now=now)
    assert archived == {**changed, "archived_at": rfc3339(now)}
    assert await stores.credentials.archive(vault_id, ids[0], workspace_id=HERE, now=now) == archived
    assert {secret.place.credential_id for secret in await stored(stores)} == {ids[1], ids[2]}
    refused = stores.credentials.update(vault_id, ids[0], renamed, [sealed()], workspace_id=HERE)
    assert isinstance(await error_of(refused), InvalidRequest)
    await stores.credentials.delete(vault_id, ids[1], workspace_id=HERE)
    pages: list[Any] = [
        await stores.credentials.page(
            vault_id, workspace_id=HERE, limit=9, cursor=None, include_archived=include_archived
        )
        for include_archived in (True, False)
    ]
    assert [list(page.items) for page in pages] == [[made[2], archived], [made[2]]]
    other = await vault(stores)
    for place in ((vault_id, ids[1], HERE), (other, ids[2], HERE), (vault_id, ids[2], ELSEWHERE)):
        of, which, workspace_id = place
        for action in (
            stores.credentials.read(of, which, workspace_id=workspace_id),
            stores.credentials.update(of, which, lambda c: c, [], workspace_id=workspace_id),
            stores.credentials.archive(of, which, workspace_id=workspace_id, now=now),
            stores.credentials.delete(of, which, workspace_id=workspace_id),
        ):
            assert isinstance(await error_of(action), NotFound)
    contents = await stores.vaults.contents([other, vault_id], workspace_id=HERE)
    assert [(each["id"], list(inside)) for each, inside in contents] == [(other, []), (vault_id, [made[2]])]
    page = await stores.credentials.page(
        vault_id, workspace_id=HERE, limit=1, cursor=None, include_archived=True
    )
    elsewhere = stores.credentials.page(
        other, workspace_id=HERE, limit=1, cursor=page.next_cursor, include_archived=True
    )
    assert isinstance(await error_of(elsewhere), InvalidRequest)


async def check_one_active_credential_for_each_use(stores: Stores) -> None:
    """Also of twins at once; archiving and deleting free it."""
    vault_id = await vault(stores)
    twins = [bearer(stores, vault_id, url) for url in ("https://Mcp.test:443/a/", "https://mcp.test/a") * 3]
    errors = await asyncio.gather(
        *(error_of(stores.credentials.create(twin, [sealed()], workspace_id=HERE)) for twin in twins)
    )
    assert sorted(type(error).__name__ for error in errors) == ["Conflict"] * 5 + ["NoneType"]
    winner = CredentialId(twins[errors.index(None)]["id"])
    assert [secret.place.credential_id for secret in await stored(stores)] == [winner]
    await stores.credentials.archive(vault_id, winner, workspace_id=HERE, now=stores.clock.now())
    following = bearer(stores, vault_id)
    await stores.credentials.create(following, [], workspace_id=HERE)
    await stores.credentials.delete(vault_id, CredentialId(following["id"]), workspace_id=HERE)
    await stores.credentials.create(bearer(stores, vault_id), [], workspace_id=HERE)
    await stores.credentials.create(bearer(stores, vault_id, "http://mcp.test/a"), [], workspace_id=HERE)
    await stores.credentials.create(variable(stores, vault_id, "NAME"), [], workspace_id=HERE)
    again = stores.credentials.create(variable(stores, vault_id, "NAME"), [], workspace_id=HERE)
    assert isinstance(await error_of(again), Conflict)


async def check_a_vault_is_full(stores: Stores) -> None:
    """Counted under its lock: many at once do not get more in."""
    vault_id = await vault(stores)
    many = [variable(stores, vault_id, f"V{n}") for n in range(CREDENTIALS_PER_VAULT_MAX + 3)]
    errors = await asyncio.gather(
        *(error_of(stores.credentials.create(each, [], workspace_id=HERE)) for each in many)
    )
    assert sum(error is None for error in errors) == CREDENTIALS_PER_VAULT_MAX
    assert sum(isinstance(error, InvalidRequest) for error in errors) == 3
    first = CredentialId(many[errors.index(None)]["id"])
    await stores.credentials.archive(vault_id, first, workspace_id=HERE, now=stores.clock.now())
    await stores.credentials.create(variable(stores, vault_id, "MORE"), [], workspace_id=HERE)


async def check_what_a_vault_takes_along(stores: Stores) -> None:
    archived, deleted, kept = [await vault(stores) for _ in range(3)]
    for vault_id in (archived, deleted, kept):
        await stores.credentials.create(bearer(stores, vault_id), [sealed()], workspace_id=HERE)
    await stores.vaults.archive(archived, workspace_id=HERE, now=stores.clock.now())
    await stores.vaults.delete(deleted, workspace_id=HERE)
    assert [getattr(secret.place, "vault_id", None) for secret in await stored(stores)] == [kept]
    page = await stores.credentials.page(
        archived, workspace_id=HERE, limit=9, cursor=None, include_archived=True
    )
    assert [item["archived_at"] for item in page.items] == [rfc3339(stores.clock.now())]
    refused = stores.credentials.create(bearer(stores, archived), [sealed()], workspace_id=HERE)
    assert isinstance(await error_of(refused), InvalidRequest)


async def check_vault_keys(stores: Stores) -> None:
    """A key is replaced, its secrets are sealed anew, and only then it is forgotten."""
    keys = stores.vault_keys
    assert await keys.current() is None
    assert isinstance(await error_of(keys.ask_rotation(now=stores.clock.now())), VaultUnavailable)
    await asyncio.gather(*(keys.add_first(key, now=stores.clock.now()) for key in (FIRST, FIRST)))
    await keys.add_first(SECOND, now=stores.clock.now())
    assert await keys.current() == FIRST
    vault_id = await vault(stores)
    both = [sealed(b"1", name="access_token"), sealed(b"2", name="refresh_token")]
    credential = variable(stores, vault_id, "BOTH")
    await stores.credentials.create(credential, both, workspace_id=HERE)
    moment = stores.clock.now()
    assert not await keys.replace(FIRST.key_id, SECOND, now=moment)  # nobody asked
    await keys.ask_rotation(now=moment)
    assert [use.rotation_asked_at for use in await keys.all()] == [moment]
    stores.clock.advance(1)
    won = await asyncio.gather(
        *(keys.replace(FIRST.key_id, SECOND, now=stores.clock.now()) for _ in range(2))
    )
    assert sorted(won) == [False, True]
    assert await keys.current() == SECOND
    assert [(use.key, use.is_current, use.secrets) for use in await keys.all()] == [
        (SECOND, True, 0), (FIRST, False, 2),
    ]  # fmt: skip
    assert await keys.forget_unused() == []
    [one] = await keys.sealed_otherwise([FIRST.key_id], after=None, limit=1)
    position = (one.place.credential_id, one.place.name)
    [two] = await keys.sealed_otherwise([FIRST.key_id], after=position, limit=9)
    changed = await stores.credentials.update(
        vault_id,
        CredentialId(credential["id"]),
        lambda current: {**current, "display_name": "meanwhile"},
        [sealed(b"meanwhile", name=two.place.name)],
        workspace_id=HERE,
    )
    assert changed["display_name"] == "meanwhile"
    anew = [sealed(b"anew", key=SECOND, name=each.place.name) for each in (one, two)]
    assert await keys.seal_anew([one, two], anew) == 1
    assert [(each.sealed, each.key_id) for each in await stored(stores)] == [
        (b"anew", SECOND.key_id), (b"meanwhile", FIRST.key_id),
    ]  # fmt: skip
    [last] = await stored(stores, FIRST)
    assert await keys.seal_anew([last], anew[1:]) == 1
    assert await keys.forget_unused() == [FIRST.key_id]
    late = stores.credentials.create(bearer(stores, vault_id), [sealed()], workspace_id=HERE)
    assert isinstance(await error_of(late), VaultUnavailable)
    page = await stores.credentials.page(
        vault_id, workspace_id=HERE, limit=9, cursor=None, include_archived=True
    )
    assert len(page.items) == 1, "nothing was written"


async def check_credentials_of_a_session(stores: Stores) -> None:
    first, second, foreign = (
        await vault(stores),
        await vault(stores),
        await vault(stores, workspace_id=ELSEWHERE),
    )
    late = bearer(stores, second)
    records = [variable(stores, first, "A"), variable(stores, first, "B"), variable(stores, second, "A")]
    for record in [late, *records]:
        secrets = [sealed(record["id"].encode(), name="secret_value"), sealed(name="token")]
        await stores.credentials.create(record, secrets, workspace_id=HERE)
    await stores.credentials.create(variable(stores, foreign, "C"), [sealed()], workspace_id=ELSEWHERE)
    stores.clock.advance(1)
    session = new_session(stores.ids, stores.clock.now())
    await stores.sessions.create(replace(session, vault_ids=(first, foreign, second)))

    async def found() -> list[str]:
        return [
            each.record["id"] for each in await stores.session_credentials.of_session(session.session_id)
        ]

    given = await stores.session_credentials.of_session(session.session_id)
    assert [each.record for each in given] == [records[0], records[1], late, records[2]]
    assert {each.workspace_id for each in given} == {HERE}
    assert sorted(each.name for each in given[1].secrets) == ["secret_value", "token"]
    assert sealed(records[1]["id"].encode(), name="secret_value") in given[1].secrets
    archived = CredentialId(records[1]["id"])
    await stores.credentials.archive(first, archived, workspace_id=HERE, now=stores.clock.now())
    assert await found() == [records[0]["id"], late["id"], records[2]["id"]]
    await stores.vaults.archive(first, workspace_id=HERE, now=stores.clock.now())
    assert await found() == [late["id"], records[2]["id"]]
    await stores.vaults.delete(second, workspace_id=HERE)
    assert await found() == []
    other = await stores.session()
    for session_id in (other.session_id, SessionId("sesn_unknown")):
        assert await stores.session_credentials.of_session(session_id) == []


async def check_tokens_of_repositories(stores: Stores) -> None:
    """They are kept with their session and sealed anew like everything, and go with it."""
    await stores.vault_keys.add_first(FIRST, now=stores.clock.now())

    def token(content: bytes, resource_id: ResourceId, *, key: VaultKey = FIRST) -> SealedToken:
        place = TokenPlace(workspace_id=HERE, resource_id=resource_id, url="https://git.test/a/b")
        return SealedToken(place=place, key_id=key.key_id, sealed=content)

    async def session() -> tuple[SessionId, list[SealedToken]]:
        record = new_session(stores.ids, stores.clock.now())
        ids = sorted(stores.ids.mint(RESOURCE) for _ in range(2))
        tokens = [token(b"%d" % number, ResourceId(each)) for number, each in enumerate(ids)]
        resources = [
            Resource(body={"id": each.place.resource_id, "type": "github_repository"}) for each in tokens
        ]
        await stores.sessions.create(replace(record, resources=resources), tokens=tokens)
        return record.session_id, tokens

    async def found(session_id: SessionId) -> list[SealedToken]:
        return list(await stores.session_credentials.tokens_of_session(session_id))

    (kept, [one, two]), (archived, _), (deleted, _) = [await session() for _ in range(3)]
    assert await found(kept) == [one, two]
    await stores.sessions.archive(archived)
    await stores.sessions.delete(deleted)
    assert await found(archived) == await found(deleted) == []
    assert [each.sealed for each in await stored(stores)] == [one.sealed, two.sealed]

    rotated = token(b"rotated", one.place.resource_id)
    resource = await stores.resources.update(
        kept,
        one.place.resource_id,
        lambda current: replace(current, private={"has_token": True}),
        token=rotated,
    )
    assert resource.private == {"has_token": True}
    assert await found(kept) == [rotated, two]
    refused = stores.resources.update(archived, one.place.resource_id, lambda current: current, token=two)
    assert isinstance(await error_of(refused), Conflict)

    keys, now = stores.vault_keys, stores.clock.now()
    vault_id = await vault(stores)
    await stores.credentials.create(bearer(stores, vault_id), [sealed()], workspace_id=HERE)
    await keys.ask_rotation(now=now)
    assert await keys.replace(FIRST.key_id, SECOND, now=now)
    assert [use.secrets for use in await keys.all()] == [0, 3]
    before: list[StoredSecret] = []
    while batch := await keys.sealed_otherwise(
        [FIRST.key_id],
        after=(before[-1].place.credential_id, before[-1].place.name) if before else None,
        limit=1,
    ):
        before += batch
    assert [each.place.encode() for each in before[:2]] == [one.place.encode(), two.place.encode()]
    anew = [sealed(each.sealed + b"!", key=SECOND, name=each.place.name) for each in before]
    await stores.resources.update(kept, two.place.resource_id, lambda current: current, token=two)
    assert await keys.seal_anew(before, anew) == 3
    assert [each.sealed for each in await found(kept)] == [b"rotated!", b"1!"]
    assert await keys.forget_unused() == [FIRST.key_id]
    late = stores.resources.update(kept, two.place.resource_id, lambda current: current, token=two)
    assert isinstance(await error_of(late), VaultUnavailable)
    record = new_session(stores.ids, stores.clock.now())
    assert isinstance(await error_of(stores.sessions.create(record, tokens=[two])), VaultUnavailable)
    assert isinstance(await error_of(stores.sessions.read(record.session_id)), NotFound)


async def check_who_refreshes_tokens(stores: Stores) -> None:
    vault_id = await vault(stores)
    record = oauth(stores, vault_id)
    old = [sealed(b"old", name=name) for name in ("access_token", "client_secret", "refresh_token")]
    await stores.credentials.create(record, old, workspace_id=HERE)
    where = Where(workspace_id=HERE, vault_id=vault_id, credential_id=CredentialId(record["id"]))

    async def claim(claim_id: str, updated_at: str = record["updated_at"]) -> str:
        outcome, found = await stores.tokens.claim(
            where, updated_at=updated_at, claim_id=claim_id, seconds=60
        )
        assert (found is not None) == (outcome == "changed")
        return outcome

    async def keep(claim_id: str, updated_at: str = record["updated_at"], key: VaultKey = FIRST) -> Any:
        stores.clock.advance(1)
        return await stores.tokens.keep(
            where,
            [sealed(claim_id.encode(), key=key, name=name) for name in ("access_token", "refresh_token")],
            updated_at=updated_at,
            claim_id=claim_id,
            expires_at="2099-01-01T00:00:00.000000Z",
            now=stores.clock.now(),
        )

    outcomes = await asyncio.gather(*(claim(f"claim_{number}") for number in range(8)))
    assert sorted(outcomes) == ["busy"] * 7 + ["claimed"]
    holder = f"claim_{outcomes.index('claimed')}"
    assert await claim(holder) == "claimed"
    await stores.tokens.release(where, claim_id="claim_of_nobody")
    assert await claim("next") == "busy"
    stores.clock.advance(61)
    assert await claim("next") == "claimed", "its holder is gone"
    await stores.tokens.release(where, claim_id="next")
    assert await claim(holder) == "claimed"
    assert isinstance(await error_of(keep(holder, key=SECOND)), VaultUnavailable)
    outcome, kept = await keep(holder)
    assert outcome == "kept" and kept is not None
    assert kept.record == await stores.credentials.read(vault_id, where.credential_id, workspace_id=HERE)
    assert kept.record["auth"]["expires_at"] == "2099-01-01T00:00:00.000000Z"
    assert kept.record["updated_at"] > record["updated_at"]
    assert {each.name: each.sealed for each in kept.secrets} == {
        "access_token": holder.encode(), "client_secret": b"old", "refresh_token": holder.encode(),
    }  # fmt: skip
    assert await claim("late") == "changed"
    assert await keep("late") == ("changed", kept), "nothing is written"
    assert await claim("late", kept.record["updated_at"]) == "claimed", "its holder has ended it"
    assert await stores.tokens.sealed(where) == kept
    await stores.credentials.archive(
        vault_id, where.credential_id, workspace_id=HERE, now=stores.clock.now()
    )
    assert await claim("after", kept.record["updated_at"]) == "gone"
    assert await keep("after", kept.record["updated_at"]) == ("gone", None)
    elsewhere = replace(where, workspace_id=ELSEWHERE)
    assert isinstance(await error_of(stores.tokens.sealed(elsewhere)), NotFound)


async def check_validations_of_other_nodes(stores: Stores) -> None:
    vault_id, queue = await vault(stores), stores.validations
    record = oauth(stores, vault_id)
    await stores.credentials.create(record, [sealed(name="access_token")], workspace_id=HERE)
    where = Where(workspace_id=HERE, vault_id=vault_id, credential_id=CredentialId(record["id"]))
    assert await queue.take(seconds=60) is None
    elsewhere = replace(where, workspace_id=ELSEWHERE)
    assert isinstance(await error_of(queue.ask("validation_0", elsewhere)), NotFound)
    for number in (1, 2):
        await queue.ask(f"validation_{number}", where)
        stores.clock.advance(1)
    taken = await asyncio.gather(*(queue.take(seconds=60) for _ in range(4)))
    found = sorted(each for each in taken if each is not None)
    assert found == [("validation_1", where), ("validation_2", where)]
    await queue.tell("validation_1", {"status": "valid"})
    assert await queue.answer("validation_1") == {"status": "valid"}
    assert await queue.answer("validation_2") is None
    stores.clock.advance(61)
    assert await queue.take(seconds=60) == ("validation_2", where), "its node is gone"
    for validation_id in ("validation_1", "validation_2"):
        await queue.forget(validation_id)
    await queue.tell("validation_2", {"status": "valid"})
    assert await queue.answer("validation_2") is None
    await queue.ask("validation_3", where)
    await stores.credentials.delete(vault_id, where.credential_id, workspace_id=HERE)
    assert await queue.take(seconds=60) is None, "it goes with the credential"


CHECKS = tuple(check for name, check in list(globals().items()) if name.startswith("check_"))
