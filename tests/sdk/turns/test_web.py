"""Web tools end to end: official SDK, real processes, a web server with TLS and a search engine here."""

import anthropic
import pytest

from corral.testing.messages_reply import Reply
from tests.served import text
from tests.stage import Stage, words
from tests.web_host import Answer, WebHost

pytestmark = pytest.mark.asyncio(loop_scope="session")


def call(number: int, name: str, **fields: object) -> tuple[str, str, dict[str, object]]:
    return f"toolu_{number}", name, fields


def toolset(**configs: dict[str, object]) -> dict[str, object]:
    named = [{"name": name, **config} for name, config in configs.items()]
    return {"type": "agent_toolset_20260401", "configs": named}


async def test_a_page_is_fetched_and_a_search_finds_it(
    stage: Stage, web: WebHost, searxng: WebHost
) -> None:
    url = web.page("<title>Notes</title><h1>On the engine</h1><p>Note G.</p>", path="/notes")
    searxng.answers["/search"] = Answer(
        body=(
            b'{"results": [{"url": "%s", "title": "Notes", "content": "Ada\'s notes"},'
            b' {"url": "https://blocked.example/", "title": "x", "content": "x"}]}' % url.encode()
        ),
        headers={"Content-Type": "application/json"},
    )
    stage.play(
        Reply.tools(call(1, "web_search", query="ada notes")),
        Reply.tools(call(2, "web_fetch", url=url)),
        Reply.text("Note G."),
    )
    session = await stage.session(toolset(web_search={"blocked_domains": ["blocked.example"]}))
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("What did Ada write?"))
        await tail.idle()
    found, page = tail.of("agent.tool_result")
    [hit] = found.content
    assert (hit.type, hit.source, hit.title, hit.content[0].text) == (
        "search_result",
        url,
        "Notes",
        "Ada's notes",
    )
    [document] = page.content
    assert (document.type, document.title, document.source.type) == ("document", "Notes", "text")
    assert document.source.data == "# On the engine\n\nNote G."
    assert url in document.context
    usage = (await stage.client.beta.sessions.retrieve(session.id)).usage.server_tool_use
    assert (usage.web_search_requests, usage.web_fetch_requests) == (1, 0)
    offered = [tool["name"] for tool in stage.requests[0].json["tools"]]
    assert offered[-2:] == ["web_fetch", "web_search"]


async def test_a_page_that_is_too_long_is_a_file_in_the_sandbox(stage: Stage, web: WebHost) -> None:
    url = web.page("begin " + "word " * 30_000 + "end", path="/long", type_="text/plain")
    look = "cd /mnt/session/tool-outputs; wc -c < *.txt; tail -c 3 *.txt; ls"
    stage.play(
        Reply.tools(call(1, "web_fetch", url=url)),
        Reply.tools(call(2, "bash", command=look)),
        Reply.text("Read."),
    )
    session = await stage.session(toolset())
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Read it."))
        await tail.idle()
    page, shell = tail.of("agent.tool_result")
    shown = page.content[0].source.data
    name = f"{page.tool_use_id}.txt"
    assert f"all of it is in /mnt/session/tool-outputs/{name}]\nbegin word" in shown
    assert shown.endswith("word end") and len(shown) < 5000
    assert shell.content[0].text == f"{6 + 150_000 + 3}\nend{name}"


async def test_a_fetch_is_limited_to_what_was_shown(stage: Stage, web: WebHost) -> None:
    shown = web.page("<p>shown, with a <a href='/linked'>link</a></p>", path="/shown")
    linked = web.page("linked", path="/linked")
    unseen = web.page("unseen", path="/unseen")
    stage.play(
        Reply.tools(call(1, "web_fetch", url=unseen)),
        Reply.tools(call(2, "web_fetch", url=unseen)),  # its own error showed it: that does not count
        Reply.tools(call(3, "web_fetch", url=shown)),
        Reply.tools(call(4, "web_fetch", url=linked)),
        Reply.text("Done."),
    )
    session = await stage.session(toolset(web_fetch={"url_sources": {"user_input": "all"}}))
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text(f"Read {shown}."))
        await tail.idle()
    results = tail.of("agent.tool_result")
    assert [result.is_error for result in results] == [True, True, False, False]
    assert all(words(result).startswith("url_not_in_prior_context: ") for result in results[:2])
    assert "/unseen" not in [path for path, _ in web.requests]


async def test_what_a_tool_may_not_reach_is_an_error_result(stage: Stage, web: WebHost) -> None:
    page = web.page("x", path="/page")
    stage.play(
        Reply.tools(call(1, "web_fetch", url=page)),
        Reply.tools(call(2, "web_fetch", url="http://169.254.169.254/latest/meta-data/")),
        Reply.text("Done."),
    )
    session = await stage.session(toolset(web_fetch={"blocked_domains": ["example.org"]}))
    allowed = toolset(web_fetch={"allowed_domains": ["example.org"]})
    other = await stage.session(allowed)
    async with stage.watch(other.id) as tail:
        await stage.send(other.id, text("Read."))
        await tail.idle()
    assert [words(result).partition(":")[0] for result in tail.of("agent.tool_result")] == [
        "url_not_allowed",
        "url_not_allowed",
    ]
    assert session.agent.tools[0].configs[0].blocked_domains == ["example.org"]


async def test_lists_outside_of_a_limited_environment_are_refused(stage: Stage) -> None:
    client = stage.client
    agent = await client.beta.agents.create(
        name="Tester",
        model="claude-opus-5-5",
        system=stage.name,
        tools=[toolset(web_fetch={"allowed_domains": ["example.com"]})],
    )
    environment = await client.beta.environments.create(
        name="limited", config={"type": "cloud", "networking": {"type": "limited"}}
    )
    with pytest.raises(anthropic.BadRequestError, match=r"allowed_domains\.0: 'example\.com'"):
        await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    free = await client.beta.agents.create(name="Tester", model="claude-opus-5-5", system=stage.name)
    session = await client.beta.sessions.create(agent=free.id, environment_id=environment.id)
    stage.session_ids.append(session.id)
    with pytest.raises(anthropic.BadRequestError, match=r"allowed_domains\.0: 'example\.com'"):
        await client.beta.sessions.update(
            session.id, agent={"tools": [toolset(web_fetch={"allowed_domains": ["example.com"]})]}
        )
