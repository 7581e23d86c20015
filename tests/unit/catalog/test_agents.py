"""Agents: create, merge, overrides. Source: API docs, agents."""

from datetime import UTC, datetime

import pytest

from corral.catalog.agents import new_agent, session_agent, session_tools, thread_agent, updated_agent
from corral.catalog.models import ModelTable
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import AgentId

MODELS = ModelTable.packaged()
NOW, LATER = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
TOOLSET = {"type": "agent_toolset_20260401"}
MCP = {"type": "mcp_toolset", "mcp_server_name": "docs"}
SERVER = {"type": "url", "name": "docs", "url": "https://docs.example/mcp"}


def agent(**fields):
    given = {"name": "Ada", "model": {"id": "claude-opus-5-5"}, **fields}
    return new_agent(given, agent_id=AgentId("agent_1"), models=MODELS, now=NOW)


def update(current, **given):
    return updated_agent(current, given, models=MODELS, now=LATER)


def test_new_agent_has_every_field() -> None:
    made = agent(tools=[TOOLSET], system="", description="")
    assert made["version"] == 1
    assert made["system"] is None
    assert made["description"] is None
    assert made["multiagent"] is None
    assert made["skills"] == made["mcp_servers"] == []
    assert made["execution_identity"] == {"type": "service_account"}
    assert made["model"] == {
        "id": "claude-opus-5-5",
        "speed": "standard",
        "effort": {"type": MODELS.resolve("claude-opus-5-5").default_effort},
        "inference_geo": None,
    }
    assert made["tools"] == [
        {
            "type": "agent_toolset_20260401",
            "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
            "configs": [],
        }
    ]
    assert made["created_at"] == made["updated_at"] == "2026-11-20T00:00:00.000000Z"


def test_unknown_model_lists_what_is_known() -> None:
    with pytest.raises(InvalidRequest, match=r"^model: .*'gpt-9'.*claude-\*"):
        agent(model={"id": "gpt-9"})


def test_model_without_effort_levels_has_none() -> None:
    assert agent(model={"id": "replay"})["model"]["effort"] is None
    with pytest.raises(InvalidRequest, match="does not support effort"):
        agent(model={"id": "replay", "effort": {"type": "high"}})


def test_update_merges() -> None:
    first = agent(system="Be brief.", tools=[TOOLSET], metadata={"a": "1", "b": "2"})
    second = update(first, description="New", metadata={"a": None, "c": "3"})
    assert second["version"] == 2
    assert second["updated_at"] == "2026-11-21T00:00:00.000000Z"
    assert second["system"] == "Be brief."
    assert second["tools"] == first["tools"]
    assert second["metadata"] == {"b": "2", "c": "3"}
    third = update(second, system=None, description="", tools=[])
    assert (third["system"], third["description"], third["tools"]) == (None, None, [])


def test_update_without_change_is_the_same_version() -> None:
    first = agent(system="x", tools=[TOOLSET], metadata={"a": "1"})
    for given in (
        {},
        {"name": "Ada"},
        {"system": "x"},
        {"tools": [TOOLSET]},
        {"model": {"id": "claude-opus-5-5"}},
        {"metadata": {"zzz": None}},
        {"execution_identity": None},
        {"version": 1},
    ):
        assert update(first, **given) is first, given


def test_version_is_an_optimistic_lock_even_for_equal_values() -> None:
    second = update(agent(), description="x")
    with pytest.raises(Conflict, match="version 2, not 1"):
        update(second, version=1, description="x")
    assert update(second, version=2, name="B")["version"] == 3


def test_archived_agent_cannot_be_updated() -> None:
    with pytest.raises(InvalidRequest, match="archived"):
        update({**agent(), "archived_at": "2026-11-20T00:00:00.000000Z"}, name="B")


def test_model_replacement_keeps_effort_only_for_the_same_id() -> None:
    low = agent(model={"id": "claude-opus-5-5", "effort": {"type": "low"}, "inference_geo": "us"})
    same = update(low, model={"id": "claude-opus-5-5"})
    assert same["model"]["effort"] == {"type": "low"}
    assert same["model"]["inference_geo"] is None
    other = update(low, model={"id": "claude-sonnet-5"})
    assert other["model"]["effort"] == {"type": MODELS.resolve("claude-sonnet-5").default_effort}


