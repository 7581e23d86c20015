"""Strictness: every wrong field is a 400 that names its path."""

import orjson
import pytest
from starlette.datastructures import QueryParams

from corral.api.schema.agents import AgentCreate, AgentUpdate
from corral.api.schema.environments import EnvironmentCreate
from corral.api.schema.events import EventsSend
from corral.api.schema.query import EventListQuery, SessionListQuery, StreamQuery, parse_query
from corral.api.schema.sessions import SessionCreate, SessionUpdate
from corral.api.schema.strict import parse, parse_empty
from corral.kernel.errors import InvalidRequest

AGENT = {"name": "a", "model": "claude-opus-5-5"}
SESSION = {"agent": "agent_1", "environment_id": "env_1"}


def events(*items):
    return {"events": list(items)}


def message(*content):
    return events({"type": "user.message", "content": list(content)})


TEXT = {"type": "text", "text": "hi"}
PDF = {"type": "base64", "media_type": "application/pdf"}


def image(data):
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


WRONG = [
    (AgentCreate, {}, "name: Field required"),
    (AgentCreate, {**AGENT, "temperature": 1}, "temperature: Extra inputs are not permitted"),
    (AgentCreate, {**AGENT, "version": 1}, "version: Extra"),
    (AgentCreate, {**AGENT, "name": ""}, "name: "),
    (AgentCreate, {**AGENT, "name": "x" * 257}, "name: "),
    (AgentCreate, {**AGENT, "name": 7}, "name: Input should be a valid string"),
    (AgentCreate, {**AGENT, "model": 7}, "model: "),
    (AgentCreate, {**AGENT, "model": {"id": "claude-x", "effort": "huge"}}, "model.effort.type: "),
    (AgentCreate, {**AGENT, "model": {"id": "claude-x", "temperature": 1}}, "model.temperature: Extra"),
    (AgentCreate, {**AGENT, "model": {"id": "claude-x", "inference_geo": "eu"}}, "model.inference_geo: "),
    (AgentCreate, {**AGENT, "system": "x" * 100_001}, "system: "),
    (AgentCreate, {**AGENT, "description": "x" * 2049}, "description: "),
    (AgentCreate, {**AGENT, "metadata": {"k": 1}}, "metadata.k: "),
    (AgentCreate, {**AGENT, "metadata": {"k" * 65: "v"}}, "metadata."),
    (AgentCreate, {**AGENT, "metadata": {"k": "v" * 513}}, "metadata.k: "),
    (AgentCreate, {**AGENT, "metadata": {f"k{n}": "v" for n in range(17)}}, "metadata: "),
    (AgentCreate, {**AGENT, "skills": [{"type": "anthropic"}]}, "skills.0.skill_id: "),
    (AgentCreate, {**AGENT, "skills": [{"type": "mine", "skill_id": "x"}]}, "skills.0.type: "),
    (AgentCreate, {**AGENT, "multiagent": {"type": "x"}}, "multiagent: multiagent is not"),
    (AgentCreate, {**AGENT, "execution_identity": {"type": "root"}}, "execution_identity.type: "),
    (AgentCreate, {**AGENT, "execution_identity": {"type": "aws_role"}}, "execution_identity.role_arn: "),
    (AgentCreate, {**AGENT, "tools": [{"type": "computer"}]}, "tools.0.type: "),
    (AgentCreate, {**AGENT, "tools": [{}]}, "tools.0.type: "),
    (
        AgentCreate,
        {**AGENT, "tools": [{"type": "custom", "name": "a"}]},
        "tools.0.description: Field required",
    ),
    (
        AgentCreate,
        {**AGENT, "tools": [{"type": "custom", "name": "a b", "description": "d", "input_schema": {}}]},
        "tools.0.name: ",
    ),
    (
        AgentCreate,
        {**AGENT, "tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "sudo"}]}]},
        "tools.0.configs.0.name: ",
    ),
    (
        AgentCreate,
        {**AGENT, "tools": [{"type": "agent_toolset_20260401", "default_config": {"enabled": "yes"}}]},
        "tools.0.default_config.enabled: ",
    ),
    (
        AgentCreate,
        {**AGENT, "mcp_servers": [{"type": "url", "name": "n", "url": "ftp://x"}]},
        "mcp_servers.0.url",
    ),
    (AgentUpdate, {"name": None}, "name: "),
    (AgentUpdate, {"model": None}, "model: "),
    (AgentUpdate, {"version": 0}, "version: "),
    (
        AgentCreate,
        {**AGENT, "mcp_servers": [{"type": "url", "name": "a", "url": "a"}]},
        "mcp_servers.0.url: must",
    ),
    (EnvironmentCreate, {}, "name: Field required"),
    (EnvironmentCreate, {"name": "e", "config": {"type": "vm"}}, "config.type: "),
    (EnvironmentCreate, {"name": "e", "config": {"type": "cloud", "image": "x"}}, "config.image: Extra"),
    (
        EnvironmentCreate,
        {"name": "e", "config": {"type": "cloud", "packages": {"pip": ["--index-url=x"]}}},
        "config.packages.pip.0: ",
    ),
    (
        EnvironmentCreate,
        {"name": "e", "config": {"type": "cloud", "networking": {"type": "limited", "hosts": []}}},
        "config.networking.hosts: Extra",
    ),
    (SessionCreate, {"environment_id": "env_1"}, "agent: Field required"),
    (
        SessionCreate,
        {**SESSION, "agent": {"type": "agent", "id": "agent_1", "version": 2**63}},
        "agent.version: ",
    ),
    (SessionCreate, {**SESSION, "resources": [{"type": "file"}]}, "resources.0.file_id: Field required"),
    (SessionCreate, {**SESSION, "resources": [{"type": "x"}]}, "resources.0.type: must be one of"),
    (SessionCreate, {**SESSION, "vault_ids": ["vlt_1"] * 51}, "vault_ids: "),
    (SessionCreate, {**SESSION, "budget": {"type": "limit"}}, "budget.max_list_cost: "),
    (
        SessionCreate,
        {**SESSION, "budget": {"type": "limit", "max_list_cost": {"amount": "0.5", "currency": "USD"}}},
        "budget.max_list_cost.amount: must be whole cents as text",
    ),
    (
        EnvironmentCreate,
        {"name": "n", "config": {"type": "cloud", "packages": {"pip": ["--index-url"]}}},
        "config.packages.pip.0: must be one package",
    ),
    (SessionCreate, {**SESSION, "agent": {"type": "agent", "id": "a", "model": "m"}}, "agent.model: Extra"),
    (SessionCreate, {**SESSION, "agent": {"id": "a"}}, "agent.type: "),
    (
        SessionCreate,
        {**SESSION, "agent": {"type": "agent_with_overrides", "id": "a", "name": "x"}},
        "agent.name: Extra",
    ),
    (SessionCreate, {**SESSION, "initial_events": [{"type": "system.message"}]}, "initial_events.0.type: "),
    (SessionUpdate, {"vault_ids": []}, "vault_ids: vault_ids cannot be changed"),
    (SessionUpdate, {"budget": {"type": "limit"}}, "budget.max_list_cost: "),
    (SessionUpdate, {"agent": {"model": "x"}}, "agent.model: Extra"),
    (SessionUpdate, {"environment_id": "x"}, "environment_id: Extra"),
    (EventsSend, events(), "events: "),
    (EventsSend, events(*[{"type": "user.interrupt"}] * 51), "events: "),
    (EventsSend, events({"type": "agent.message"}), "events.0.type: "),
    (EventsSend, message(), "events.0.content: "),
    (EventsSend, message({"type": "redacted"}), "events.0.content.0.type: "),
    (EventsSend, message({"type": "text"}), "events.0.content.0.text: Field required"),
    (EventsSend, message({"type": "text", "text": ""}), "events.0.content.0.text: "),
    (EventsSend, message(TEXT, {"type": "text", "text": " \n\t"}), "events.0.content.1.text: must contain"),
    (EventsSend, message(image("%%%")), "events.0.content.0.source.data: is not base64"),
    (EventsSend, message(image("aGk")), "events.0.content.0.source.data: is not base64"),
    (EventsSend, message(image("aGk=\n")), "events.0.content.0.source.data: is not base64"),
    (EventsSend, message(image("é===")), "events.0.content.0.source.data: is not base64"),
    (EventsSend, message(image("")), "events.0.content.0.source.data: must not be empty"),
    (
        EventsSend,
        message({"type": "document", "source": {**PDF, "data": "JVBERi0"}}),
        "events.0.content.0.source.data: is not base64",
    ),
    (
        EventsSend,
        events({"type": "system.message", "content": [{"type": "text", "text": " "}]}),
        "events.0.content.0.text: must contain",
    ),
    (
        EventsSend,
        events(
            {
                "type": "user.custom_tool_result",
                "custom_tool_use_id": "x",
                "content": [{"type": "text", "text": "\n"}],
            }
        ),
        "events.0.content.0.text: must contain",
    ),
    (EventsSend, message({**TEXT, "cache_control": {}}), "events.0.content.0.cache_control: Extra"),
    (
        EventsSend,
        message(TEXT, {"type": "image", "source": {"type": "base64"}}),
        "content.1.source.media_type: ",
    ),
    (
        EventsSend,
        message({"type": "document", "source": {"type": "file", "file_id": ""}}),
        "events.0.content.0.source.file_id: ",
    ),
    (
        EventsSend,
        events({"type": "user.tool_confirmation", "tool_use_id": "x", "result": "maybe"}),
        "events.0.result: ",
    ),
    (EventsSend, events({"type": "user.message", "content": [TEXT], "id": "x"}), "events.0.id: Extra"),
    (
        EventsSend,
        events({"type": "system.message", "content": [{"type": "image"}]}),
        "events.0.content.0.type: ",
    ),
]


@pytest.mark.parametrize(("shape", "body", "expected"), WRONG)
def test_wrong_field_is_named(shape, body, expected) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(shape, orjson.dumps(body))
    assert any(line.startswith(expected) or expected in line for line in refused.value.message.split("\n"))


@pytest.mark.parametrize(
    ("shape", "body", "where"),
    [
        (SessionCreate, {**SESSION, "title": "a\0"}, "title"),
        (SessionCreate, {**SESSION, "metadata": {"k": "\0"}}, "metadata.k"),
        (SessionUpdate, {"metadata": {"k\0": "v"}}, r"metadata.k\u0000"),
        (AgentCreate, {**AGENT, "system": "\0"}, "system"),
        (EventsSend, message(TEXT, {"type": "text", "text": "a\0b"}), "events.0.content.1.text"),
        (EventsSend, {"a": [{}, [[]]], "b": [[], ["\0"]]}, "b.1.0"),
    ],
)
def test_nul_cannot_be_stored(shape, body, where) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(shape, orjson.dumps(body))
    assert refused.value.message == f"{where}: must not contain the character U+0000"


def test_an_escaped_backslash_is_no_nul() -> None:
    assert parse(SessionUpdate, rb'{"title": "\\u0000"}').title == r"\u0000"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"metadata": {"k": NaN}}'])
