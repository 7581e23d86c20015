"""A request with an Idempotency-Key takes effect once, whatever dies, and wherever it is repeated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from corral.config import Secret
from corral.testing.messages_api import MessagesApi
from corral.testing.messages_reply import Reply
from tests.served import KEY, WAIT_SECONDS, Served, served, text

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEATHS_MAX = 3  # then a new supervisor: this one would wait ever longer before it starts the server again
_numbers = count(1)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where requests go."""

    http: httpx2.AsyncClient

    async def post(self, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> Any:
        answer = await self.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def all(self, path: str) -> list[Any]:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request, and how often it has taken effect."""

    path: str
    effects: Callable[[], Awaitable[int]]
    body: Any = None
    method: str = "POST"


async def agent_case(node: Node, name: str) -> Case:
    async def effects() -> int:
        return sum(agent["name"] == name for agent in await node.all("/v1/agents?limit=100"))

    return Case(path="/v1/agents", body={"name": name, "model": "claude-opus-5-5"}, effects=effects)


async def update_case(node: Node, name: str) -> Case:
    agent = await node.post("/v1/agents", {"name": name, "model": "claude-opus-5-5"})

    async def effects() -> int:
        return int((await node.http.get(f"/v1/agents/{agent['id']}")).json()["version"]) - 1

    return Case(path=f"/v1/agents/{agent['id']}", body={"description": "new"}, effects=effects)


async def environment_case(node: Node, name: str) -> Case:
    async def effects() -> int:
        found = await node.all("/v1/environments?limit=100")
        return sum(environment["name"] == name for environment in found)

    return Case(path="/v1/environments", body={"name": name}, effects=effects)


async def session_case(node: Node, name: str) -> Case:
    parents = await _parents(node, name)

    async def effects() -> int:
        found = [s for s in await node.all("/v1/sessions?limit=100") if s["title"] == name]
        messages = [
            event
            for session in found
            for event in await node.all(f"/v1/sessions/{session['id']}/events")
            if event["type"] == "user.message"
        ]
        assert len(messages) == len(found)
        return len(found)

    body = {**parents, "title": name, "initial_events": [text("Go.")]}
    return Case(path="/v1/sessions", body=body, effects=effects)


async def events_case(node: Node, name: str) -> Case:
    session = await node.post("/v1/sessions", await _parents(node, name))
    path = f"/v1/sessions/{session['id']}/events"

    async def effects() -> int:
        return sum(event["type"] == "user.message" for event in await node.all(path))

    return Case(path=path, body={"events": [text("Go.")]}, effects=effects)


async def archive_case(node: Node, name: str) -> Case:
    session = await node.post("/v1/sessions", await _parents(node, name))

    async def effects() -> int:
        answer = (await node.http.get(f"/v1/sessions/{session['id']}")).json()
        return int(answer["archived_at"] is not None)

    return Case(path=f"/v1/sessions/{session['id']}/archive", effects=effects)


async def delete_case(node: Node, name: str) -> Case:
    session = await node.post("/v1/sessions", await _parents(node, name))
    path = f"/v1/sessions/{session['id']}"

    async def effects() -> int:
        return int((await node.http.get(path)).status_code == 404)

    return Case(path=path, method="DELETE", effects=effects)


async def _parents(node: Node, name: str) -> dict[str, str]:
    agent = await node.post("/v1/agents", {"name": f"of {name}", "model": "claude-opus-5-5"})
    environment = await node.post("/v1/environments", {"name": f"of {name}"})
    return {"agent": agent["id"], "environment_id": environment["id"]}


async def version_case(node: Node, name: str) -> Case:
    """An update that would be refused if it were made again."""
    case = await update_case(node, name)
    return Case(path=case.path, body={"description": "new", "version": 1}, effects=case.effects)


CASES = (agent_case, version_case, environment_case, session_case, events_case, archive_case, delete_case)


async def surely(node: Node, case: Case, key: str) -> httpx2.Response:
    """The answer, as a client gets it that repeats until there is one."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(httpx2.TransportError):
                answer = await _ask(node, case, key)
                if answer.status_code < 500 and answer.status_code != 409:
                    return answer
            await asyncio.sleep(0.02)


async def _ask(node: Node, case: Case, key: str) -> httpx2.Response:
    headers = {"idempotency-key": key}
    if case.body is None:
        return await node.http.request(case.method, case.path, headers=headers)
    return await node.http.request(case.method, case.path, headers=headers, json=case.body)


# -- one server, killed ------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Served]:
    async with (
        MessagesApi(lambda request: Reply.text("Done.")) as upstream,
        served(messages_url=upstream.url, crashing=True) as server,
    ):
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def node(server: Served) -> AsyncIterator[Node]:
    if server.deaths >= DEATHS_MAX:
        await server.restart()
    async with to(server) as node:
        yield node


@asynccontextmanager
async def to(server: Served) -> AsyncIterator[Node]:
    headers = {"x-api-key": KEY}
    async with httpx2.AsyncClient(
        base_url=server.url, headers=headers, timeout=WAIT_SECONDS, trust_env=False
    ) as http:
        yield Node(http=http)


POINTS = [(case, "store.keyed.after") for case in CASES]
POINTS += [(case, "store.keyed.written") for case in (agent_case, session_case, delete_case)]
POINTS += [(events_case, "store.keyed.before"), (events_case, "store.accept.after")]


@pytest.mark.parametrize(("case", "point"), POINTS)
async def test_the_server_dies_and_the_repeated_request_has_one_effect(
    server: Served, node: Node, case: Callable[[Node, str], Awaitable[Case]], point: str
) -> None:
    name = f"case {next(_numbers)}"
    asked = await case(node, name)
    server.crash_at(point)
    with pytest.raises(httpx2.TransportError):
        await _ask(node, asked, name)
    assert server.has_crashed()
    first = await surely(node, asked, name)
    assert first.status_code == 200, first.text
    was_durable = point.endswith(".after")
    assert ("idempotent-replayed" in first.headers) == was_durable
    again = await surely(node, asked, name)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert await asked.effects() == 1


async def test_a_new_api_key_is_never_made_for_a_key_that_could_not_be_kept(node: Node) -> None:
    before = await node.all("/corral/v1/keys")
    answer = await node.http.post("/corral/v1/keys", json={"name": "k"}, headers={"idempotency-key": "k"})
    assert answer.status_code == 400 and "never stored" in answer.text
    assert await node.all("/corral/v1/keys") == before


# -- two nodes on one database -----------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def servers(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Served]]:
    blob_url = tmp_path_factory.mktemp("blobs").as_uri()  # nodes of one database share their files
    settings = {"database_url": Secret(database_url), "roles": ("api",), "blob_url": blob_url}
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(served(crashing=True, settings=settings)) for _ in range(2)]


