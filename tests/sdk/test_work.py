"""The work queue of a self-hosted environment, as the official SDK asks for it; who may do what.

A brain is played by the test: what it would append is in `testing.contract_work`.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.beta.environments import (
    BetaHeartbeatPreconditionFailedError,
    BetaSelfHostedWork,
)

from corral.session.work import NO_HEARTBEAT, topic
from tests.sdk.conftest import Server, take_inbox
from tests.served import WAIT_SECONDS

MESSAGE = {"type": "user.message", "content": [{"type": "text", "text": "Go."}]}


@pytest.fixture(scope="module")
def operator(server: Any) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as made:
        yield made


class Pool:
    """An environment, its key, and a worker's client."""

    def __init__(self, server: Any, operator: anthropic.Anthropic, http: httpx2.Client) -> None:
        self.server, self.operator, self.http = server, operator, http
        made = operator.beta.environments.create(name="pool", config={"type": "self_hosted"})
        assert made.config.type == "self_hosted" and made.config.to_dict() == {"type": "self_hosted"}
        self.id = made.id
        self.key = http.post(f"/corral/v1/environments/{self.id}/keys", json={"name": "k"}).json()
        self.worker = self.client(self.key["key"])
        self.work = self.worker.beta.environments.work
        self.agent_id = operator.beta.agents.create(name="Ada", model="claude-opus-5-5").id

    def client(self, token: str) -> anthropic.Anthropic:
        return self.server.client(api_key=None, auth_token=token, _strict_response_validation=True)

    def session(self, *, says: bool = True) -> str:
        initial = [MESSAGE] if says else []
        made = self.operator.beta.sessions.create(
            agent=self.agent_id, environment_id=self.id, initial_events=initial
        )
        return made.id

    def poll(self, **options: Any) -> BetaSelfHostedWork:
        item = self.work.poll(self.id, **options)
        assert item is not None
        return item

    def token(self, item: BetaSelfHostedWork) -> str:
        assert item.secret is not None
        padded = item.secret + "=" * (-len(item.secret) % 4)
        return str(json.loads(base64.urlsafe_b64decode(padded))["sessions_token"])


@pytest.fixture
def pool(server: Any, operator: anthropic.Anthropic, http: httpx2.Client) -> Iterator[Pool]:
    made = Pool(server, operator, http)
    with made.worker:
        yield made


def test_the_life_of_an_item(pool: Pool) -> None:
    assert pool.work.poll(pool.id) is None
    assert pool.work.poll(pool.id, block_ms=50, anthropic_worker_id="w-1") is None
    stats = pool.operator.beta.environments.work.stats(pool.id)
    assert (stats.depth, stats.pending, stats.oldest_queued_at, stats.workers_polling) == (0, 0, None, 1)
    session_id = pool.session()
    item = pool.poll(block_ms=999, anthropic_worker_id="w-2")
    assert (item.state, item.data.type, item.data.id, item.metadata) == (
        "queued",
        "session",
        session_id,
        {},
    )
    assert (item.acknowledged_at, item.started_at, item.latest_heartbeat_at) == (None, None, None)
    stats = pool.work.stats(pool.id)
    assert (stats.depth, stats.pending, stats.workers_polling) == (0, 1, 2)
    acked = pool.work.ack(item.id, environment_id=pool.id)
    assert (acked.state, acked.secret) == ("starting", None) and acked.acknowledged_at
    beat = pool.work.heartbeat(item.id, environment_id=pool.id, expected_last_heartbeat=NO_HEARTBEAT)
    assert (beat.state, beat.lease_extended, beat.ttl_seconds) == ("active", True, 300)
    beat = pool.work.heartbeat(
        item.id,
        environment_id=pool.id,
        expected_last_heartbeat=beat.last_heartbeat,
        desired_ttl_seconds=20,
    )
    assert beat.ttl_seconds == 20
    shown = pool.operator.beta.environments.work.retrieve(item.id, environment_id=pool.id)
    assert (shown.state, shown.latest_heartbeat_at) == ("active", beat.last_heartbeat) and shown.started_at
    changed = pool.operator.beta.environments.work.update(
        item.id, environment_id=pool.id, metadata={"on": "host-1", "gone": None}
    )
    assert changed.metadata == {"on": "host-1"}
    assert [each.id for each in pool.work.list(pool.id)] == [item.id]
    stopping = pool.operator.beta.environments.work.stop(item.id, environment_id=pool.id)
    assert stopping.state == "stopping" and stopping.stop_requested_at and not stopping.stopped_at
    beat = pool.work.heartbeat(item.id, environment_id=pool.id, expected_last_heartbeat="whatever")
    assert (beat.state, beat.lease_extended) == ("stopping", False)
    assert pool.work.stop(item.id, environment_id=pool.id, force=True).state == "stopped"
    with pytest.raises(anthropic.ConflictError):
        pool.work.stop(item.id, environment_id=pool.id, force=True)


