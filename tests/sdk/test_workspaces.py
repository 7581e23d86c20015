"""Nobody reaches into another workspace: every operation of the OpenAPI document, with somebody else's ids.

An operation that is new here fails this test until it is said what a good request of it looks like: which
object its path names (`world`), its body (`BODIES`), or why it names nobody's (`NAMES_NOTHING`).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx2
import pytest

from corral.catalog.audit import Begun, Ended
from corral.kernel.ids import CredentialId, SessionId
from tests.sdk.conftest import take_inbox

TEXT = {"type": "text", "text": "hello"}
CREDENTIAL = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://mcp.test/"}

BODIES: Mapping[str, Any] = {
    "POST /v1/agents/{agent_id}": {"description": "changed"},
    "POST /v1/environments/{environment_id}": {"description": "changed"},
    "POST /v1/sessions": {"agent": "{agent_id}", "environment_id": "{environment_id}"},
    "POST /v1/sessions/{session_id}": {"title": "changed"},
    "POST /v1/sessions/{session_id}/resources": {"type": "file", "file_id": "{file_id}"},
    "POST /v1/sessions/{session_id}/resources/{resource_id}": {"authorization_token": "t"},
    "POST /v1/sessions/{session_id}/events": {"events": [{"type": "user.message", "content": [TEXT]}]},
    "POST /v1/memory_stores/{memory_store_id}": {"description": "changed"},
    "POST /v1/memory_stores/{memory_store_id}/memories": {"path": "/b", "content": "b"},
    "POST /v1/memory_stores/{memory_store_id}/memories/{memory_id}": {"content": "changed"},
    "POST /v1/vaults/{vault_id}": {"display_name": "changed"},
    "POST /v1/vaults/{vault_id}/credentials": {
        "display_name": "b",
        "auth": {**CREDENTIAL, "mcp_server_url": "https://mcp.test/b"},
    },
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}": {"display_name": "changed"},
    "POST /corral/v1/environments/{environment_id}/keys": {"name": "pool"},
    "POST /corral/v1/environments/{environment_id}/sandbox": {"processes": 64},
    "POST /v1/environments/{environment_id}/work/{work_id}": {"metadata": {"on": "host-1"}},
    "POST /corral/v1/kill": {"session_id": "{session_id}", "reason": "test"},
}
"""`{name}`: an id of the world."""

SKILL = {"files[]": ("s/SKILL.md", b"---\nname: s\ndescription: d\n---\n")}
FORMS: Mapping[str, Any] = {"POST /v1/skills/{skill_id}/versions": SKILL}
"""Of operations that take no JSON."""

NAMES_NOTHING = {
    "POST /v1/agents",
    "POST /v1/environments",
    "POST /v1/files",
    "POST /v1/skills",
    "POST /corral/v1/skills",
    "POST /v1/memory_stores",
    "POST /v1/vaults",
    "POST /v1/messages/count_tokens",
    "GET /v1/models",  # the same for everybody
    "GET /v1/models/{model_id}",
    "POST /corral/v1/keys",
    "POST /corral/v1/workspaces",
    "POST /corral/v1/vault/rotate_key",
    "GET /corral/v1/vault/keys",
    "GET /corral/v1/status",
    "GET /corral/v1/workspaces",
    "GET /corral/v1/sandboxes",  # asks hosts: test_workspaces_of_sandboxes
    "GET /corral/v1/docs",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}
"""They make something of the caller's, or are about the server."""

FOR_OPERATORS = re.compile(r"\w+ /corral/v1/workspaces/|POST /corral/v1/environments/.*/sandbox")
"""Refused to everybody else whatever they name."""

OWNER_GETS: Mapping[str, set[int]] = {
    # no hands in these tests
    "GET /corral/v1/sessions/{session_id}/workspace": {529},
    "PUT /corral/v1/sessions/{session_id}/workspace": {529},
    "POST /corral/v1/sandboxes/{session_id}/evict": {404},  # in words of its own
    "DELETE /v1/environments/{environment_id}": {409},  # a session is on it
    # an upload, which is a file and no repository
    "GET /v1/files/{file_id}/content": {400},
    "POST /v1/sessions/{session_id}/resources/{resource_id}": {400},
    # for workers alone, see test_work
    "GET /v1/environments/{environment_id}/work/poll": {403},
    "POST /v1/environments/{environment_id}/work/{work_id}/ack": {403},
    "POST /v1/environments/{environment_id}/work/{work_id}/heartbeat": {403},
    # only a primary thread, only bearer tokens
    "POST /v1/sessions/{session_id}/threads/{thread_id}/archive": {400},
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate": {400},
    # the head of a memory is not redacted
    "POST /v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact": {200, 400},
}
"""Where the owner's good request is not answered by 200."""


