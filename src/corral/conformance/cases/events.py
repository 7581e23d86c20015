"""Turns: what an agent's work looks like on the wire. Most need a model that follows instructions."""

import asyncio
import secrets
from typing import Any

from corral.conformance.case import TURN_SECONDS_MAX, Target, case, check, refused, same

LOOK_UP = {
    "type": "custom",
    "name": "look_up",
    "description": "Looks a word up and returns its meaning.",
    "input_schema": {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
    },
}
ASKS = {
    "type": "agent_toolset_20260401",
    "default_config": {"enabled": True, "permission_policy": {"type": "always_ask"}},
}


def say(word: str) -> str:
    return f"Answer with exactly this word and nothing else: {word}"


def use_bash(command: str) -> str:
    return (
        f"Use the bash tool once, with exactly this command: {command}\nThen answer with its output only."
    )


def use_look_up(word: str) -> str:
    return f"Use the look_up tool once, with exactly this word: {word}\nThen answer with its result only."


def _types(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def _one(events: list[Any], kind: str) -> Any:
    found = [event for event in events if event.type == kind]
    same(len(found), 1, f"number of {kind} events")
    return found[0]


def _word() -> str:
    return secrets.token_hex(4)


def _text(events: list[Any]) -> str:
    return "".join(
        block.text for event in events if event.type == "agent.message" for block in event.content
    )


@case(
    "events",
    "POST /v1/sessions/{session_id}/events",
    "GET /v1/sessions/{session_id}/events",
    "GET /v1/sessions/{session_id}/events/stream",
    needs_model=True,
)
async def a_message_is_answered_and_everything_is_in_the_log(to: Target) -> None:
    session, word = await to.session(), _word()
    seen = await to.said(session.id, say(word))
    check(word in _text(seen), f"the answer {_text(seen)!r} has the word {word}")
    types = _types(seen)
    order = [
        "user.message",
        "session.status_running",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        "session.status_idle",
    ]
    places = [types.index(kind) for kind in order if kind in types]
    same(len(places), len(order), f"of {order}, how many came (all: {types})")
    same(seen[-1].stop_reason.type, "end_turn", "stop reason")
    check(all(event.processed_at for event in seen[1:]), "what is processed says when")
    listed = await to.every(to.beta.sessions.events.list(session.id, limit=3))
    same(
        {event.id for event in listed},
        {event.id for event in seen if event.id},
        "events of list and stream",
    )
    newest = await to.every(to.beta.sessions.events.list(session.id, order="desc"))
    same([event.id for event in newest], [event.id for event in listed][::-1], "order=desc")
    found = await to.rests(session.id)
    check(found.usage.output_tokens, "tokens are counted")


@case("events", "POST /v1/sessions", needs_model=True)
async def initial_events_begin_the_work(to: Target) -> None:
    word = _word()
    session = await to.session(
        initial_events=[{"type": "user.message", "content": [{"type": "text", "text": say(word)}]}]
    )
    same(session.status, "running", "status of the new session")
    same((await to.rests(session.id)).status, "idle", "status afterwards")
    events = await to.every(to.beta.sessions.events.list(session.id))
    check(word in _text(events), "the message was answered")


@case("events", "GET /v1/sessions/{session_id}/events/stream", needs_model=True)
async def a_command_runs_and_its_output_comes_back(to: Target) -> None:
    agent = await to.agent(tools=[{"type": "agent_toolset_20260401"}])
    session, word = await to.session(agent), _word()
    seen = await to.said(session.id, use_bash(f"echo {word}-$((20 + 22))"))
    use, result = _one(seen, "agent.tool_use"), _one(seen, "agent.tool_result")
    same(use.name, "bash", "name of the tool")
    same(
        (result.tool_use_id, result.is_error or False),
        (use.id, False),
        "tool_use_id and is_error of the result",
    )
    check(f"{word}-42" in result.content[0].text, "the result is the command's output")
    check(f"{word}-42" in _text(seen), "the model has read it")


@case("events", "POST /v1/sessions/{session_id}/events", needs_model=True)
async def a_custom_tool_is_answered_by_the_client(to: Target) -> None:
    session, word, meaning = await to.session(await to.agent(tools=[LOOK_UP])), _word(), _word()
    seen = await to.said(session.id, use_look_up(word))
    use = _one(seen, "agent.custom_tool_use")
    same((use.name, use.input.get("word")), ("look_up", word), "name and input")
    same(
        (seen[-1].stop_reason.type, seen[-1].stop_reason.event_ids),
        ("requires_action", [use.id]),
        "stop reason",
    )
    more = await to.sent(
        session.id,
        [
            {
                "type": "user.custom_tool_result",
                "custom_tool_use_id": use.id,
                "content": [{"type": "text", "text": meaning}],
            }
        ],
    )
    check(meaning in _text(more), "the model has read the result")
    same(more[-1].stop_reason.type, "end_turn", "stop reason")


@case("events", "POST /v1/sessions/{session_id}/events", needs_model=True)
async def a_call_waits_for_its_confirmation(to: Target) -> None:
    session, word = await to.session(await to.agent(tools=[ASKS])), _word()
    seen = await to.said(session.id, use_bash(f"echo {word}"))
    use = _one(seen, "agent.tool_use")
    same(use.evaluated_permission, "ask", "evaluated_permission")
    same(
        (seen[-1].stop_reason.type, seen[-1].stop_reason.event_ids),
        ("requires_action", [use.id]),
        "stop reason",
    )
    more = await to.sent(
        session.id, [{"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"}]
    )
    result = _one(more, "agent.tool_result")
    same((result.tool_use_id, word in result.content[0].text), (use.id, True), "the result")


@case("events", "POST /v1/sessions/{session_id}/events", needs_model=True)
async def a_denied_call_never_runs(to: Target) -> None:
    session, word = await to.session(await to.agent(tools=[ASKS])), _word()
    seen = await to.said(session.id, use_bash(f"echo {word} > denied"))
    use = _one(seen, "agent.tool_use")
    more = await to.sent(
        session.id,
        [
            {
                "type": "user.tool_confirmation",
                "tool_use_id": use.id,
                "result": "deny",
                "deny_message": "Not today; answer with the word enough.",
            }
        ],
    )
    result = _one(more, "agent.tool_result")
    same(result.is_error, True, "is_error of the result")
    same(more[-1].type, "session.status_idle", "the last event")


@case("events", "POST /v1/sessions/{session_id}/events", needs_model=True)
async def an_interrupt_ends_a_running_command(to: Target) -> None:
    agent = await to.agent(tools=[{"type": "agent_toolset_20260401"}])
    session = await to.session(agent)
    async with asyncio.timeout(TURN_SECONDS_MAX):
        async with await to.beta.sessions.events.stream(session.id) as stream:
            await to.beta.sessions.events.send(
                session.id,
                events=[
                    {
                        "type": "user.message",
                        "content": [{"type": "text", "text": use_bash("sleep 100 && echo late")}],
                    }
                ],
            )
            seen = []
            async for event in stream:
                seen.append(event)
                if event.type == "agent.tool_use":
                    await to.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
                if event.type == "session.status_idle":
                    break
    same(seen[-1].stop_reason.type, "end_turn", "stop reason")
    check("late" not in _text(seen), "the command did not end by itself")
    word = _word()
    check(word in _text(await to.said(session.id, say(word))), "the session goes on afterwards")


@case("events", "DELETE /v1/sessions/{session_id}", needs_model=True)
async def a_running_session_is_neither_archived_nor_deleted(to: Target) -> None:
    session = await to.session(await to.agent(tools=[{"type": "agent_toolset_20260401"}]))
    asked = {"type": "user.message", "content": [{"type": "text", "text": use_bash("sleep 100")}]}
    async with asyncio.timeout(TURN_SECONDS_MAX):
        async with await to.beta.sessions.events.stream(session.id) as stream:
            await to.beta.sessions.events.send(session.id, events=[asked])
            async for event in stream:
                if event.type == "agent.tool_use":
                    break
    with refused(400):
        await to.beta.sessions.delete(session.id)
    with refused(400):
        await to.beta.sessions.archive(session.id)


@case("events", "GET /v1/sessions/{session_id}/threads/{thread_id}/stream", needs_model=True)
async def a_thread_streams_its_own_events(to: Target) -> None:
    session, word = await to.session(), _word()
    threads = await to.every(to.beta.sessions.threads.list(session.id))
    seen = []
    async with asyncio.timeout(TURN_SECONDS_MAX):
        async with await to.beta.sessions.threads.events.stream(
            threads[0].id, session_id=session.id
        ) as stream:
            await to.beta.sessions.events.send(
                session.id,
                events=[{"type": "user.message", "content": [{"type": "text", "text": say(word)}]}],
            )
            async for event in stream:
                seen.append(event)
                if event.type.endswith("status_idle"):
                    break
    check(word in _text(seen), "the answer is on the thread's stream")


@case("events", "POST /v1/sessions/{session_id}/events")
async def what_cannot_be_sent_is_named_and_nothing_of_it_is_kept(to: Target) -> None:
    session = await to.session()
    fine = {"type": "user.message", "content": [{"type": "text", "text": "x"}]}
    for wrong in (
        {"type": "user.nonsense"},
        {"type": "agent.message", "content": []},
        {"type": "user.message", "content": [{"type": "text"}]},
        {"type": "user.tool_confirmation", "tool_use_id": "sevt_none", "result": "allow"},
        {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_none", "content": []},
    ):
        with refused(400):
            await to.beta.sessions.events.send(session.id, events=[fine, wrong])
    same(await to.every(to.beta.sessions.events.list(session.id)), [], "events afterwards")