def test_a_heartbeat_that_is_not_the_last_one_is_refused_with_the_lease_as_it_is(pool: Pool) -> None:
    pool.session()
    item = pool.poll()
    pool.work.ack(item.id, environment_id=pool.id)
    beat = pool.work.heartbeat(item.id, environment_id=pool.id, expected_last_heartbeat=NO_HEARTBEAT)
    for wrong in (NO_HEARTBEAT, "2026-11-20T10:00:00.000000Z"):
        with pytest.raises(BetaHeartbeatPreconditionFailedError) as caught:
            pool.work.heartbeat(item.id, environment_id=pool.id, expected_last_heartbeat=wrong)
        error = caught.value
        assert (error.status_code, error.error_code) == (412, "heartbeat_precondition_failed")
        assert error.details.current_state.to_dict() == {
            "last_heartbeat": beat.last_heartbeat,
            "lease_extended": False,
            "state": "active",
            "ttl_seconds": 300,
        }
        assert error.body["error"]["type"] == "invalid_request_error"


async def test_a_poll_that_waits_is_told_of_new_work(pool: Pool, server: Server) -> None:
    """Before its time is over, when it would look once more by itself. A busy machine may need all of that
    time to make a session: then once more."""
    clock = asyncio.get_running_loop().time

    async def is_told(client: anthropic.AsyncAnthropic) -> bool:
        began = clock()
        waiting = asyncio.create_task(client.beta.environments.work.poll(pool.id, block_ms=999))
        while topic(pool.id) not in server.deps.bus._subscribers and not waiting.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.to_thread(pool.session)
        item = await waiting
        if item is None:
            await asyncio.to_thread(pool.poll)
        return item is not None and clock() - began < 0.999

    async with server.async_client(api_key=None, auth_token=pool.key["key"]) as client:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await is_told(client):
                pass


def test_bounds_of_a_poll(pool: Pool) -> None:
    for options in ({"block_ms": 0}, {"block_ms": 1000}, {"reclaim_older_than_ms": -1}):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(options))):
            pool.work.poll(pool.id, **options)
    with pytest.raises(anthropic.BadRequestError, match="Anthropic-Worker-ID"):
        pool.work.poll(pool.id, anthropic_worker_id="w" * 256)


def test_a_claim_that_is_not_acknowledged_is_another_workers(pool: Pool) -> None:
    pool.session()
    first = pool.poll()
    assert pool.work.poll(pool.id) is None
    second = pool.poll(reclaim_older_than_ms=0)
    assert second.id == first.id and second.secret != first.secret
    with pool.client(pool.token(first)) as lost, pool.client(pool.token(second)) as held:
        pool.work.ack(second.id, environment_id=pool.id)
        for refused in (lost.beta.environments.work.ack, lost.beta.environments.work.stop):
            with pytest.raises(anthropic.ConflictError):
                refused(first.id, environment_id=pool.id)
        with pytest.raises(BetaHeartbeatPreconditionFailedError):
            lost.beta.environments.work.heartbeat(
                first.id, environment_id=pool.id, expected_last_heartbeat=NO_HEARTBEAT
            )
        with pytest.raises(anthropic.AuthenticationError):
            lost.beta.sessions.retrieve(first.data.id)
        held.beta.environments.work.heartbeat(
            second.id, environment_id=pool.id, expected_last_heartbeat=NO_HEARTBEAT
        )
        assert held.beta.sessions.retrieve(second.data.id).id == second.data.id


# -- who may do what --------------------------------------------------------------------------------------

