"""Whole turns: unmodified SDK -> real server -> fake Messages API -> real sandbox, and back."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from corral.testing.messages_api import MessagesApi, by_turn
from corral.testing.messages_reply import Reply
from tests.served import Served, make_session, served, text, until_idle


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[MessagesApi]:
    async with MessagesApi() as api:
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(upstream: MessagesApi) -> AsyncIterator[Served]:
    async with served(messages_url=upstream.url) as server:
        yield server


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tool_turn_streams_in_the_hosted_order(server: Served, upstream: MessagesApi) -> None:
    upstream.script = by_turn(
        [
            Reply.tools(("toolu_1", "bash", {"command": "echo $((6*7)) > answer; cat answer"})),
            Reply.text("42."),
        ]
    )
    client = server.client
    session = await make_session(client)
    assert session.status == "idle"
    async with await client.beta.sessions.events.stream(session.id) as stream:
        sent = await client.beta.sessions.events.send(session.id, events=[text("What is 6*7?")])
        events = await until_idle(stream)
    assert [event.type for event in events] == [
        "user.message",  # the echo, queued
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
        "agent.tool_use",
        "span.model_request_end",
        "agent.tool_result",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.thread_status_idle",
        "session.usage",
        "session.status_idle",
    ]
    echo, processed = (event for event in events if event.type == "user.message")
    assert echo.id == processed.id == sent.data[0].id
    assert echo.processed_at is None and processed.processed_at is not None
    result = next(event for event in events if event.type == "agent.tool_result")
    assert (result.content[0].text.strip(), result.is_error) == ("42", False)

    listed = [event async for event in client.beta.sessions.events.list(session.id)]
    assert [event.id for event in listed] == [event.id for event in events[1:]]
    now = await client.beta.sessions.retrieve(session.id)
    assert now.status == "idle"
    assert now.usage.output_tokens and now.stats.active_seconds