class Someone:
    """A key of a workspace."""

    def __init__(self, server: Any, operator: httpx2.Client, workspace_id: str, role: str) -> None:
        key = {"name": role, "role": role, "workspace_id": workspace_id}
        made, other = (operator.post("/corral/v1/keys", json=key).json() for _ in range(2))
        self.key_id, self.other_key_id, self.workspace_id = made["id"], other["id"], workspace_id
        self.http = server.http(**{"x-api-key": made["key"]})

    def ask(self, operation: str, ids: Mapping[str, str]) -> tuple[int, Any]:
        method, path = filled(operation, ids).split(" ")
        body = BODIES.get(operation)
        sent = None if body is None else json.loads(filled(json.dumps(body), ids))
        with self.http.stream(method, path, json=sent, files=FORMS.get(operation)) as answer:
            if answer.headers["content-type"].startswith("text/event-stream"):
                return answer.status_code, None
            answer.read()
        assert answer.headers["anthropic-workspace-id"] == self.workspace_id
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json() if is_json else answer.text


def filled(text: str, ids: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids[name[1]], text)


def world(owner: Someone) -> dict[str, str]:
    """One of everything, by the names that paths have for it."""
    http = owner.http

    def made(path: str, body: Any) -> str:
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    ids = {
        "agent_id": made("/v1/agents", {"name": "a", "model": "claude-opus-5-5"}),
        "environment_id": made("/v1/environments", {"name": "e", "config": {"type": "self_hosted"}}),
        "memory_store_id": made("/v1/memory_stores", {"name": "m"}),
        "vault_id": made("/v1/vaults", {"display_name": "v"}),
        "api_key_id": owner.other_key_id,
        "workspace_id": owner.workspace_id,
    }
    cloud_id = made("/v1/environments", {"name": "cloud"})
    ids["session_id"] = made("/v1/sessions", {"agent": ids["agent_id"], "environment_id": cloud_id})
    upload = http.post("/v1/files", files={"file": ("a.txt", b"theirs")})
    ids["file_id"] = upload.json()["id"]
    made_skill = http.post("/v1/skills", files=SKILL).json()
    ids["skill_id"], ids["version"] = made_skill["id"], made_skill["latest_version_id"]
    http.post("/v1/skills/" + ids["skill_id"] + "/versions", files=SKILL)  # the only one cannot go
    path = f"/v1/sessions/{ids['session_id']}"
    mount = {"type": "file", "file_id": ids["file_id"], "mount_path": "/a"}
    ids["resource_id"] = made(f"{path}/resources", mount)
    path = f"/corral/v1/environments/{ids['environment_id']}/keys"
    ids["environment_key_id"] = made(path, {"name": "k"})
    of_worker = {"agent": ids["agent_id"], "environment_id": ids["environment_id"]}
    made("/v1/sessions", of_worker | {"initial_events": [{"type": "user.message", "content": [TEXT]}]})
    path = f"/v1/environments/{ids['environment_id']}/work"
    ids["work_id"] = http.get(path).json()["data"][0]["id"]
    path = f"/v1/sessions/{ids['session_id']}/threads"
    ids["thread_id"] = http.get(path).json()["data"][0]["id"]
    path = f"/v1/memory_stores/{ids['memory_store_id']}"
    ids["memory_id"] = made(f"{path}/memories", {"path": "/a", "content": "a"})
    ids["memory_version_id"] = http.get(f"{path}/memory_versions").json()["data"][0]["id"]
    path = f"/v1/vaults/{ids['vault_id']}/credentials"
    ids["credential_id"] = made(path, {"display_name": "c", "auth": CREDENTIAL})
    installed = http.post("/corral/v1/skills", files=SKILL, data={"prebuilt": "docx"})
    ids["prebuilt"] = installed.json().get("id", "docx")  # admins alone can
    return ids  # short ones last: an id may hold them