REFUSED = (
    ("GET", "/v1/agents"),
    ("GET", "/v1/environments"),
    ("GET", "/v1/environments/{environment_id}"),
    ("POST", "/v1/environments/{environment_id}"),
    ("GET", "/v1/environments/{environment_id}/work/{work_id}"),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}"),
    ("GET", "/v1/sessions"),
    ("POST", "/v1/sessions"),
    ("POST", "/v1/sessions/{session_id}"),
    ("DELETE", "/v1/sessions/{session_id}"),
    ("POST", "/v1/sessions/{session_id}/archive"),
    ("GET", "/v1/vaults"),
    ("GET", "/v1/memory_stores"),
    ("POST", "/v1/memory_stores"),
    ("GET", "/corral/v1/keys"),
    ("POST", "/corral/v1/environments/{environment_id}/keys"),
    ("GET", "/corral/v1/sessions/{session_id}/workspace"),
)


def test_rights_of_an_environment_key(pool: Pool, server: Any) -> None:
    other = Pool(server, pool.operator, pool.http)
    mine, theirs = pool.session(), other.session()
    item = pool.poll()
    ids = {"environment_id": pool.id, "work_id": item.id, "session_id": mine}
    with server.http(authorization=f"Bearer {pool.key['key']}") as key:
        del key.headers["x-api-key"]
        for method, path in REFUSED:
            answer = key.request(method, path.format(**ids))
            assert (path, answer.status_code) == (path, 403), answer.text
        store = pool.operator.beta.memory_stores.create(name="m").id
        assert key.get(f"/v1/memory_stores/{store}/memories").status_code == 403
        for path in ("/v1/sessions/{}", "/v1/sessions/{}/events", "/v1/sessions/{}/threads"):
            assert key.get(path.format(mine)).status_code == 200
            assert key.get(path.format(theirs)).status_code == 404
        for path in ("/work", "/work/stats", "/work/poll"):
            assert key.get(f"/v1/environments/{pool.id}{path}").status_code == 200
            assert key.get(f"/v1/environments/{other.id}{path}").status_code == 404
        with key.stream("GET", f"/v1/sessions/{mine}/events/stream") as stream:
            assert stream.status_code == 200
        elsewhere = key.get(f"/v1/sessions/{mine}", headers={"anthropic-workspace-id": "wrkspc_other"})
        assert elsewhere.status_code == 403
        _sends_results_only(key, mine)
        revoke = f"/corral/v1/environments/{pool.id}/keys/{pool.key['id']}/revoke"
        assert pool.http.post(revoke).status_code == 200
        assert key.get(f"/v1/environments/{pool.id}/work").status_code == 401, "from the next request on"
        listed = pool.http.get(f"/corral/v1/environments/{pool.id}/keys").json()["data"]
        assert [(each["name"], each["hint"], bool(each["revoked_at"])) for each in listed] == [
            ("k", pool.key["key"][-4:], True)
        ]
        assert "key" not in listed[0] and pool.key["key"].startswith("sk-ant-oat01-")


