"""What every store of agents, environments, API keys and idempotency keys must do. See contract_store."""

import asyncio
from dataclasses import replace
from typing import Any

from corral.catalog.idempotency import Answer, Idempotent, scope
from corral.catalog.records import ApiKey, Wire
from corral.catalog.workspaces import Workspace
from corral.kernel.clock import rfc3339
from corral.kernel.cursor import Page
from corral.kernel.errors import Conflict, InvalidRequest, NotFound
from corral.kernel.ids import (
    AGENT,
    DEFAULT_WORKSPACE,
    ENVIRONMENT,
    AgentId,
    EnvironmentId,
    WorkspaceId,
)
from corral.kernel.limits import IDEMPOTENCY_SECONDS
from corral.session.record import SessionRecord
from corral.testing.sessions import new_session
from corral.testing.stores import Stores, error_of

HERE, ELSEWHERE = DEFAULT_WORKSPACE, WorkspaceId("wrkspc_other")


def agent(stores: Stores, **fields: Any) -> dict[str, Any]:
    now = rfc3339(stores.clock.now())
    return {
        "id": stores.ids.mint(AGENT),
        "type": "agent",
        "version": 1,
        "name": "ä",
        "created_at": now,
        "updated_at": now,
        "archived_at": None,
        **fields,
    }


def renamed(name: str) -> Any:
    def change(current: Wire) -> Wire:
        if current["name"] == name:
            return current
        return {**current, "name": name, "version": current["version"] + 1}

    return change


async def check_agent_versions(stores: Stores) -> None:
    first = agent(stores)
    agent_id = AgentId(first["id"])
    await stores.agents.create(first, workspace_id=HERE)
    assert await stores.agents.read(agent_id, workspace_id=HERE) == first
    second = await stores.agents.update(agent_id, renamed("two"), workspace_id=HERE)
    assert second == {**first, "name": "two", "version": 2}
    assert await stores.agents.update(agent_id, renamed("two"), workspace_id=HERE) == second
    assert await stores.agents.read(agent_id, workspace_id=HERE) == second
    assert await stores.agents.read(agent_id, version=1, workspace_id=HERE) == first
    assert isinstance(await error_of(stores.agents.read(agent_id, version=3, workspace_id=HERE)), NotFound)
    stores.clock.advance(1)
    archived = await stores.agents.archive(agent_id, now=stores.clock.now(), workspace_id=HERE)
    assert archived == {**second, "archived_at": rfc3339(stores.clock.now())}
    stores.clock.advance(1)
    assert await stores.agents.archive(agent_id, now=stores.clock.now(), workspace_id=HERE) == archived
    at_first = await stores.agents.read(agent_id, version=1, workspace_id=HERE)
    assert at_first == {**first, "archived_at": archived["archived_at"]}
    page = await stores.agents.versions(agent_id, limit=1, cursor=None, workspace_id=HERE)
    assert list(page.items) == [archived]
    page = await stores.agents.versions(agent_id, limit=1, cursor=page.next_cursor, workspace_id=HERE)
    assert (list(page.items), page.next_cursor) == ([at_first], None)


async def check_agent_updates_do_not_overlap(stores: Stores) -> None:
    first = agent(stores)
    await stores.agents.create(first, workspace_id=HERE)
    agent_id = AgentId(first["id"])
    results = await asyncio.gather(
        *(stores.agents.update(agent_id, renamed(f"n{n}"), workspace_id=HERE) for n in range(9))
    )
    assert sorted(result["version"] for result in results) == list(range(2, 11))


async def check_agent_update_that_refuses(stores: Stores) -> None:
    first = agent(stores)
    await stores.agents.create(first, workspace_id=HERE)

    def refuse(current: Wire) -> Wire:
        raise Conflict("not this version")

    assert isinstance(
        await error_of(stores.agents.update(AgentId(first["id"]), refuse, workspace_id=HERE)), Conflict
    )
    assert await stores.agents.read(AgentId(first["id"]), workspace_id=HERE) == first


async def check_unknown_agent(stores: Stores) -> None:
    unknown = AgentId(stores.ids.mint(AGENT))
    for action in (
        stores.agents.read(unknown, workspace_id=HERE),
        stores.agents.update(unknown, renamed("x"), workspace_id=HERE),
        stores.agents.archive(unknown, now=stores.clock.now(), workspace_id=HERE),
        stores.agents.versions(unknown, limit=1, cursor=None, workspace_id=HERE),
    ):
        assert isinstance(await error_of(action), NotFound)