def test_metadata_limit_counts_after_the_merge() -> None:
    full = agent(metadata={f"k{n}": "v" for n in range(16)})
    with pytest.raises(InvalidRequest, match="17 pairs"):
        update(full, metadata={"more": "v"})
    assert len(update(full, metadata={"more": "v", "k0": None})["metadata"]) == 16


def test_mcp_servers_and_toolsets_must_match() -> None:
    assert agent(tools=[MCP], mcp_servers=[SERVER])["mcp_servers"] == [SERVER]
    for fields, message in (
        ({"mcp_servers": [SERVER]}, r"mcp_servers.0.name: no mcp_toolset"),
        ({"tools": [MCP]}, r"tools: an mcp_toolset names 'docs'"),
        ({"tools": [MCP, MCP], "mcp_servers": [SERVER]}, r"tools.1.mcp_server_name"),
        ({"tools": [MCP], "mcp_servers": [SERVER, SERVER]}, r"mcp_servers.1.name: 'docs' is used twice"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            agent(**fields)
    saved = agent(tools=[MCP], mcp_servers=[SERVER])
    with pytest.raises(InvalidRequest, match="no mcp_toolset"):
        update(saved, tools=[])


# -- overrides ----------------------------------------------------------------------------------------


def snapshot(base, **overrides):
    return session_agent(base, overrides, models=MODELS)


def test_snapshot_inherits_and_replaces() -> None:
    base = agent(
        system="Base",
        tools=[TOOLSET],
        model={"id": "claude-opus-5-5", "effort": {"type": "low"}, "inference_geo": "us"},
    )
    assert snapshot(base)["system"] == "Base"
    assert snapshot(base)["model"] == base["model"]
    assert snapshot(base, system=None)["system"] is None
    assert snapshot(base, tools=None)["tools"] == []
    over = snapshot(base, model={"id": "claude-opus-5-5"})["model"]
    assert over["effort"] == {"type": MODELS.resolve("claude-opus-5-5").default_effort}
    assert over["inference_geo"] is None
    shown = snapshot(base)
    assert (shown["id"], shown["version"]) == ("agent_1", 1)
    assert not {"metadata", "created_at", "updated_at", "archived_at"} & set(shown)
    assert "multiagent" not in thread_agent(shown)


def test_snapshot_refusals() -> None:
    with pytest.raises(InvalidRequest) as refused:
        snapshot(agent(), model=None)
    assert refused.value.error_code == "agent_model_required"
    with pytest.raises(InvalidRequest, match=r"agent.model: no model provider"):
        snapshot(agent(), model={"id": "nope"})
    with pytest.raises(InvalidRequest, match=r"agent.tools.0.name"):
        snapshot(
            agent(), tools=[{"type": "custom", "name": "bash", "description": "d", "input_schema": {}}]
        )
    with pytest.raises(InvalidRequest, match="archived"):
        snapshot({**agent(), "archived_at": "2026-11-20T00:00:00.000000Z"})
    mcp = agent(tools=[MCP], mcp_servers=[SERVER])
    assert snapshot(mcp)["mcp_servers"] == [SERVER]
    with pytest.raises(InvalidRequest, match="an mcp_toolset names 'docs'"):
        snapshot(mcp, mcp_servers=[])
    assert snapshot(mcp, mcp_servers=[], tools=[])["tools"] == []
    role = {"type": "aws_role", "role_arn": "arn:aws:iam::1:role/x"}
    with pytest.raises(InvalidRequest, match=r"agent.execution_identity"):
        snapshot(agent(execution_identity=role))


def test_session_tools() -> None:
    assert session_tools({}) is None
    assert session_tools({"mcp_servers": []}) is None
    assert session_tools({"tools": None}) == []
    assert session_tools({"tools": [TOOLSET]})[0]["configs"] == []
    (toolset,) = session_tools({"tools": [MCP], "mcp_servers": [SERVER]})
    assert toolset["default_config"]["permission_policy"] == {"type": "always_ask"}