def test_not_an_object(raw) -> None:
    with pytest.raises(InvalidRequest):
        parse(AgentCreate, raw)


def test_empty_bodies() -> None:
    parse_empty(b"")
    parse_empty(b"{}")
    with pytest.raises(InvalidRequest, match="force: Extra"):
        parse_empty(b'{"force": true}')


def test_given_has_what_was_set() -> None:
    given = parse(AgentUpdate, b'{"system": null, "model": "claude-opus-5-5"}').given()
    assert given == {"system": None, "model": {"id": "claude-opus-5-5"}}
    assert parse(SessionCreate, orjson.dumps(SESSION)).agent.given() == {"type": "agent", "id": "agent_1"}


def test_content_is_kept_as_sent() -> None:
    content = [
        TEXT,
        {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}},
        image("aGk="),
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
            "title": None,
        },
    ]
    (event,) = parse(EventsSend, orjson.dumps(message(*content))).events
    assert event.given()["content"] == content


@pytest.mark.parametrize(
    ("shape", "query", "expected"),
    [
        (SessionListQuery, "limit=0", "limit: "),
        (SessionListQuery, "limit=101", "limit: "),
        (SessionListQuery, "limit=x", "limit: "),
        (SessionListQuery, "order=up", "order: "),
        (SessionListQuery, "statuses[]=idle&statuses[]=asleep", "statuses[].1: "),
        (SessionListQuery, "statuss[]=idle", "statuss[]: Extra"),
        (SessionListQuery, "created_at[gte]=yesterday", "created_at[gte]: "),
        (SessionListQuery, "created_at[gte]=2026-01-01T00:00:00", "created_at[gte]: "),
        (SessionListQuery, "created_at[gte]=0001-01-01T00:00:00%2B14:00", "created_at[gte]: "),
        (SessionListQuery, "created_at[lte]=9999-12-31T23:59:59-14:00", "created_at[lte]: "),
        (SessionListQuery, "agent_id=agent_1&agent_version=9223372036854775808", "agent_version: "),
        (SessionListQuery, "agent_id=a%00", "agent_id: must not contain"),
        (SessionListQuery, "limit=1&limit=2", "limit: given twice"),
        (EventListQuery, "types[]=session.deleted", "types[].0: "),
        (EventListQuery, "limit=1001", "limit: "),
        (StreamQuery, "event_deltas[]=agent.tool_use", "event_deltas[].0: "),
        (StreamQuery, "&".join(["event_deltas[]=agent.message"] * 101), "event_deltas[]: "),
    ],
)
def test_wrong_parameter_is_named(shape, query, expected) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_query(shape, QueryParams(query))
    assert refused.value.message.startswith(expected)


def test_queries() -> None:
    query = parse_query(
        SessionListQuery,
        QueryParams(
            "beta=true&statuses%5B%5D=idle&statuses[]=running&created_at%5Bgt%5D=2026-01-01T00:00:00Z"
        ),
    )
    assert query.statuses == ["idle", "running"]
    assert query.created_gt is not None
    assert (query.order, query.limit) == (None, 20)