async def check_agent_list(stores: Stores) -> None:
    made = []
    for _ in range(5):
        stores.clock.advance(1)
        made.append(agent(stores))
        await stores.agents.create(made[-1], workspace_id=HERE)
    moment = stores.clock.now()
    await stores.agents.archive(AgentId(made[1]["id"]), now=moment, workspace_id=HERE)

    async def listed(include_archived: bool) -> list[str]:
        items: list[Wire] = []
        cursor = None
        while True:
            page = await stores.agents.page(
                limit=2, cursor=cursor, include_archived=include_archived, workspace_id=HERE
            )
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                return [item["id"] for item in items]

    newest_first = [item["id"] for item in reversed(made)]
    assert await listed(True) == newest_first
    assert await listed(False) == [agent_id for agent_id in newest_first if agent_id != made[1]["id"]]
    page = await stores.agents.page(
        limit=9,
        cursor=None,
        include_archived=True,
        created_gte=moment,
        created_lte=moment,
        workspace_id=HERE,
    )
    assert list(page.items) == made[-1:]


async def check_cursors_are_not_interchangeable(stores: Stores) -> None:
    for _ in range(2):
        await stores.agents.create(agent(stores), workspace_id=HERE)
    page = await stores.agents.page(limit=1, cursor=None, include_archived=False, workspace_id=HERE)
    assert page.next_cursor is not None
    first = AgentId(page.items[0]["id"])
    for cursor in (page.next_cursor, "", "é", "AAAA", page.next_cursor[:-3], "WzEsMl0"):
        lists: list[Any] = [
            stores.environments.page(limit=1, cursor=cursor, include_archived=False, workspace_id=HERE),
            stores.agents.versions(first, limit=1, cursor=cursor, workspace_id=HERE),
        ]
        if cursor != page.next_cursor:
            lists.append(
                stores.agents.page(limit=1, cursor=cursor, include_archived=False, workspace_id=HERE)
            )
        for action in lists:
            assert isinstance(await error_of(action), InvalidRequest), cursor


async def check_environments(stores: Stores) -> None:
    made = []
    for _ in range(3):
        stores.clock.advance(1)
        made.append(agent(stores, id=stores.ids.mint(ENVIRONMENT), type="environment"))
        await stores.environments.create(made[-1], workspace_id=HERE)
    ids = [EnvironmentId(item["id"]) for item in made]
    assert await stores.environments.read(ids[0], workspace_id=HERE) == made[0]
    changed = await stores.environments.update(
        ids[0], lambda current: {**current, "name": "new"}, workspace_id=HERE
    )
    assert (
        changed == {**made[0], "name": "new"} == await stores.environments.read(ids[0], workspace_id=HERE)
    )
    archived = await stores.environments.archive(ids[1], now=stores.clock.now(), workspace_id=HERE)
    stores.clock.advance(1)
    assert await stores.environments.archive(ids[1], now=stores.clock.now(), workspace_id=HERE) == archived

    async def page(cursor: str | None) -> Page[Wire]:
        return await stores.environments.page(
            limit=1, cursor=cursor, include_archived=False, workspace_id=HERE
        )

    first = await page(None)
    second = await page(first.next_cursor)
    assert [*first.items, *second.items] == [made[2], changed]
    assert second.next_cursor is None
    await stores.environments.delete(ids[2], workspace_id=HERE)
    for action in (
        stores.environments.read(ids[2], workspace_id=HERE),
        stores.environments.delete(ids[2], workspace_id=HERE),
        stores.environments.archive(ids[2], now=stores.clock.now(), workspace_id=HERE),
        stores.environments.update(ids[2], lambda current: current, workspace_id=HERE),
    ):
        assert isinstance(await error_of(action), NotFound)


