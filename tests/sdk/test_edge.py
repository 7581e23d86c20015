"""What every request meets: keys, names, limits, envelopes, idempotency, our own endpoints."""

import gzip
from concurrent.futures import ThreadPoolExecutor

import anthropic
import httpx2
import pytest
import zstandard

from tests.served import WAIT_SECONDS

MESSAGE = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}


def check_envelope(answer: httpx2.Response, status: int, wire_type: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", wire_type)
    assert body["request_id"] == answer.headers["request-id"]
    assert answer.headers["anthropic-organization-id"]
    assert answer.headers["anthropic-workspace-id"] == "wrkspc_default"
    return body["error"]["message"]


def test_keys(server, client) -> None:
    client.beta.agents.list()
    with server.client(api_key="corral_wrong") as wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.beta.agents.list()
    with httpx2.Client(base_url=server.url, timeout=WAIT_SECONDS) as bare:
        check_envelope(bare.get("/v1/agents"), 401, "authentication_error")
        assert bare.get("/v1/agents", headers={"x-api-key": server.key}).status_code == 200
        assert bare.get("/v1/agents", headers={"authorization": f"bearer {server.key}"}).status_code == 200
        check_envelope(
            bare.get("/v1/agents", headers={"authorization": "Basic eA=="}), 401, "authentication_error"
        )
        check_envelope(bare.get("/v1/nothing"), 401, "authentication_error")


def test_key_life(server, http) -> None:
    made = http.post("/corral/v1/keys", json={"name": "ci"}).json()
    assert made["key"].startswith("corral_")
    shown = [key for key in http.get("/corral/v1/keys").json()["data"] if key["id"] == made["id"]]
    assert shown[0]["hint"] == made["key"][-4:]
    assert "key" not in shown[0]
    with server.http(**{"x-api-key": made["key"]}) as other:
        assert other.get("/v1/agents").status_code == 200
        assert http.post(f"/corral/v1/keys/{made['id']}/revoke").status_code == 200
        check_envelope(other.get("/v1/agents"), 401, "authentication_error")
    keyed = http.post("/corral/v1/keys", json={"name": "ci"}, headers={"idempotency-key": "k"})
    assert "never stored" in check_envelope(keyed, 400, "invalid_request_error")


def test_nul_in_a_path(http) -> None:
    check_envelope(http.get("/v1/sessions/sesn_%00"), 400, "invalid_request_error")


def test_lenient_headers(http) -> None:
    for headers in (
        {},
        {"anthropic-version": "2023-06-01", "anthropic-beta": "something-else-2030-01-01"},
        {"anthropic-workspace-id": "wrkspc_default"},
    ):
        assert http.get("/v1/agents?beta=true", headers=headers).status_code == 200
    refused = http.get("/v1/agents", headers={"anthropic-workspace-id": "wrkspc_other"})
    check_envelope(refused, 403, "permission_error")


def test_names_of_other_sites(http, server) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        check_envelope(http.get("/v1/agents", headers=headers), 403, "permission_error")
    for headers in (
        {"host": f"localhost:{server.port}"},
        {"host": "[::1]:80"},
        {"origin": "http://localhost:3000"},
    ):
        assert http.get("/v1/agents", headers=headers).status_code == 200


def test_routing_errors(http) -> None:
    for path in (
        "/v1/dreams",
        "/v1/deployments",
        "/v1/sessions/sesn_1/resources",
        "/nothing",
        "/v1/agents/",
    ):
        check_envelope(http.get(path), 404, "not_found_error")
    answer = http.put("/v1/agents", json={})
    check_envelope(answer, 405, "invalid_request_error")
    assert "POST" in http.patch("/v1/agents/agent_1").headers["allow"]


def test_bad_bodies(http) -> None:
    def post(body: bytes) -> str:
        return check_envelope(http.post("/v1/agents", content=body), 400, "invalid_request_error")

    assert "not valid JSON" in post(b"{")
    assert "no body" in post(b"")
    assert post(b'{"name": "a", "model": "replay", "nmae": 1}').startswith("nmae: ")
    tool = b'{"type": "custom", "name": "t", "description": "d", "input_schema": %b}'
    body = b'{"name": "a", "model": "replay", "tools": [' + tool + b"]}"
    for schema in (
        b'{"type": "object", "default": NaN}',
        b'{"type": "object", "default": "\\ud800"}',
        b'{"type": "object", "x": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"type": "object", "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"type": "object", "x": %d, "\\u0000": 1e999}' % 10**400,
    ):
        post(body % schema)
    odd = body % (b'{"type": "object", "x": %d, "y": "\\u0001"}' % 10**30)
    assert http.post("/v1/agents", content=odd).status_code == 200
    refused = http.get("/v1/agents?limt=3")
    assert check_envelope(refused, 400, "invalid_request_error").startswith("limt: ")
    assert http.get("/v1/agents?created_at%5Bgte%5D=2026-01-01T00%3A00%3A00Z").status_code == 200


def test_body_limit(http) -> None:
    big = 33 * 1024 * 1024
    check_envelope(http.post("/v1/agents", content=b"x" * big), 413, "request_too_large")

    def chunks():
        for _ in range(33):
            yield b"x" * (1024 * 1024)

    check_envelope(http.post("/v1/agents", content=chunks()), 413, "request_too_large")


def test_health(server) -> None:
    from corral.api.dependencies import Check

    with httpx2.Client(base_url=server.url, timeout=WAIT_SECONDS) as bare:
        assert bare.get("/healthz").json() == {"status": "ok"}
        assert bare.get("/readyz").json()["status"] == "ready"
        server.readiness["hands"] = Check(status="failed", reason="no bwrap")
        try:
            answer = bare.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["checks"]["hands"] == {"status": "failed", "reason": "no bwrap"}
        finally:
            del server.readiness["hands"]
        server.readiness["model"] = Check(status="warning", reason="no key")
        assert bare.get("/readyz").status_code == 200
        del server.readiness["model"]


def test_status_and_openapi(http) -> None:
    assert http.get("/corral/v1/status").json()["role"] == "server"
    spec = http.get("/corral/v1/openapi.json").json()
    assert {"AgentCreate", "SessionCreate", "EventsSend"} <= set(spec["components"]["schemas"])
    body = spec["paths"]["/v1/sessions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/SessionCreate"}
    assert "/v1/sessions/{session_id}/events/stream" in spec["paths"]
    with httpx2.Client(base_url=str(http.base_url), timeout=WAIT_SECONDS) as bare:
        assert bare.get("/corral/v1/openapi.json").json() == spec
        page = bare.get("/corral/v1/docs")
        for path in ("/", "/docs"):
            answer = bare.get(path)
            assert (answer.status_code, answer.headers["location"]) == (307, "/corral/v1/docs")
            assert "without a key" in answer.text
            assert bare.get(path, follow_redirects=True).text == page.text
    assert page.headers["content-type"].startswith("text/html") and "openapi.json" in page.text


def test_models_have_no_dates_and_no_capabilities(client) -> None:
    models = list(client.models.list())
    assert "replay" in [model.id for model in models]
    for model in models:
        assert (model.created_at.timestamp(), model.capabilities) == (0, None)
    assert list(client.models.list(lifecycle=["active"])) == models
    assert list(client.models.list(lifecycle=["retired"])) == []


def test_methods(http, session_id) -> None:
    """HEAD as GET, OPTIONS with what a path takes, the rest refused in the envelope."""
    for path in ("/v1/agents", f"/v1/sessions/{session_id}", "/healthz"):
        got, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert http.head("/v1/agents/agent_none").status_code == 404
    for path in (f"/v1/sessions/{session_id}/events/stream",):
        assert http.head(path).status_code == 405
    answer = http.options("/v1/agents")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    check_envelope(http.options("/v1/nothing"), 404, "not_found_error")
    for method in ("PUT", "TRACE", "PROPFIND"):
        refused = http.request(method, "/v1/agents")
        check_envelope(refused, 405, "invalid_request_error")
        assert refused.headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_answers_and_bodies_travel_packed(server, client, http) -> None:
    for number in range(8):
        client.beta.agents.create(name=f"packed {number}", model="replay", description="d" * 500)
    plain = http.get("/v1/agents", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for coding in ("gzip", "zstd"):
        packed = http.get("/v1/agents", headers={"accept-encoding": coding})
        assert packed.headers["content-encoding"] == coding
        assert int(packed.headers["content-length"]) * 4 < len(plain.content)
        body = packed.content if coding == "gzip" else zstandard.decompress(packed.content)
        assert body == plain.content
    body = gzip.compress(b'{"name": "sent packed", "model": "replay"}')
    made = http.post("/v1/agents", content=body, headers={"content-encoding": "gzip"})
    assert made.json()["name"] == "sent packed"
    refused = http.post("/v1/agents", content=body, headers={"content-encoding": "br"})
    check_envelope(refused, 415, "invalid_request_error")


def test_workspace_needs_idle_and_hands(http, client, session_id) -> None:
    path = f"/corral/v1/sessions/{session_id}/workspace"
    check_envelope(http.put(path, content=b""), 529, "overloaded_error")
    check_envelope(http.get(path), 529, "overloaded_error")
    check_envelope(http.get("/corral/v1/sessions/sesn_none/workspace"), 404, "not_found_error")
    client.beta.sessions.archive(session_id)
    assert "archived" in check_envelope(http.put(path, content=b""), 400, "invalid_request_error")


# -- idempotency --------------------------------------------------------------------------------------


def keyed(key: str) -> dict[str, dict[str, str]]:
    return {"extra_headers": {"Idempotency-Key": key}}


def test_every_post_takes_effect_once(client, agent_id, environment_id) -> None:
    beta = client.beta
    sessions = [
        beta.sessions.with_raw_response.create(
            agent=agent_id, environment_id=environment_id, initial_events=[MESSAGE], **keyed("create-1")
        )
        for _ in range(2)
    ]
    assert sessions[0].http_response.content == sessions[1].http_response.content
    assert "idempotent-replayed" not in sessions[0].headers
    assert sessions[1].headers["idempotent-replayed"] == "true"
    assert sessions[0].headers["request-id"] != sessions[1].headers["request-id"]
    session = sessions[0].parse()
    assert len(list(beta.sessions.list(agent_id=agent_id))) == 1
    sent = [
        beta.sessions.events.with_raw_response.send(session.id, events=[MESSAGE], **keyed("send-1"))
        for _ in range(3)
    ]
    assert len({answer.http_response.content for answer in sent}) == 1
    assert len(list(beta.sessions.events.list(session.id))) == 2

    posts = {
        "update-session": lambda key: beta.sessions.with_raw_response.update(session.id, title="T", **key),
        "create-agent": lambda key: beta.agents.with_raw_response.create(name="i", model="replay", **key),
        "update-agent": lambda key: beta.agents.with_raw_response.update(agent_id, name="N", **key),
        "no-op": lambda key: beta.agents.with_raw_response.update(agent_id, name="N", **key),
        "create-environment": lambda key: beta.environments.with_raw_response.create(name="i", **key),
        "update-environment": lambda key: beta.environments.with_raw_response.update(
            environment_id, name="i", **key
        ),
        "archive-agent": lambda key: beta.agents.with_raw_response.archive(agent_id, **key),
        "archive-environment": lambda key: beta.environments.with_raw_response.archive(
            environment_id, **key
        ),
    }
    for name, post in posts.items():
        first, second = post(keyed(name)), post(keyed(name))
        assert first.http_response.content == second.http_response.content, name
        assert second.headers["idempotent-replayed"] == "true", name


def test_a_delete_takes_effect_once(client, session_id, environment_id) -> None:
    for name, delete in {
        "session": lambda key: client.beta.sessions.with_raw_response.delete(session_id, **key),
        "environment": lambda key: client.beta.environments.with_raw_response.delete(environment_id, **key),
    }.items():
        first, second = delete(keyed("same")), delete(keyed("same"))
        assert first.http_response.content == second.http_response.content, name
        assert second.headers["idempotent-replayed"] == "true", name
        with pytest.raises(anthropic.NotFoundError):
            delete(keyed("another"))


def test_key_with_another_body_or_path(client, session_id) -> None:
    send = client.beta.sessions.events.send
    send(session_id, events=[MESSAGE], **keyed("k"))
    with pytest.raises(anthropic.ConflictError):
        send(session_id, events=[MESSAGE, MESSAGE], **keyed("k"))
    assert len(list(client.beta.sessions.events.list(session_id))) == 1
    session = client.beta.sessions.update(session_id, title="other path", **keyed("k"))
    assert session.title == "other path"
    for bad in ("", "x" * 256, "tab\there"):
        with pytest.raises(anthropic.BadRequestError, match="Idempotency-Key"):
            send(session_id, events=[MESSAGE], **keyed(bad))


def test_refused_requests_are_not_remembered(client, session_id) -> None:
    send = client.beta.sessions.events.send
    with pytest.raises(anthropic.BadRequestError):
        send(session_id, events=[{"type": "user.message", "content": []}], **keyed("r"))
    assert send(session_id, events=[MESSAGE], **keyed("r")).data


def test_twins_at_the_same_time_take_effect_once(server, client, agent_id, environment_id) -> None:
    """Each of them gets the one answer, or a conflict that says to repeat."""
    body = {"agent": agent_id, "environment_id": environment_id}

    def post(_: int) -> httpx2.Response:
        with server.http(**{"idempotency-key": "twins"}) as own:
            return own.post("/v1/sessions", json=body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    (session_id,) = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert [session.id for session in client.beta.sessions.list(agent_id=agent_id)] == [session_id]
    assert post(0).json()["id"] == session_id
