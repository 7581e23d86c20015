"""Agents and environments through the official SDK."""

import anthropic
import pytest

TOOLSET = {"type": "agent_toolset_20260401", "configs": [{"name": "bash"}]}


def test_agent_life(client: anthropic.Anthropic) -> None:
    agents = client.beta.agents
    made = agents.create(
        name="Ada",
        model={"id": "claude-opus-5-5", "effort": "low"},
        system="Be brief.",
        tools=[TOOLSET],
        metadata={"team": "a"},
    )
    assert made.id.startswith("agent_")
    assert (made.version, made.type, made.archived_at) == (1, "agent", None)
    assert made.model.effort.type == "low"
    assert made.tools[0].configs[0].permission_policy.type == "always_allow"
    assert agents.retrieve(made.id) == made

    changed = agents.update(made.id, version=1, description="D", metadata={"team": None, "x": "1"})
    assert (changed.version, changed.description, changed.system) == (2, "D", "Be brief.")
    assert changed.metadata == {"x": "1"}
    assert agents.update(made.id, description="D").version == 2
    assert agents.retrieve(made.id, version=1) == made
    assert [version.version for version in agents.versions.list(made.id, limit=1)] == [2, 1]
    with pytest.raises(anthropic.ConflictError) as stale:
        agents.update(made.id, version=1, description="D")
    assert stale.value.body["error"]["type"] == "conflict_error"

    archived = agents.archive(made.id)
    assert archived.archived_at is not None
    assert agents.archive(made.id) == archived
    assert agents.retrieve(made.id, version=1).archived_at == archived.archived_at
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        agents.update(made.id, name="B")
    assert made.id not in [agent.id for agent in agents.list()]
    assert made.id in [agent.id for agent in agents.list(include_archived=True)]


def test_agent_pages(client: anthropic.Anthropic) -> None:
    agents = client.beta.agents
    ids = [agents.create(name=f"p{n}", model="replay").id for n in range(5)]
    first = agents.list(limit=2)
    assert [agent.id for agent in first.data] == [ids[4], ids[3]]
    assert first.next_page is not None
    assert [agent.id for agent in agents.list(limit=2)][:5] == ids[::-1]
    middle = agents.retrieve(ids[2]).created_at
    listed = [agent.id for agent in agents.list(created_at_gte=middle)]
    assert ids[2] in listed
    assert ids[1] not in listed
    with pytest.raises(anthropic.BadRequestError):
        agents.list(page="bm9uc2Vuc2U")


async def test_async_client(server) -> None:
    async with server.async_client() as client:
        made = await client.beta.agents.create(name="Async", model="replay")
        listed = [agent.id async for agent in client.beta.agents.list(limit=1)]
        assert made.id in listed
        with pytest.raises(anthropic.NotFoundError):
            await client.beta.agents.retrieve("agent_none")


def test_environment_life(client: anthropic.Anthropic) -> None:
    environments = client.beta.environments
    made = environments.create(
        name="e",
        config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["a.example"]}},
    )
    assert made.config.networking.allowed_hosts == ["a.example"]
    assert (made.config.packages.pip, made.scope, made.description) == ([], "organization", None)
    assert made.model_extra["state"] == "active"
    assert environments.retrieve(made.id) == made
    changed = environments.update(
        made.id,
        description="",
        metadata={"k": "v"},
        config={"type": "cloud", "networking": {"type": "limited", "allow_mcp_servers": True}},
    )
    assert changed.config.networking.allowed_hosts == ["a.example"]
    assert (changed.description, changed.metadata) == ("", {"k": "v"})
    assert environments.update(made.id, metadata={"k": ""}).metadata == {}
    with pytest.raises(anthropic.BadRequestError) as refused:
        environments.update(made.id, config={"type": "self_hosted"})
    assert refused.value.body["error"]["details"] == {"error_code": "invalid_config_type_change"}
    assert environments.archive(made.id).archived_at is not None
    assert made.id not in [environment.id for environment in environments.list()]
    assert environments.delete(made.id).type == "environment_deleted"
    with pytest.raises(anthropic.NotFoundError):
        environments.retrieve(made.id)


def test_environment_in_use_is_not_deleted(client, session_id) -> None:
    session = client.beta.sessions.retrieve(session_id)
    with pytest.raises(anthropic.ConflictError):
        client.beta.environments.delete(session.environment_id)
    client.beta.sessions.archive(session_id)
    assert client.beta.environments.delete(session.environment_id).id == session.environment_id


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "gpt-9"}, "model: "),
        ({"tools": [{**TOOLSET, "configs": [{"name": "web_search"}]}]}, "tools.0.configs.0.name"),
        ({"skills": [{"type": "anthropic", "skill_id": "xlsx"}]}, "skills"),
        ({"multiagent": {"type": "coordinator", "agents": []}}, "multiagent"),
        ({"extra_body": {"temperature": 1}}, "temperature: Extra inputs are not permitted"),
    ],
)
def test_refused_agents(client, fields, named) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.agents.create(**{"name": "a", "model": "claude-opus-5-5", **fields})
    error = refused.value.body["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]
    assert refused.value.request_id == refused.value.body["request_id"]
