"""Rules of sessions, through the official SDK with strict response validation. No brain runs here."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anthropic
import pytest

from corral.kernel.limits import EVENTS_PER_SEND_MAX, METADATA_PAIRS_MAX
from corral.session import events as ev
from tests.sdk.conftest import Server, take_inbox

MESSAGE: dict[str, Any] = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
TOOLSET = {"type": "agent_toolset_20260401"}
ASK = {**TOOLSET, "default_config": {"permission_policy": {"type": "always_ask"}}}
MCP = {"type": "url", "name": "search", "url": "https://mcp.example/sse"}


@pytest.fixture
def strict(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as client:
        yield client


def refused(call: Any, *args: Any, **fields: Any) -> dict[str, Any]:
    with pytest.raises(anthropic.BadRequestError) as error:
        call(*args, **fields)
    said: dict[str, Any] = error.value.body["error"]  # type: ignore[index]
    assert said["type"] == "invalid_request_error"
    return said


def news(client: anthropic.Anthropic, session_id: str) -> list[dict[str, Any]]:
    """What each `session.updated` says, without its head."""
    return [
        {name: event.to_dict()[name] for name in event.model_fields_set - {"id", "type", "processed_at"}}
        for event in client.beta.sessions.events.list(session_id, types=["session.updated"])
    ]


def test_update_tells_only_what_changed(strict: anthropic.Anthropic, session_id: str) -> None:
    update = strict.beta.sessions.update
    update(session_id, title="A", metadata={"x": "1"})
    update(session_id, title="A", metadata={"x": "1"})
    update(session_id)
    update(session_id, metadata={"x": "2", "y": "3"}, title="A")
    update(session_id, metadata={"x": None, "y": None})
    assert news(strict, session_id) == [
        {"title": "A", "metadata": {"x": "1"}},
        {"metadata": {"x": "2", "y": "3"}},
        {},
    ]
    many = {f"k{number}": "v" for number in range(METADATA_PAIRS_MAX)}
    assert "metadata" in refused(update, session_id, metadata={**many, "more": "v"})["message"]
    assert strict.beta.sessions.retrieve(session_id).metadata == {}
    for vault_ids in ([], ["vlt_1"]):
        assert "vault_ids" in refused(update, session_id, vault_ids=vault_ids)["message"]
    refused(update, session_id, extra_body={"vault_ids": None})
    for wrong in ({"system": "S"}, {"model": "claude-opus-5"}, {"skills": []}):
        assert "agent." in refused(update, session_id, extra_body={"agent": wrong})["message"]


def test_tools_are_replaced_while_idle_and_only_then(
    server: Server, strict: anthropic.Anthropic, session_id: str, environment_id: str, agent_id: str
) -> None:
    sessions = strict.beta.sessions
    changed = sessions.update(session_id, agent={"tools": [ASK]})
    assert changed.agent.tools[0].default_config.permission_policy.type == "always_ask"
    (told,) = news(strict, session_id)
    assert told == {"agent": changed.agent.to_dict()}, "the full snapshot"
    assert strict.beta.agents.retrieve(agent_id).tools == [], "the agent itself stays as it is"
    assert sessions.update(session_id, agent={"tools": []}).agent.tools == []
    sessions.update(session_id, agent={"tools": [TOOLSET]})

    running = sessions.create(agent=agent_id, environment_id=environment_id, initial_events=[MESSAGE]).id
    said = refused(sessions.update, running, agent={"tools": [TOOLSET]})["message"]
    assert "idle" in said and "user.interrupt" in said
    assert sessions.update(running, title="while it runs", metadata={"a": "b"}).title == "while it runs"
    server.run(take_inbox(server.deps, running))
    assert sessions.update(running, agent={"tools": [TOOLSET]}).agent.tools != []
    sessions.archive(running)
    with pytest.raises(anthropic.ConflictError):
        sessions.update(running, title="too late")


def test_overrides_are_checked_as_a_whole(strict: anthropic.Anthropic, environment_id: str) -> None:
    agents, sessions = strict.beta.agents, strict.beta.sessions
    agent = agents.create(
        name="base",
        model={"id": "claude-opus-5-5", "effort": "low", "inference_geo": "us"},
        system="S",
        description="D",
        tools=[ASK],
    )
    searching = agents.create(
        name="searching",
        model="claude-opus-5-5",
        mcp_servers=[MCP],
        tools=[{"type": "mcp_toolset", "mcp_server_name": "search"}],
    )

    def create(base: str = agent.id, **overrides: Any) -> Any:
        chosen: Any = {"type": "agent_with_overrides", "id": base, **overrides}
        return sessions.create(agent=chosen, environment_id=environment_id).agent

    kept = create()
    assert (kept.id, kept.version, kept.system, kept.description) == (agent.id, 1, "S", "D")
    assert (kept.model, kept.tools) == (agent.model, agent.tools)
    other = create(model={"id": "claude-opus-5-5"}).model
    assert (other.effort.type, other.inference_geo) == ("medium", None), "neither is carried over"
    assert create(model={"id": "claude-opus-5", "effort": "max"}).model.effort.type == "max"
    assert create(model="claude-haiku-4-5").model.effort is None
    bare = create(system=None, tools=None, mcp_servers=None, skills=None)
    assert (bare.system, bare.tools, bare.mcp_servers, bare.skills) == (None, [], [], [])
    assert create(system="Other").system == "Other"

    before = len(list(sessions.list(agent_id=agent.id)))
    assert refused(create, model=None)["details"]["error_code"] == "agent_model_required"
    for wrong, named in (
        ({"model": {"id": "claude-haiku-4-5", "effort": "high"}}, "effort"),
        ({"model": "nobody-1"}, "nobody-1"),
        ({"mcp_servers": [MCP]}, "mcp_servers"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "search"}]}, "mcp"),
        ({"name": "x"}, "name"),
        ({"version": 0}, "version"),
    ):
        assert named in refused(create, **wrong)["message"], wrong
    assert "mcp" in refused(create, base=searching.id, mcp_servers=[])["message"]
    assert "mcp" in refused(create, base=searching.id, tools=[])["message"]
    assert create(base=searching.id, mcp_servers=[], tools=[TOOLSET]).mcp_servers == []
    with pytest.raises(anthropic.NotFoundError):
        create(version=2)
    assert len(list(sessions.list(agent_id=agent.id))) == before


def test_initial_events_are_all_or_nothing(
    strict: anthropic.Anthropic, agent_id: str, environment_id: str
) -> None:
    sessions = strict.beta.sessions

    def create(*initial: Any) -> Any:
        return sessions.create(agent=agent_id, environment_id=environment_id, initial_events=initial)

    outcome = {
        "type": "user.define_outcome",
        "description": "d",
        "rubric": {"type": "text", "content": "r"},
    }
    for wrong in (
        [MESSAGE] * (EVENTS_PER_SEND_MAX + 1),
        [MESSAGE, {"type": "system.message", "content": [{"type": "text", "text": "no"}]}],
        [MESSAGE, {"type": "user.interrupt"}],
        [MESSAGE, {"type": "user.message", "content": [{"type": "redacted"}]}],
        [MESSAGE, {**outcome, "rubric": None}],
        [outcome, outcome],
    ):
        assert refused(create, *wrong)["message"].startswith("initial_events")
    large = {"type": "text", "text": "x" * (33 << 20)}
    with pytest.raises(anthropic.APIStatusError) as error:
        create({"type": "user.message", "content": [large]})
    assert error.value.status_code == 413
    assert error.value.body["error"]["type"] == "request_too_large"  # type: ignore[index]
    assert list(sessions.list(agent_id=agent_id)) == []

    made = create(*[MESSAGE] * EVENTS_PER_SEND_MAX)
    assert made.status == "running"
    events = list(sessions.events.list(made.id))
    assert len({event.id for event in events}) == EVENTS_PER_SEND_MAX
    assert all(event.type == "user.message" and event.processed_at is None for event in events)


def test_a_session_without_budget_says_so_and_keeps_its_figures(
    server: Server, strict: anthropic.Anthropic, agent_id: str, environment_id: str
) -> None:
    sessions = strict.beta.sessions
    limit = {"type": "limit", "max_list_cost": {"amount": "500", "currency": "USD"}}
    made = sessions.create(agent=agent_id, environment_id=environment_id, budget=limit)  # type: ignore[arg-type]
    assert made.budget is not None and made.budget.to_dict() == limit
    assert sessions.retrieve(made.id).budget == made.budget
    assert [each.budget for each in sessions.list(agent_id=agent_id)] == [made.budget]
    lowered = {"type": "limit", "max_list_cost": {"amount": "1", "currency": "USD"}}
    sessions.update(made.id, budget=lowered)  # type: ignore[arg-type]
    sessions.update(made.id, budget=lowered, title="same")  # type: ignore[arg-type]
    sessions.update(made.id, budget=None)
    sessions.update(made.id, budget=None)
    assert news(strict, made.id) == [{"budget": lowered}, {"title": "same"}, {"budget": None}]
    said = refused(sessions.update, made.id, budget=limit)
    assert said["details"] == {"error_code": "budget_create_only"}
    cheap = strict.beta.agents.create(name="unpriced", model="claude-next-9").id
    said = refused(sessions.create, agent=cheap, environment_id=environment_id, budget=limit)
    assert said["details"] == {"error_code": "model_not_budgetable"}
    fast = strict.beta.agents.create(name="fast", model={"id": "claude-opus-5-5", "speed": "fast"}).id
    said = refused(sessions.create, agent=fast, environment_id=environment_id, budget=limit)
    assert said["details"] == {"error_code": "model_not_budgetable"}, "fast has no price that we know"


def test_cursors_carry_their_order(strict: anthropic.Anthropic, environment_id: str) -> None:
    sessions = strict.beta.sessions
    agent = strict.beta.agents.create(name="cursors", model="replay").id
    made = [sessions.create(agent=agent, environment_id=environment_id) for _ in range(4)]
    first = sessions.list(agent_id=agent, limit=1, order="asc")
    assert (first.prev_page, [each.id for each in first.data]) == (None, [made[0].id])
    assert first.next_page is not None
    second = sessions.list(agent_id=agent, limit=2, page=first.next_page)
    assert [each.id for each in second.data] == [made[1].id, made[2].id], "its order is the cursor's"
    assert second.prev_page is not None and second.next_page is not None
    assert sessions.list(agent_id=agent, page=second.prev_page, order="asc").data[0].id == made[0].id
    for page in (second.prev_page, second.next_page):
        assert "order" in refused(sessions.list, agent_id=agent, page=page, order="desc")["message"]
    # Other filters may change from page to page; one that excludes the cursor's place may not.
    assert sessions.list(agent_id=agent, page=first.next_page, statuses=["running"]).data == []
    after = made[0].created_at + timedelta(microseconds=1)
    for excluding in ({"created_at_gte": after}, {"created_at_lt": made[0].created_at}):
        said = refused(sessions.list, agent_id=agent, page=first.next_page, **excluding)["message"]
        assert "created_at" in said
    for wrong in ({"limit": 0}, {"limit": 101}, {"page": "x"}, {"order": "up"}, {"statuses": ["busy"]}):
        refused(sessions.list, **wrong)
    refused(sessions.list, agent_version=1)
    everything = [each.id for each in sessions.list(agent_id=agent, limit=1)]
    assert everything == [each.id for each in reversed(made)]


def test_what_waits_is_not_archived_or_deleted(
    server: Server, strict: anthropic.Anthropic, session_id: str
) -> None:
    sessions = strict.beta.sessions
    sessions.events.send(session_id, events=[MESSAGE])  # type: ignore[list-item]
    assert "user.interrupt" in refused(sessions.archive, session_id)["message"]
    server.run(take_inbox(server.deps, session_id, ev.AgentThinking(id=server.deps.ids.event())))
    archived = sessions.archive(session_id)
    assert archived.status == "terminated" and archived.archived_at is not None
    assert [each.type for each in sessions.events.list(session_id)][-1] == "session.status_terminated"
    assert sessions.delete(session_id).id == session_id


def test_sessions_are_found_by_their_memory_store(strict: anthropic.Anthropic, environment_id: str) -> None:
    beta = strict.beta
    agent_id = beta.agents.create(name="remembers", model="replay", tools=[TOOLSET]).id  # type: ignore[list-item]
    one, two = (beta.memory_stores.create(name=name).id for name in ("one", "two"))

    def create(*store_ids: str) -> str:
        resources: Any = [{"type": "memory_store", "memory_store_id": each} for each in store_ids]
        made = beta.sessions.create(agent=agent_id, environment_id=environment_id, resources=resources)
        return made.id

    both, first = create(one, two), create(one)
    create()
    assert [each.id for each in beta.sessions.list(memory_store_id=one)] == [first, both]
    assert [each.id for each in beta.sessions.list(memory_store_id=two, agent_id=agent_id)] == [both]
    assert beta.sessions.list(memory_store_id=one, statuses=["running"]).data == []
    page = beta.sessions.list(memory_store_id=one, limit=1)
    assert page.next_page is not None
    assert [each.id for each in beta.sessions.list(memory_store_id=one, page=page.next_page)] == [both]
