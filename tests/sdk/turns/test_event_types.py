"""Every event type in scope, received by an unmodified client that validates strictly."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, get_args, get_origin

import anthropic
import pytest
from anthropic.types.beta.sessions import (
    BetaManagedAgentsSessionEvent,
    BetaManagedAgentsStreamSessionEvents,
)

from corral.brain.summary import INSTRUCTION
from corral.conformance.surface import EVENT_TYPES, EVENT_TYPES_LATER
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from corral.testing.messages_window import TOKEN_BYTES
from tests.mcp_host import McpHost
from tests.served import KEY, text
from tests.stage import ASK, LOOKUP, MODEL, NARROW, TOOLSET, Stage, Tail

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "Hello again. " * 1_000
PREVIEWED = {"event_deltas": ["agent.message", "agent.thinking"]}


def members(union: Any) -> Iterator[Any]:
    if get_origin(union) is Annotated:
        union = get_args(union)[0]
    for each in get_args(union) or (union,):
        yield from members(each) if get_args(each) else (each,)


def types_of_the_sdk() -> set[str]:
    classes = {*members(BetaManagedAgentsSessionEvent), *members(BetaManagedAgentsStreamSessionEvents)}
    return {name for each in classes for name in get_args(each.model_fields["type"].annotation)}


class Seen:
    """What a strict client receives, by type."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.count = stage, Counter[str]()
        self.known = {
            *members(BetaManagedAgentsSessionEvent),
            *members(BetaManagedAgentsStreamSessionEvents),
        }

    @asynccontextmanager
    async def watch(self, session_id: str) -> AsyncIterator[Tail]:
        async with self.stage.watch(session_id, **PREVIEWED) as tail:
            yield tail
        for event in tail.events:
            assert type(event) in self.known, f"{event.type} is none of the SDK's"
            self.count[event.type] += 1


async def at_rest(tail: Tail) -> int:
    """Wait for the end of the turn that is running, or has just run. Returns how many idles there are."""
    number = len(tail.of("session.status_idle")) + (tail.types[-1] != "session.status_idle")
    await tail.idle(number)
    return number


async def ask_and_answer(seen: Seen) -> None:
    """A failure that passes, thinking, text, a confirmed call, a custom one; archived at the end."""
    stage = seen.stage
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    calls = Reply.tools(
        ("toolu_1", "bash", {"command": "true"}),
        ("toolu_2", "lookup", {"word": "corral"}),
        say="One moment.",
    )
    calls = Reply(content=[thought, *calls.content], stop_reason="tool_use")
    stage.play(HttpError(status=529), calls, Reply.text("Done."), Reply.text("Noted."))
    session = await stage.session(ASK, LOOKUP)
    async with seen.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
        [use], [custom] = tail.of("agent.tool_use"), tail.of("agent.custom_tool_use")
        await stage.send(
            session.id,
            {"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"},
            {
                "type": "user.custom_tool_result",
                "custom_tool_use_id": custom.id,
                "content": [{"type": "text", "text": "a pen"}],
            },
        )
        await tail.until("agent.message", 2)
        idle = await at_rest(tail)
        await stage.client.beta.sessions.update(session.id, title="Another")
        told = {"type": "system.message", "content": [{"type": "text", "text": "Be brief."}]}
        await stage.send(session.id, text("And now."), told)
        await tail.until("agent.message", 3)
        await tail.idle(idle + 1)
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.until("user.interrupt", 2)
        await stage.rests(session.id)
        await stage.client.beta.sessions.archive(session.id)
        await tail.until("session.status_terminated")


async def outgrow_the_window(seen: Seen) -> None:
    def answer(request: Request) -> Answer:
        last = request.json["messages"][-1]["content"][-1]
        said = "We greeted each other." if INSTRUCTION in last.get("text", "") else LONG
        return Reply(
            content=Reply.text(said).content, usage={"input_tokens": len(request.body) // TOKEN_BYTES}
        )

    stage = seen.stage
    stage.script = answer
    session = await stage.session(model=NARROW)
    async with seen.watch(session.id) as tail:
        for number in range(1, 8):
            await stage.send(session.id, text(LONG))
            await tail.idle(number)
            if tail.of("agent.thread_context_compacted"):
                break


async def answer_as_a_worker(seen: Seen) -> None:
    """In a self-hosted environment; deleted at the end."""
    stage, beta = seen.stage, seen.stage.client.beta
    stage.script = lambda request: (
        Reply.text("Done.") if request.turns else Reply.tools(("toolu_3", "bash", {"command": "true"}))
    )
    environment = await beta.environments.create(name="mine", config={"type": "self_hosted"})
    agent = await beta.agents.create(name="Tester", model=MODEL, system=stage.name, tools=[TOOLSET])
    session = await beta.sessions.create(agent=agent.id, environment_id=environment.id)
    async with seen.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        use = await tail.until("agent.tool_use")
        result = {"type": "user.tool_result", "tool_use_id": use.id, "content": []}
        await stage.send(session.id, result)
        await tail.until("agent.message")
        await at_rest(tail)
        await beta.sessions.delete(session.id)
        await tail.ended()


async def call_an_mcp_server(seen: Seen, mcp: McpHost) -> None:
    stage = seen.stage
    stage.script = lambda request: (
        Reply.text("Done.")
        if request.turns
        else Reply.tools(("toolu_4", "mcp__notes__echo", {"text": "hi"}))
    )
    policy = {"permission_policy": {"type": "always_allow"}}
    tools = {"type": "mcp_toolset", "mcp_server_name": "notes", "default_config": policy}
    server = {"type": "url", "name": "notes", "url": mcp.url}
    session = await stage.session(tools, mcp_servers=[server])
    async with seen.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()


async def test_every_event_type_in_scope_is_received(stage: Stage, mcp: McpHost) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=stage.server.url, api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as stage.client:
        seen = Seen(stage)
        await ask_and_answer(seen)
        await outgrow_the_window(seen)
        await answer_as_a_worker(seen)
        await call_an_mcp_server(seen, mcp)
    print(f"event types: {len(seen.count)} received, {len(EVENT_TYPES)} in scope; {dict(seen.count)}")
    assert set(EVENT_TYPES) - set(seen.count) == set(), "these came to no client"
    assert set(seen.count) - set(EVENT_TYPES) == set(), "these are said not to be there yet"


async def test_the_types_in_scope_and_those_of_later_are_all_that_the_sdk_knows() -> None:
    assert not set(EVENT_TYPES) & set(EVENT_TYPES_LATER)
    assert {*EVENT_TYPES, *EVENT_TYPES_LATER} == types_of_the_sdk()