async def check_environment_in_use(stores: Stores) -> None:
    environment = agent(stores, id=stores.ids.mint(ENVIRONMENT))
    environment_id = EnvironmentId(environment["id"])
    await stores.environments.create(environment, workspace_id=HERE)
    record = new_session(stores.ids, stores.clock.now(), environment_id=environment_id)
    await stores.sessions.create(record)
    assert isinstance(
        await error_of(stores.environments.delete(environment_id, workspace_id=HERE)), Conflict
    )
    await stores.sessions.archive(record.session_id)
    await stores.environments.delete(environment_id, workspace_id=HERE)


async def check_workspaces_of_the_catalog(stores: Stores) -> None:
    """What belongs to another workspace is not there: not to be read, changed, listed or counted."""
    first, environment = agent(stores), agent(stores, id=stores.ids.mint(ENVIRONMENT))
    agent_id, environment_id = AgentId(first["id"]), EnvironmentId(environment["id"])
    await stores.agents.create(first, workspace_id=ELSEWHERE)
    await stores.environments.create(environment, workspace_id=ELSEWHERE)
    now = stores.clock.now()
    for action in (
        stores.agents.read(agent_id, workspace_id=HERE),
        stores.agents.read(agent_id, workspace_id=HERE, version=1),
        stores.agents.update(agent_id, renamed("two"), workspace_id=HERE),
        stores.agents.archive(agent_id, workspace_id=HERE, now=now),
        stores.agents.versions(agent_id, workspace_id=HERE, limit=1, cursor=None),
        stores.environments.read(environment_id, workspace_id=HERE),
        stores.environments.update(environment_id, lambda current: current, workspace_id=HERE),
        stores.environments.archive(environment_id, workspace_id=HERE, now=now),
        stores.environments.delete(environment_id, workspace_id=HERE),
    ):
        assert isinstance(await error_of(action), NotFound)
    for workspace_id, count in ((HERE, 0), (ELSEWHERE, 1)):
        pages = (
            await stores.agents.page(
                workspace_id=workspace_id, limit=9, cursor=None, include_archived=True
            ),
            await stores.environments.page(
                workspace_id=workspace_id, limit=9, cursor=None, include_archived=True
            ),
        )
        assert [len(page.items) for page in pages] == [count, count]
    assert await stores.agents.read(agent_id, workspace_id=ELSEWHERE) == first
    assert await stores.environments.read(environment_id, workspace_id=ELSEWHERE) == environment


async def check_workspaces(stores: Stores) -> None:
    first = Workspace(workspace_id=ELSEWHERE, name="Elsewhere", created_at=stores.clock.now())
    await stores.workspaces.create(first)
    assert (await stores.workspaces.read(ELSEWHERE), await stores.workspaces.all()) == (first, [first])
    for unknown in (HERE, WorkspaceId("wrkspc_none")):
        assert isinstance(await error_of(stores.workspaces.read(unknown)), NotFound)
        archived = stores.workspaces.archive(unknown, now=stores.clock.now())
        assert isinstance(await error_of(archived), NotFound)
    key = api_key(stores, "k1", workspace_id=ELSEWHERE, role="user")
    await stores.keys.add(key)
    await stores.keys.add(api_key(stores, "k2"))
    nowhere = stores.keys.add(api_key(stores, "k3", workspace_id=WorkspaceId("wrkspc_none")))
    assert isinstance(await error_of(nowhere), NotFound)
    assert await stores.keys.find(key.sha256) == key
    assert await stores.keys.all(workspace_id=ELSEWHERE) == [key]
    other = stores.keys.revoke(key.api_key_id, workspace_id=HERE, now=stores.clock.now())
    assert isinstance(await error_of(other), NotFound)
    now = stores.clock.now()
    ended = await stores.workspaces.archive(ELSEWHERE, now=now)
    assert ended == replace(first, archived_at=now)
    stores.clock.advance(1)
    assert await stores.workspaces.archive(ELSEWHERE, now=stores.clock.now()) == ended
    assert await stores.keys.find(key.sha256) is None
    late = stores.keys.add(api_key(stores, "k4", workspace_id=ELSEWHERE))
    assert isinstance(await error_of(late), Conflict)


def api_key(stores: Stores, name: str, **fields: Any) -> ApiKey:
    return ApiKey(
        api_key_id=f"apikey_{name}",
        name=name,
        sha256=name.encode() * 16,
        hint=name * 2,
        created_at=stores.clock.now(),
        **fields,
    )