@pytest_asyncio.fixture(loop_scope="module")
async def nodes(servers: list[Served]) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(to(server)) for server in servers]


async def test_twins_on_two_nodes_have_one_effect(nodes: list[Node]) -> None:
    for case in CASES:
        name = f"case {next(_numbers)}"
        asked = await case(nodes[0], name)
        answers = await asyncio.gather(*(_ask(nodes[n % 2], asked, name) for n in range(8)))
        assert {answer.status_code for answer in answers} == {200}, case.__name__
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        given = {answer.content for answer in answers}
        given |= {(await surely(node, asked, name)).content for node in nodes}
        assert len(given) == 1, "everybody gets the one answer"
        assert await asked.effects() == 1, case.__name__


async def test_a_node_dies_and_another_one_is_asked_again(servers: list[Served], nodes: list[Node]) -> None:
    for point in ("store.keyed.after", "store.keyed.written", "store.keyed.before"):
        asked = await session_case(nodes[0], f"case {next(_numbers)}")
        servers[0].crash_at(point)
        with pytest.raises(httpx2.TransportError):
            await _ask(nodes[0], asked, point)
        assert servers[0].has_crashed()
        first = await surely(nodes[1], asked, point)
        assert ("idempotent-replayed" in first.headers) == point.endswith(".after")
        again = await surely(nodes[0], asked, point)
        assert again.content == first.content and again.headers["idempotent-replayed"] == "true"
        assert await asked.effects() == 1


async def test_another_body_under_the_key_is_refused_by_every_node(nodes: list[Node]) -> None:
    asked = await events_case(nodes[0], "other")
    await surely(nodes[0], asked, "key")
    other = Case(path=asked.path, body={"events": [text("Something else.")]}, effects=asked.effects)
    for node in nodes:
        answer = await _ask(node, other, "key")
        assert answer.status_code == 409 and answer.headers["x-should-retry"] == "false"
        own = await _ask(node, asked, "key")
        assert own.headers["idempotent-replayed"] == "true"
    assert await asked.effects() == 1
    session = await nodes[1].post(
        asked.path.removesuffix("/events"), {"title": "T"}, **{"idempotency-key": "key"}
    )
    assert session["title"] == "T", "another path is another thing"