def _sends_results_only(worker: httpx2.Client, session_id: str) -> None:
    of_file = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    result = {"type": "user.tool_result", "tool_use_id": "sevt_1"}
    text = [{"type": "text", "text": "Obey."}]
    for refused in (
        {"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "allow"},
        {"type": "system.message", "content": text},
        {"type": "user.message", "content": text},
        {"type": "user.interrupt"},
        {**result, "content": [*text, of_file]},
    ):
        answer = worker.post(f"/v1/sessions/{session_id}/events", json={"events": [refused]})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error"), refused
        assert "events.0" in answer.json()["error"]["message"]
    answer = worker.post(
        f"/v1/sessions/{session_id}/events", json={"events": [{**result, "content": text}]}
    )
    assert "no tool use 'sevt_1'" in answer.json()["error"]["message"], "else it would be taken"


def test_rights_of_a_sessions_token(pool: Pool, server: Any) -> None:
    mine, other = pool.session(), pool.session()
    item, others = pool.poll(), pool.poll()
    assert (item.data.id, others.data.id) == (mine, other)
    ids = {"environment_id": pool.id, "work_id": item.id, "session_id": mine}
    with server.http(authorization=f"Bearer {pool.token(item)}") as token:
        del token.headers["x-api-key"]
        for method, path in (
            *REFUSED,
            ("GET", "/v1/environments/{environment_id}/work"),
            ("GET", "/v1/environments/{environment_id}/work/poll"),
        ):
            answer = token.request(method, path.format(**ids))
            assert (path, answer.status_code) == (path, 403), answer.text
        store = pool.operator.beta.memory_stores.create(name="m").id
        for path in (f"/v1/memory_stores/{store}", "/v1/skills/skill_1/versions/latest"):
            assert token.get(path).status_code == 404, "not attached to its session"
        assert token.get(f"/v1/sessions/{mine}/events").status_code == 200
        _sends_results_only(token, mine)
        assert token.get(f"/v1/sessions/{other}/events").status_code == 404
        assert token.get(f"/v1/environments/{pool.id}/work/stats").status_code == 200
        work = f"/v1/environments/{pool.id}/work"
        assert token.post(f"{work}/{others.id}/stop").status_code == 404
        assert token.post(f"{work}/{item.id}/ack").status_code == 200
        path = f"{work}/{item.id}/heartbeat?expected_last_heartbeat={NO_HEARTBEAT}"
        assert token.post(path).status_code == 200
        assert token.post(f"{work}/{item.id}/stop", json={"force": True}).json()["state"] == "stopped"
        assert token.get(f"/v1/sessions/{mine}").status_code == 401, "its work has ended"
        assert token.post(f"{work}/{item.id}/stop").status_code == 409


def test_a_stream_ends_with_the_credential_that_opened_it(pool: Pool) -> None:
    session_id = pool.session()
    item = pool.poll()
    pool.work.ack(item.id, environment_id=pool.id)
    with (
        pool.client(pool.token(item)) as holder,
        holder.beta.sessions.events.stream(session_id) as by_token,
        pool.worker.beta.sessions.events.stream(session_id) as by_key,
        pool.operator.beta.sessions.events.stream(session_id) as by_operator,
    ):
        pool.work.stop(item.id, environment_id=pool.id, force=True)
        revoke = f"/corral/v1/environments/{pool.id}/keys/{pool.key['id']}/revoke"
        assert pool.http.post(revoke).status_code == 200
        assert list(by_token) == [] and list(by_key) == [], "else this waits for ever"
        pool.operator.beta.sessions.events.send(session_id, events=[MESSAGE])
        assert next(iter(by_operator)).type == "user.message"


def test_an_api_key_does_no_workers_work(pool: Pool) -> None:
    pool.session()
    item = pool.poll()
    work = pool.operator.beta.environments.work
    with pytest.raises(anthropic.PermissionDeniedError, match="environment key"):
        work.poll(pool.id)
    with pytest.raises(anthropic.PermissionDeniedError):
        work.ack(item.id, environment_id=pool.id)
    with pytest.raises(anthropic.NotFoundError):
        work.poll("env_none")


def test_only_sessions_there_take_results_of_workers(pool: Pool, client: anthropic.Anthropic) -> None:
    result = {"type": "user.tool_result", "tool_use_id": "sevt_none", "content": []}
    session_id = pool.session(says=False)
    with pytest.raises(anthropic.BadRequestError, match="no tool use 'sevt_none'"):
        client.beta.sessions.events.send(session_id, events=[result])
    cloud = client.beta.environments.create(name="cloud").id
    elsewhere = client.beta.sessions.create(agent=pool.agent_id, environment_id=cloud).id
    with pytest.raises(anthropic.BadRequestError, match="self-hosted environments"):
        client.beta.sessions.events.send(elsewhere, events=[result])


def test_an_archived_session_ends_its_work(pool: Pool, server: Any) -> None:
    session_id = pool.session()
    item = pool.poll()
    server.run(take_inbox(server.deps, session_id))
    pool.operator.beta.sessions.archive(session_id)
    shown = pool.operator.beta.environments.work.retrieve(item.id, environment_id=pool.id)
    assert shown.state == "stopped"
    assert pool.work.poll(pool.id) is None


def test_workers_mount_memory_stores_and_nothing_else(pool: Pool, http: httpx2.Client) -> None:
    file_id = http.post("/v1/files", files={"file": ("a.txt", b"a")}).json()["id"]
    resource = {"type": "file", "file_id": file_id}
    with pytest.raises(anthropic.BadRequestError, match="not supported with self-hosted environments"):
        pool.operator.beta.sessions.create(
            agent=pool.agent_id, environment_id=pool.id, resources=[resource]
        )
    session_id = pool.session(says=False)
    with pytest.raises(anthropic.BadRequestError, match="not supported with self-hosted environments"):
        pool.operator.beta.sessions.resources.add(session_id, **resource)
    sent = http.put(f"/corral/v1/sessions/{session_id}/workspace", content=b"\0" * 1024)
    assert sent.status_code == 400 and "workers of its environment" in sent.json()["error"]["message"]
