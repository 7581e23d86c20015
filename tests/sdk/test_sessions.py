"""Sessions and threads through the official SDK. No brain runs here: nothing takes the inbox."""

import anthropic
import pytest

TEXT = [{"type": "text", "text": "hello"}]
MESSAGE = {"type": "user.message", "content": TEXT}
FIELDS = {
    "id",
    "type",
    "status",
    "title",
    "agent",
    "environment_id",
    "deployment_id",
    "vault_ids",
    "resources",
    "metadata",
    "budget",
    "outcome_evaluations",
    "usage",
    "stats",
    "created_at",
    "updated_at",
    "archived_at",
}


def test_session_has_every_field(client, agent_id, environment_id) -> None:
    raw = client.beta.sessions.with_raw_response.create(
        agent=agent_id, environment_id=environment_id, title="T", metadata={"a": "1"}
    )
    assert set(raw.http_response.json()) == FIELDS
    made = raw.parse()
    assert made.id.startswith("sesn_")
    assert (made.status, made.title, made.metadata) == ("idle", "T", {"a": "1"})
    assert (made.agent.id, made.agent.version, made.agent.name) == (agent_id, 1, "Ada")
    assert (made.budget, made.deployment_id, made.archived_at) == (None, None, None)
    assert (made.vault_ids, made.resources, made.outcome_evaluations) == ([], [], [])
    assert made.usage.cache_creation is None
    assert (made.usage.list_cost.amount, made.usage.list_cost.currency) == ("0", "USD")
    assert (made.usage.input_tokens, made.usage.server_tool_use.web_search_requests) == (0, 0)
    assert made.stats.active_seconds == 0
    assert client.beta.sessions.retrieve(made.id).agent == made.agent


def test_agent_choices(client, environment_id) -> None:
    agents, sessions = client.beta.agents, client.beta.sessions
    agent = agents.create(
        name="v1", model="claude-opus-5-5", system="S", tools=[{"type": "agent_toolset_20260401"}]
    )
    agents.update(agent.id, name="v2")

    def create(**choice):
        return sessions.create(agent={"id": agent.id, **choice}, environment_id=environment_id).agent

    assert create(type="agent").name == "v2"
    assert create(type="agent", version=1).name == "v1"
    over = create(type="agent_with_overrides", model="replay", system=None, tools=[])
    assert (over.name, over.model.id, over.system, over.tools) == ("v2", "replay", None, [])
    assert create(type="agent_with_overrides").tools == agent.tools
    for choice, code in (({"model": None}, "agent_model_required"),):
        with pytest.raises(anthropic.BadRequestError) as refused:
            create(type="agent_with_overrides", **choice)
        assert refused.value.body["error"]["details"]["error_code"] == code
    with pytest.raises(anthropic.NotFoundError):
        create(type="agent", version=3)
    agents.archive(agent.id)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        create(type="agent")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"resources": [{"type": "github_repository", "url": "https://git.example.com/o/r"}]},
            "resources.0.url: repositories of 'git.example.com' may not be cloned here",
        ),
        ({"budget": {"type": "limit", "max_list_cost": {"amount": "01", "currency": "USD"}}}, "budget"),
        (
            {"initial_events": [{"type": "user.define_outcome", "description": "d", "rubric": {}}]},
            "initial_events.0.type",
        ),
        ({"initial_events": [MESSAGE] * 51}, "initial_events"),
        (
            {"initial_events": [MESSAGE, {"type": "user.message", "content": []}]},
            "initial_events.1.content",
        ),
    ],
)
def test_refused_sessions(client, agent_id, environment_id, fields, named) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.sessions.create(agent=agent_id, environment_id=environment_id, **fields)
    assert refused.value.body["error"]["message"].startswith(named)
    assert list(client.beta.sessions.list(agent_id=agent_id)) == []


def test_limited_environments_are_kept(client, agent_id) -> None:
    for networking in ({}, {"allow_package_managers": True}, {"allowed_hosts": ["a.example"]}):
        made = client.beta.environments.create(
            name="e", config={"type": "cloud", "networking": {"type": "limited", **networking}}
        )
        assert client.beta.sessions.create(agent=agent_id, environment_id=made.id).status == "idle"


def test_initial_events_start_it(client, agent_id, environment_id) -> None:
    made = client.beta.sessions.create(
        agent=agent_id, environment_id=environment_id, initial_events=[MESSAGE, MESSAGE]
    )
    assert made.status == "running"
    events = list(client.beta.sessions.events.list(made.id))
    assert [(event.type, event.processed_at) for event in events] == [("user.message", None)] * 2
    for refused in (client.beta.sessions.archive, client.beta.sessions.delete):
        with pytest.raises(anthropic.BadRequestError):
            refused(made.id)
    empty = client.beta.sessions.create(agent=agent_id, environment_id=environment_id, initial_events=[])
    assert empty.status == "idle"


