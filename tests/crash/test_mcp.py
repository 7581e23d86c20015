"""kill -9 in the middle of a call to an MCP server: it happens once, its outcome is never made up."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, Reply
from tests.mcp_host import McpHost
from tests.served import text, until
from tests.stage import Stage, Stages, staged, words

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS = {
    "type": "mcp_toolset",
    "mcp_server_name": "notes",
    "default_config": {"permission_policy": {"type": "always_allow"}},
}


@pytest.fixture(scope="module")
def mcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpHost]:
    with McpHost.start("modern", tmp_path_factory.mktemp("mcp")) as host:
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(mcp: McpHost) -> AsyncIterator[Stages]:
    settings = {"mcp_private_hosts": (mcp.where,)}
    async with staged(crashing=True, settings=settings) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


def script(tool: str, **fields: Any) -> Any:
    def answer(request: Request) -> Answer:
        calling = Reply.tools(("toolu_1", f"mcp__notes__{tool}", fields))
        return calling if request.turns == 0 else Reply.text("Done.")

    return answer


async def opened(stage: Stage, mcp: McpHost) -> str:
    server = {"type": "url", "name": "notes", "url": mcp.url}
    return str((await stage.session(TOOLS, mcp_servers=[server])).id)


async def result(stage: Stage, session_id: str) -> Any:
    """The one result of the session's call, once it is idle."""

    def is_idle() -> bool:
        events = stage.server.snapshot(session_id).events
        return bool(events) and events[-1].type == "session.status_idle"

    await until(is_idle, every=0.05)
    await stage.rests(session_id)
    results = [e for e in await stage.history(session_id) if e.type == "agent.mcp_tool_result"]
    assert len(results) == 1
    return results[0]


async def test_the_server_dies_during_a_call_and_attaches_to_it(stage: Stage, mcp: McpHost) -> None:
    stage.script = script("hold")
    session_id = await opened(stage, mcp)
    before = len(mcp.calls)
    await stage.send_surely(session_id, text("Go."))
    await mcp.called(before + 1)
    await stage.server.kill("server")
    mcp.release()
    try:
        answer = await result(stage, session_id)
    finally:
        (mcp.directory / "go").unlink()
    assert (words(answer), answer.is_error) == ("released", False)
    assert [each["name"] for each in mcp.calls[before:]] == ["hold"], "one call came to the server"


async def test_the_server_dies_before_the_result_is_written(stage: Stage, mcp: McpHost) -> None:
    stage.script = script("echo", text="once")
    session_id = await opened(stage, mcp)
    before = len(mcp.calls)
    stage.server.crash_at("brain.after_tool")
    await stage.send_surely(session_id, text("Go."))
    answer = await result(stage, session_id)
    assert stage.server.has_crashed()
    assert (words(answer), answer.is_error) == ("once", False)
    assert len(mcp.calls) == before + 1


async def test_the_hands_die_during_a_call_and_say_that_they_do_not_know(
    stage: Stage, mcp: McpHost
) -> None:
    stage.script = script("hold")
    session_id = await opened(stage, mcp)
    before = len(mcp.calls)
    await stage.send_surely(session_id, text("Go."))
    await mcp.called(before + 1)
    await stage.server.kill("hands")
    answer = await result(stage, session_id)
    assert answer.is_error and "unknown" in words(answer)
    assert [each["name"] for each in mcp.calls[before:]].count("hold") == 1