async def check_api_keys(stores: Stores) -> None:
    one, two = api_key(stores, "k1"), api_key(stores, "k2")
    await stores.keys.add(one)
    await stores.keys.add(replace(one, api_key_id="apikey_again"))
    await stores.keys.add(two)
    assert await stores.keys.all(workspace_id=None) == [one, two]
    assert await stores.keys.find(one.sha256) == one
    assert await stores.keys.find(b"unknown") is None
    await stores.keys.revoke(one.api_key_id, now=stores.clock.now(), workspace_id=None)
    await stores.keys.revoke(one.api_key_id, now=stores.clock.now(), workspace_id=None)
    assert await stores.keys.find(one.sha256) is None
    assert await stores.keys.all(workspace_id=None) == [replace(one, revoked_at=stores.clock.now()), two]
    await stores.keys.add(api_key(stores, "k3", role="developer"))
    last = stores.keys.revoke(two.api_key_id, now=stores.clock.now(), workspace_id=None)
    assert isinstance(await error_of(last), Conflict)
    unknown = stores.keys.revoke("apikey_none", now=stores.clock.now(), workspace_id=None)
    assert isinstance(await error_of(unknown), NotFound)


async def check_uses_of_api_keys(stores: Stores) -> None:
    one, two = api_key(stores, "k1"), api_key(stores, "k2")
    await stores.keys.add(one)
    await stores.keys.add(two)
    earlier = stores.clock.now()
    stores.clock.advance(9)
    later = stores.clock.now()
    await stores.keys.used({})
    await stores.keys.used({one.api_key_id: later, "apikey_none": later})
    await stores.keys.used({one.api_key_id: earlier})  # another node, which was slow
    assert await stores.keys.all(workspace_id=HERE) == [replace(one, last_used_at=later), two]


def keyed(key: str, *, body: bytes = b"body") -> Idempotent:
    def render(record: SessionRecord) -> Answer:
        return Answer(status=200, body=record.session_id.encode())

    return Idempotent(
        api_key_id="apikey_1", path="/v1/sessions", key=key, request_sha256=body, render=render
    )


async def check_idempotency_keys(stores: Stores) -> None:
    request = keyed("once")
    place = {"api_key_id": request.api_key_id, "path": request.path, "key": request.key}
    assert await stores.idempotency.find(**place, request_sha256=b"body") is None
    record = new_session(stores.ids, stores.clock.now())
    with scope(request):
        await stores.sessions.create(record)
    answer = Answer(status=200, body=record.session_id.encode())
    assert await stores.idempotency.find(**place, request_sha256=b"body") == answer
    other_body = stores.idempotency.find(**place, request_sha256=b"other")
    assert isinstance(await error_of(other_body), Conflict)
    assert await stores.idempotency.find(**{**place, "path": "/v1"}, request_sha256=b"body") is None
    stores.clock.advance(IDEMPOTENCY_SECONDS + 1)
    assert await stores.idempotency.find(**place, request_sha256=b"other") is None
    with scope(keyed("once", body=b"other")):
        await stores.sessions.create(new_session(stores.ids, stores.clock.now()))


async def check_idempotent_twins(stores: Stores) -> None:
    """Of equal requests at once, one takes effect; the others are told, and leave nothing."""
    records = [new_session(stores.ids, stores.clock.now()) for _ in range(4)]

    async def create(record: SessionRecord) -> object:
        with scope(keyed("twin")):
            return await error_of(stores.sessions.create(record))

    errors = await asyncio.gather(*(create(record) for record in records))
    assert sorted(type(error).__name__ for error in errors) == ["Conflict"] * 3 + ["NoneType"]
    for record, error in zip(records, errors, strict=True):
        found = await error_of(stores.sessions.read(record.session_id))
        assert isinstance(found, NotFound) == isinstance(error, Conflict)


async def check_a_failed_request_is_not_recorded(stores: Stores) -> None:
    record = await stores.session()
    await stores.sessions.delete(record.session_id)
    request = keyed("failing")
    with scope(request):
        assert isinstance(await error_of(stores.sessions.archive(record.session_id)), NotFound)
    found = await stores.idempotency.find(
        api_key_id=request.api_key_id, path=request.path, key=request.key, request_sha256=b"body"
    )
    assert found is None


CHECKS = tuple(check for name, check in list(globals().items()) if name.startswith("check_"))
