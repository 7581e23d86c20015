"""Agents and their versions."""

from corral.conformance.case import Target, case, check, refused, same

TOOLSET = {"type": "agent_toolset_20260401"}


@case("agents", "POST /v1/agents", "GET /v1/agents/{agent_id}")
async def a_created_agent_is_found_as_it_was_sent(to: Target) -> None:
    agent = await to.agent(
        description="for a test",
        system="Be brief.",
        metadata={"team": "a"},
        tools=[
            TOOLSET,
            {
                "type": "custom",
                "name": "look_up",
                "description": "Looks something up.",
                "input_schema": {"type": "object", "properties": {"key": {"type": "string"}}},
            },
        ],
    )
    found = await to.beta.agents.retrieve(agent.id)
    same(found.to_dict(), agent.to_dict(), "the agent as retrieved")
    same((found.type, found.version, found.archived_at), ("agent", 1, None), "type, version, archived_at")
    same((found.description, found.system), ("for a test", "Be brief."), "description and system")
    same(found.metadata, {"team": "a"}, "metadata")
    same([tool.type for tool in found.tools], ["agent_toolset_20260401", "custom"], "types of tools")
    same(found.model.id, to.model, "model.id")


@case("agents", "POST /v1/agents")
async def web_tools_keep_their_limits(to: Target) -> None:
    def fetching(**settings: object) -> list[dict[str, object]]:
        return [{**TOOLSET, "configs": [{"name": "web_fetch", **settings}]}]

    seen = {"user_input": "none", "server_tool_results": {"type": "all"}}
    agent = await to.agent(
        tools=fetching(allowed_domains=["example.com"], url_sources=seen, max_content_tokens=9)
    )
    config = agent.to_dict()["tools"][0]["configs"][0]
    same(config["allowed_domains"], ["example.com"], "allowed_domains")
    same(config["max_content_tokens"], 9, "max_content_tokens")
    same(config["url_sources"]["user_input"], {"type": "none"}, "a source in its short form")
    same(config["url_sources"]["server_tool_results"], {"type": "all"}, "a source in its long form")
    for wrong in ("127.0.0.1", "https://example.com", "*.example.com", "com", "localhost", "example.com/a"):
        with refused(400, naming="allowed_domains.1"):
            await to.agent(tools=fetching(allowed_domains=["example.org", wrong]))
    with refused(400, naming="blocked_domains"):
        await to.agent(tools=fetching(blocked_domains=[]))
    with refused(400, naming="Only one of allowed_domains or blocked_domains may be set"):
        await to.agent(tools=fetching(allowed_domains=["a.example.com"], blocked_domains=["example.com"]))
    with refused(400, naming="url_sources"):
        sources = ("user_input", "client_tool_results", "server_tool_results")
        await to.agent(tools=fetching(url_sources=dict.fromkeys(sources, "none")))


@case("agents", "POST /v1/agents/{agent_id}", "GET /v1/agents/{agent_id}/versions")
async def an_update_makes_a_version_and_a_repeat_makes_none(to: Target) -> None:
    agent = await to.agent(system="one")
    second = await to.beta.agents.update(agent.id, version=1, system="two")
    same((second.version, second.system, second.name), (2, "two", agent.name), "the updated agent")
    again = await to.beta.agents.update(agent.id, version=2, system="two")
    same(again.version, 2, "version after an update that changes nothing")
    with refused(409, "conflict_error"):
        await to.beta.agents.update(agent.id, version=1, system="three")
    versions = await to.every(to.beta.agents.versions.list(agent.id))
    same([each.version for each in versions], [2, 1], "versions, newest first")
    first = await to.beta.agents.retrieve(agent.id, version=1)
    same(first.system, "one", "system of version 1")


@case("agents", "POST /v1/agents/{agent_id}")
async def metadata_is_merged_and_null_removes(to: Target) -> None:
    agent = await to.agent(metadata={"keep": "1", "drop": "2"})
    changed = await to.beta.agents.update(agent.id, version=1, metadata={"drop": None, "new": "3"})
    same(changed.metadata, {"keep": "1", "new": "3"}, "metadata")


@case("agents", "POST /v1/agents/{agent_id}/archive")
async def an_archived_agent_stays_readable_and_starts_nothing(to: Target) -> None:
    agent = await to.agent()
    archived = await to.beta.agents.archive(agent.id)
    check(archived.archived_at, "archived_at is set")
    again = await to.beta.agents.archive(agent.id)
    same(again.archived_at, archived.archived_at, "archived_at of a repeat")
    environment = await to.environment()
    with refused(400):
        await to.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    with refused(400):
        await to.beta.agents.update(agent.id, version=1, name="other")


@case("agents", "GET /v1/agents")
async def lists_page_and_leave_the_archived_out(to: Target) -> None:
    made = [await to.agent() for _ in range(3)]
    await to.beta.agents.archive(made[0].id)
    page = await to.beta.agents.list(limit=1)
    same(len(page.data), 1, "items of a page of one")
    check(page.next_page, "a cursor where there is more")
    shown = [
        agent.id
        for agent in await to.every(to.beta.agents.list(limit=50, created_at_gte=made[0].created_at))
    ]
    check({made[1].id, made[2].id} <= set(shown), "what was made is listed")
    check(made[0].id not in shown, "archived agents are left out")
    check(shown.index(made[2].id) < shown.index(made[1].id), "newest first")
    everything = await to.every(
        to.beta.agents.list(limit=50, include_archived=True, created_at_gte=made[0].created_at)
    )
    check(made[0].id in [agent.id for agent in everything], "include_archived lists them")
    with refused(400, naming="page"):
        await to.beta.agents.list(page="not-a-cursor")


@case("agents", "POST /v1/agents")
async def what_an_agent_cannot_be_is_named(to: Target) -> None:
    with refused(400, naming="model"):
        await to.client.post("/v1/agents", body={"name": "x"}, cast_to=object)
    with refused(400, naming="name"):
        await to.client.post("/v1/agents", body={"model": to.model}, cast_to=object)
    with refused(400, naming="tools"):
        await to.agent(tools=[{"type": "no_such_tool"}])
    with refused(400, naming="colour"):
        await to.agent(extra_body={"colour": "red"})
    with refused(400, naming="metadata"):
        await to.agent(metadata={f"key{number}": "v" for number in range(17)})


@case("agents", "GET /v1/agents/{agent_id}")
async def an_unknown_agent_is_not_found(to: Target) -> None:
    with refused(404, "not_found_error"):
        await to.beta.agents.retrieve("agent_01AAAAAAAAAAAAAAAAAAAAAA")
