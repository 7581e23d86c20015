"""Which tools of MCP servers a thread is told of, when, and what a call of one that is gone comes to."""

from collections.abc import Sequence
from typing import Any

from corral.brain.actions import Seek, Sought
from corral.brain.context import build
from corral.brain.mcp import list_tools
from corral.catalog.mcp.servers import McpServer, McpTools
from corral.kernel.errors import HandsUnavailable
from corral.kernel.ids import SessionId
from tests.unit.brain.scene import MODELS, THREAD, Scene, agent, call, text

NOTES = McpServer(name="notes", url="https://notes.example/mcp")
OTHER = McpServer(name="other", url="https://other.example/mcp")
SEEK = Seek(thread_id=THREAD, waits=True)


def toolset(name: str) -> dict[str, Any]:
    config = {"enabled": True, "permission_policy": {"type": "always_allow"}}
    return {"type": "mcp_toolset", "mcp_server_name": name, "default_config": config, "configs": []}


def scene() -> Scene:
    snapshot = agent(tools=[toolset("notes"), toolset("other")])
    servers = [{"type": "url", "name": each.name, "url": each.url} for each in (NOTES, OTHER)]
    return Scene({**snapshot, "mcp_servers": servers})


def listing(server: McpServer, *names: str) -> McpTools:
    tools = [{"name": name, "description": name, "input_schema": {"type": "object"}} for name in names]
    return McpTools(server=server, tools=tuple(tools))


def failed(server: McpServer) -> McpTools:
    error = {"type": "mcp_connection_failed_error", "mcp_server_name": server.name, "message": "no"}
    return McpTools(server=server, error=error)


def sought(*listings: McpTools) -> Sought:
    return Sought(action=SEEK, skills=(), listings=listings)


def at_work(*listings: McpTools) -> Scene:
    """Its first request was made, told of these; the reply to it has called a tool, which ran."""
    made = scene()
    made.say("hello")
    made.step()
    assert made.decide() == {SEEK}
    made.step(sought(*listings))
    made.asked()
    made.step(made.reply(call(1)))
    made.decide()
    assert made.step(made.ran()) == ["agent.tool_result"], "a look comes before the next request"
    assert made.decide() == {SEEK}
    return made


def offered(made: Scene) -> list[str]:
    thread = made.state.primary
    request = build(made.state.session_id, thread, MODELS.resolve(thread.model))
    return [tool["name"] for tool in request.tools if tool["name"].startswith("mcp__")]


def told(made: Scene) -> list[Any]:
    """What each request was the first to be told of."""
    starts = [new for new in made.events if new.event.type == "span.model_request_start"]
    return [(new.private or {}).get("mcp") for new in starts]


def test_a_change_is_in_the_next_request_and_in_the_log() -> None:
    made = at_work(listing(NOTES, "a"), listing(OTHER, "b"))
    assert made.step(sought(listing(NOTES, "a", "c"))) == ["span.model_request_start"]
    made.asked()
    assert offered(made) == ["mcp__notes__a", "mcp__notes__c", "mcp__other__b"]
    assert [sorted(news) for news in told(made)] == [["notes", "other"], ["notes"]]
    assert made.rebuilt().primary.mcp == made.state.primary.mcp
    made.restart()
    made.step()
    assert made.decide() == {SEEK}, "a later brain looks again,"
    made.step(sought())
    assert offered(made) == ["mcp__notes__a", "mcp__notes__c", "mcp__other__b"], "and knows what was told"


def test_what_did_not_change_is_not_logged_again() -> None:
    made = at_work(listing(NOTES, "a"), listing(OTHER, "b"))
    made.step(sought(listing(NOTES, "a")))
    made.asked()
    made.step(made.reply(text("Done.")))
    assert told(made)[1:] == [None]
    assert offered(made) == ["mcp__notes__a", "mcp__other__b"]


def test_each_request_looks_once() -> None:
    made = at_work(listing(NOTES, "a"))
    for number in range(3):
        assert made.step() == [] and made.decide() == set(), "one look is under way"
        made.step(sought(listing(NOTES, f"a{number}")))
        made.asked()
        made.step(made.reply(call(number + 2)))
        assert SEEK not in made.decide(), "there is nothing to look for while calls run"
        made.step(made.ran())
        assert made.decide() == {SEEK}


def test_a_tool_that_is_gone_is_refused_in_words() -> None:
    made = at_work(listing(NOTES, "a", "b"))
    made.step(sought(listing(NOTES, "b")))
    made.asked()
    made.step(made.reply(call(2, "mcp__notes__a")))
    made.step()
    assert made.last("agent.mcp_tool_use").evaluated_permission == "deny"
    result = made.last("agent.mcp_tool_result")
    assert result.is_error and "no tool 'a' that is enabled" in result.content[0]["text"]


def test_a_server_that_fails_meanwhile_keeps_its_tools_and_is_told_of_once() -> None:
    made = at_work(listing(NOTES, "a"), listing(OTHER, "b"))
    assert made.step(sought(failed(NOTES))) == ["session.error", "span.model_request_start"]
    made.asked()
    made.step(made.reply(call(2)))
    made.decide()
    made.step(made.ran())
    assert made.decide() == {SEEK}
    assert made.step(sought(failed(NOTES))) == ["span.model_request_start"]
    assert offered(made) == ["mcp__notes__a", "mcp__other__b"]


class Hands:
    """As much of `corral.brain.ports.Hands` as lists tools."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.is_away = is_away
        self.asked: list[tuple[list[str], bool]] = []

    async def list_tools(
        self, session_id: SessionId, servers: Sequence[McpServer], *, epoch: int, only_changed: bool = False
    ) -> Sequence[McpTools]:
        if self.is_away:
            raise HandsUnavailable("gone")
        self.asked.append(([server.name for server in servers], only_changed))
        return [listing(server, "a") for server in servers]


async def test_a_server_that_has_failed_is_left_alone_until_the_session_goes_running() -> None:
    made = at_work(failed(NOTES), listing(OTHER, "b"))
    hands: Any = Hands()
    for only_changed in (True, False):
        await list_tools(hands, made.state, made.state.primary, epoch=1, only_changed=only_changed)
    assert hands.asked == [(["other"], True), (["notes", "other"], False)]


async def test_without_a_host_nothing_is_news_in_the_middle_of_a_turn() -> None:
    made = at_work(listing(NOTES, "a"), listing(OTHER, "b"))
    hands: Any = Hands(is_away=True)
    thread = made.state.primary
    assert await list_tools(hands, made.state, thread, epoch=1, only_changed=True) == ()
    first = await list_tools(hands, made.state, thread, epoch=1, only_changed=False)
    assert [each.error is not None for each in first] == [True, True]