def test_update(client, session_id) -> None:
    sessions = client.beta.sessions
    assert sessions.update(session_id, title="A", metadata={"x": "1", "y": "2"}).title == "A"
    changed = sessions.update(session_id, metadata={"x": None})
    assert (changed.title, changed.metadata) == ("A", {"y": "2"})
    tools = [
        {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}
    ]
    changed = sessions.update(session_id, agent={"tools": tools})
    assert changed.agent.tools[0].default_config.permission_policy.type == "always_ask"
    assert sessions.update(session_id, title=None).title is None
    updates = [event for event in sessions.events.list(session_id) if event.type == "session.updated"]
    assert [sorted(event.model_fields_set - {"id", "type", "processed_at"}) for event in updates] == [
        ["metadata", "title"],
        ["metadata"],
        ["agent"],
        ["title"],
    ]
    for fields, named in (
        ({"vault_ids": []}, "vault_ids"),
        ({"budget": {"type": "limit"}}, "budget"),
        ({"extra_body": {"agent": {"system": "x"}}}, "agent.system"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=named):
            sessions.update(session_id, **fields)


def test_archive_and_delete(client, session_id) -> None:
    sessions = client.beta.sessions
    archived = sessions.archive(session_id)
    assert (archived.status, archived.archived_at is None) == ("terminated", False)
    frozen = sessions.retrieve(session_id).stats.duration_seconds
    assert sessions.archive(session_id).stats.duration_seconds == frozen
    with pytest.raises(anthropic.ConflictError):
        sessions.events.send(session_id, events=[MESSAGE])
    assert sessions.delete(session_id).type == "session_deleted"
    for call in (sessions.retrieve, sessions.delete, sessions.archive, sessions.events.list):
        with pytest.raises(anthropic.NotFoundError):
            call(session_id)


def test_list_pages_both_ways(client, environment_id) -> None:
    agent = client.beta.agents.create(name="pages", model="replay").id
    sessions = client.beta.sessions
    ids = [sessions.create(agent=agent, environment_id=environment_id).id for _ in range(5)]
    newest = ids[::-1]
    first = sessions.list(agent_id=agent, limit=2)
    assert (first.prev_page, [item.id for item in first.data]) == (None, newest[:2])
    second = first.get_next_page()
    assert [item.id for item in second.data] == newest[2:4]
    third = second.get_next_page()
    assert ([item.id for item in third.data], third.next_page) == (newest[4:], None)
    back = sessions.list(agent_id=agent, limit=2, page=third.prev_page)
    assert [item.id for item in back.data] == newest[2:4]
    assert [item.id for item in sessions.list(agent_id=agent, limit=2, page=back.prev_page).data] == newest[
        :2
    ]
    assert [item.id for item in sessions.list(agent_id=agent, limit=2, order="asc")] == ids
    assert [item.id for item in sessions.list(agent_id=agent, page=first.next_page, limit=9)] == newest[2:]

    with pytest.raises(anthropic.BadRequestError, match="order"):
        sessions.list(page=first.next_page, order="asc")
    last = sessions.retrieve(newest[1]).created_at
    with pytest.raises(anthropic.BadRequestError, match="created_at"):
        sessions.list(page=first.next_page, created_at_gt=last)
    assert sessions.list(page=first.next_page, created_at_lte=last, agent_id=agent).data[0].id == newest[2]
    with pytest.raises(anthropic.BadRequestError, match="page"):
        sessions.list(page="x")


def test_list_filters(client, environment_id) -> None:
    agent = client.beta.agents.create(name="filters", model="replay").id
    sessions = client.beta.sessions

    def listed(**filters):
        return [item.id for item in sessions.list(agent_id=agent, order="asc", **filters)]

    idle = sessions.create(agent=agent, environment_id=environment_id)
    running = sessions.create(agent=agent, environment_id=environment_id, initial_events=[MESSAGE]).id
    client.beta.agents.update(agent, name="second")
    newer = sessions.create(agent=agent, environment_id=environment_id).id
    gone = sessions.create(agent=agent, environment_id=environment_id).id
    sessions.archive(gone)
    assert listed() == [idle.id, running, newer]
    assert listed(include_archived=True) == [idle.id, running, newer, gone]
    assert listed(statuses=["running"]) == [running]
    assert listed(statuses=["idle", "terminated"], include_archived=True) == [idle.id, newer, gone]
    assert listed(agent_version=2) == [newer]
    assert listed(created_at_gt=idle.created_at) == [running, newer]
    assert listed(created_at_lte=idle.created_at) == [idle.id]
    assert listed(deployment_id="depl_1") == []
    assert listed(memory_store_id="memstore_1") == []
    with pytest.raises(anthropic.BadRequestError, match="agent_version"):
        sessions.list(agent_version=2)


def test_primary_thread(client, session_id) -> None:
    threads = client.beta.sessions.threads
    (thread,) = threads.list(session_id)
    assert thread.id.startswith("sthr_")
    assert (thread.status, thread.parent_thread_id, thread.stats, thread.usage) == (
        "idle",
        None,
        None,
        None,
    )
    assert thread.agent.name == "Ada"
    assert threads.retrieve(thread.id, session_id=session_id) == thread
    assert list(threads.list(session_id, statuses=["running"])) == []
    client.beta.sessions.events.send(session_id, events=[MESSAGE])
    assert [event.type for event in threads.events.list(thread.id, session_id=session_id)] == [
        "user.message"
    ]
    with pytest.raises(anthropic.BadRequestError, match="primary"):
        threads.archive(thread.id, session_id=session_id)
    with pytest.raises(anthropic.NotFoundError):
        threads.retrieve("sthr_none", session_id=session_id)
    with pytest.raises(anthropic.NotFoundError):
        threads.events.list("sthr_none", session_id=session_id)