def operations(http: httpx2.Client) -> list[str]:
    """`METHOD /path/{id}`, what removes things last, and of that the parts before the whole."""
    paths = http.get("/corral/v1/openapi.json").json()["paths"]
    found = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]

    def lateness(operation: str) -> tuple[bool, int]:
        ends = operation.startswith("DELETE") or operation.endswith(("/archive", "/revoke"))
        return ends, -operation.count("/") if ends else 0

    return sorted(found, key=lateness)


def holds(schema: Any, value: Any, spec: Any) -> bool:
    """Whether a value is as its schema says: of JSON Schema what our answers use."""
    if "$ref" in schema:
        return holds(spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value, spec)
    if "const" in schema:
        return bool(value == schema["const"])
    kinds = schema.get("type", [])
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, types[kind]) for kind in kinds):
        return False
    if isinstance(value, list):
        return all(holds(schema.get("items", {}), each, spec) for each in value)
    if isinstance(value, dict):
        return set(schema.get("required", ())) <= set(value) and all(
            holds(schema.get("properties", {}).get(name, {}), each, spec) for name, each in value.items()
        )
    return True


def is_as_documented(spec: Any, operation: str, status: int, answer: Any) -> bool:
    method, path = operation.split(" ")
    response = spec["paths"][path][method.lower()]["responses"][str(status)]
    if "$ref" in response:
        response = spec["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response["content"].get("application/json")
    return content is None or holds(content["schema"], answer, spec)


def filters(spec: Any, operation: str, ids: Mapping[str, str]) -> list[str]:
    """The queries of a list that name an object: `agent_id=agent_...`."""
    named = {**ids, "scope_id": ids["session_id"], "ids[]": ids["file_id"]}
    method, path = operation.split(" ")
    parameters = spec["paths"][path][method.lower()].get("parameters", ())
    queries = [each["name"] for each in parameters if each.get("in") == "query"]
    return [f"{name}={named[name]}" for name in queries if name in named]


def is_aimed(operation: str) -> bool:
    """Whether it names an object."""
    if operation in NAMES_NOTHING:
        return False
    return "{" in operation or '"{' in json.dumps(BODIES.get(operation))


def seen(owner: Someone, found: list[str], ids: Mapping[str, str]) -> list[Any]:
    """Everything that the owner can read, without the times that run and the names of requests."""
    reads = [each for each in found if each.startswith("GET /v1/") and not each.endswith("/stream")]
    reads = [each for each in reads if each not in NAMES_NOTHING]
    text = json.dumps([owner.ask(operation, ids) for operation in reads])
    return [re.sub(r'"duration_seconds": [\d.]+|"request_id": "\w+"', "", text)]


@pytest.fixture(scope="module")
def operator(server: Any) -> Iterator[httpx2.Client]:
    with server.http() as made:
        yield made


@pytest.fixture
def someone(server: Any, operator: httpx2.Client) -> Iterator[Callable[..., Someone]]:
    with ExitStack() as stack:

        def make(workspace_id: str, role: str = "admin") -> Someone:
            made = Someone(server, operator, workspace_id, role)
            stack.enter_context(made.http)
            return made

        yield make


def workspace(operator: httpx2.Client, name: str) -> str:
    return str(operator.post("/corral/v1/workspaces", json={"name": name}).json()["id"])


def test_every_operation_keeps_workspaces_apart(server, operator, someone) -> None:
    owner, other = (someone(workspace(operator, name)) for name in ("owner", "other"))
    found, ids = operations(operator), world(owner)
    asked_for = Begun(
        entry_id="audit_theirs", session_id=SessionId(ids["session_id"]), created_at=datetime.now(UTC),
        host="example.com", port=443, method="CONNECT", decision="allowed",
        credential_id=CredentialId(ids["credential_id"]),
    )  # fmt: skip
    server.run(server.deps.audit.add([asked_for], [Ended(entry_id="audit_theirs", seconds=0.5)]))
    unknown = [each for each in found if not is_aimed(each) and each not in NAMES_NOTHING]
    lists = [each for each in unknown if each.startswith("GET ")]
    assert unknown == lists, "say what a good request of these is: see the top of this file"

    spec = operator.get("/corral/v1/openapi.json").json()
    before, refusals = seen(owner, found, ids), dict[str, str]()
    aimed = [each for each in found if is_aimed(each) and each not in NAMES_NOTHING]
    assert len(aimed) > 40
    nobody = {name: id_[:-4] + "none" for name, id_ in ids.items()}
    for operation in aimed:
        status, answer = other.ask(operation, ids)
        expected = 403 if FOR_OPERATORS.match(operation) else 404
        assert (operation, status) == (operation, expected), answer
        told, of_nobody = answer["error"]["message"], other.ask(operation, nobody)[1]["error"]["message"]
        for name in nobody:
            told, of_nobody = told.replace(ids[name], ""), of_nobody.replace(nobody[name], "")
        assert told == of_nobody, "no more is said than of an id that nobody ever had"
        refusals[operation] = answer["error"]["message"]
        assert is_as_documented(spec, operation, status, answer)
    for operation in lists:
        status, answer = other.ask(operation, ids)
        assert status == 200
        assert not [id_ for id_ in ids.values() if id_ in json.dumps(answer)], operation
        for name in filters(spec, operation, ids):
            answer = other.http.get(f"{operation[4:]}?{name}").json()
            assert not answer.get("data"), f"{operation} shows to others what {name} names"
    assert seen(owner, found, ids) == before, "and nothing has changed"

    filtered = [name for operation in lists for name in filters(spec, operation, ids)]
    assert len(filtered) > 3

    # The same requests are good ones: of the owner they are taken.
    of_nothing = ("memory_store_id=", "api_key_id=")  # no session has that store, or was made with that key
    for operation in lists:
        status, answer = owner.ask(operation, ids)
        assert is_as_documented(spec, operation, status, answer), (operation, answer)
        assert [id_ for id_ in ids.values() if id_ in json.dumps(answer)], operation
        for name in filters(spec, operation, ids):
            answer = owner.http.get(f"{operation[4:]}?{name}").json()
            assert answer["data"] or name.startswith(of_nothing), f"{operation} {name}"
    for operation in aimed:
        if not FOR_OPERATORS.match(operation):
            if operation.endswith("{session_id}/archive"):
                server.run(take_inbox(server.deps, ids["session_id"]))  # else it is at work
            status, answer = owner.ask(operation, ids)
            assert status in OWNER_GETS.get(operation, {200}), (operation, status, answer)
            assert is_as_documented(spec, operation, status, answer), (operation, answer)
            assert status != 404 or answer["error"]["message"] != refusals[operation]


def test_an_operator_acts_in_one_workspace_at_a_time(operator, someone) -> None:
    owner = someone(workspace(operator, "owner"))
    ids = world(owner)
    path = f"/v1/sessions/{ids['session_id']}"
    assert operator.get(path).status_code == 404
    there = {"anthropic-workspace-id": owner.workspace_id}
    answer = operator.get(path, headers=there)
    assert (answer.status_code, answer.headers["anthropic-workspace-id"]) == (200, owner.workspace_id)
    refused = operator.get(path, headers={"anthropic-workspace-id": "wrkspc_none"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert owner.http.get(path, headers=there).status_code == 200
    for elsewhere in ("wrkspc_default", workspace(operator, "other")):
        refused = owner.http.get(path, headers={"anthropic-workspace-id": elsewhere})
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    listed = operator.get("/corral/v1/keys").json()["data"]
    assert owner.key_id in [key["id"] for key in listed]
    listed = owner.http.get("/corral/v1/keys").json()["data"]
    assert [key["id"] for key in listed] == [owner.key_id, owner.other_key_id]
    once = {"idempotency-key": "one"}
    first = operator.post("/v1/agents", json={"name": "a", "model": "replay"}, headers=once).json()
    second = operator.post("/v1/agents", json={"name": "a", "model": "replay"}, headers=once | there).json()
    assert first["id"] != second["id"], "a key of idempotency is of a workspace"
    assert operator.post("/corral/v1/kill", json={"all": True, "reason": "test"}).status_code == 200


def test_the_life_of_a_workspace(operator, someone) -> None:
    made = operator.post("/corral/v1/workspaces", json={"name": "brief"}).json()
    assert (made["type"], made["archived_at"]) == ("workspace", None)
    assert made in operator.get("/corral/v1/workspaces").json()["data"]
    inside = someone(made["id"])
    assert inside.http.get("/v1/agents").status_code == 200
    path = f"/corral/v1/workspaces/{made['id']}"
    archived = operator.post(f"{path}/archive").json()
    assert archived["archived_at"] and operator.get(path).json() == archived
    assert inside.http.get("/v1/agents").status_code == 401
    late = operator.post("/corral/v1/keys", json={"name": "late", "workspace_id": made["id"]})
    assert late.status_code == 409
    assert operator.post("/corral/v1/workspaces/wrkspc_default/archive").status_code == 400
    assert operator.get("/corral/v1/workspaces/wrkspc_none").status_code == 404
    assert operator.get("/corral/v1/workspaces/wrkspc_default").json()["name"] == "Default"


def test_roles(operator, someone) -> None:
    """What each may do; sessions of a user are nobody else's but the workspace's developers'."""
    place = workspace(operator, "roles")
    admin, developer, user, other = (
        someone(place, role) for role in ("admin", "developer", "user", "user")
    )
    ids = world(developer)
    session = {"agent": ids["agent_id"], "environment_id": ids["environment_id"]}
    made = user.http.post("/v1/sessions", json=session).json()
    path = f"/v1/sessions/{made['id']}"
    for reader, status in ((user, 200), (developer, 200), (admin, 200), (other, 404)):
        for tail in ("", "/events", "/threads"):
            assert reader.http.get(path + tail).status_code == status
        listed = [each["id"] for each in reader.http.get("/v1/sessions").json()["data"]]
        assert (made["id"] in listed) == (status == 200)
    assert user.http.get(f"/v1/sessions/{ids['session_id']}").status_code == 404
    assert other.http.delete(path).status_code == 404
    agent = {"name": "b", "model": "replay"}
    for key, method, where, body, status in (
        (user, "POST", "/v1/agents", agent, 403),
        (user, "GET", f"/v1/agents/{ids['agent_id']}", None, 200),
        (user, "DELETE", f"/v1/environments/{ids['environment_id']}", None, 403),
        (user, "GET", "/corral/v1/keys", None, 403),
        (user, "POST", "/corral/v1/kill", {"all": True, "reason": "r"}, 403),
        (developer, "POST", "/v1/agents", agent, 200),
        (developer, "GET", "/corral/v1/keys", None, 403),
        (developer, "GET", "/corral/v1/sandboxes", None, 403),
        (admin, "POST", "/corral/v1/keys", {"name": "k", "role": "user"}, 200),
        (admin, "POST", "/corral/v1/keys", {"name": "k", "workspace_id": "wrkspc_default"}, 403),
        (admin, "POST", "/corral/v1/kill", {"all": True, "reason": "r"}, 200),
        (admin, "GET", "/corral/v1/status", None, 403),
        (admin, "POST", "/corral/v1/vault/rotate_key", None, 403),
        (user, "DELETE", path, None, 200),
    ):
        answer = key.http.request(method, where, json=body)
        assert (method, where, answer.status_code) == (method, where, status)
        if status == 403:
            assert answer.json()["error"]["type"] == "permission_error"


async def test_official_clients_in_a_workspace(server, operator, someone) -> None:
    """Sync and async: what one makes there the other finds, and nobody else."""
    place = someone(workspace(operator, "clients"), "developer")
    options = {
        "api_key": place.http.headers["x-api-key"],
        "default_headers": {"anthropic-workspace-id": place.workspace_id},
        "_strict_response_validation": True,
    }
    with server.client(**options) as client:
        agent = client.beta.agents.create(name="a", model="claude-opus-5-5")
        environment = client.beta.environments.create(name="e")
        session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    async with server.async_client(**options) as client:
        assert [each.id async for each in client.beta.agents.list()] == [agent.id]
        assert [each.id async for each in client.beta.sessions.list()] == [session.id]
    async with server.async_client(_strict_response_validation=True) as client:
        assert session.id not in [each.id async for each in client.beta.sessions.list()]
        with pytest.raises(anthropic.NotFoundError):
            await client.beta.sessions.retrieve(session.id)
        with pytest.raises(anthropic.NotFoundError):
            await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    with server.client(**{**options, "api_key": server.key}) as client:  # an operator, there
        assert client.beta.sessions.retrieve(session.id).id == session.id
    wrong = {"anthropic-workspace-id": "wrkspc_default"}
    with (
        server.client(**{**options, "default_headers": wrong}) as client,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        client.beta.agents.list()
