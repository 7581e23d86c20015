"""Event streams of turns: previews, and resuming wherever the connection broke."""

import asyncio
import random
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from anthropic.lib.sessions import accumulate_managed_agents_event

from corral.testing.messages_reply import HttpError, Reply
from tests.served import KEY, WAIT_SECONDS, text
from tests.stage import PREVIEWS, Stage, frames, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOTH = ["agent.message", "agent.thinking"]
THINKING = {"type": "thinking", "thinking": "Let me think.", "signature": "sig"}


def block(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


async def test_previews_are_prefixes_of_what_follows(stage: Stage) -> None:
    """Several blocks, thinking between them, a tool: each preview is closed by its final event."""
    content = [THINKING, block("First part. "), block("Second part."), THINKING, block("Third.")]
    call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "true"}}
    stage.play(
        Reply(
            content=[*content, call],
            stop_reason="tool_use",
            delta_chars=4,
            drip_bytes=300,
            drip_seconds=0.001,
        ),
        Reply(content=[block("Over.")], delta_chars=1),
    )
    session = await stage.session()
    async with (
        stage.watch(session.id, event_deltas=BOTH) as tail,
        stage.watch(session.id) as plain,
        stage.watch(session.id, event_deltas=["agent.thinking"]) as thinking,
    ):
        await stage.send(session.id, text("Go."))
        await tail.idle()
        await plain.idle()
        await thinking.idle()
    finals = {event.id: n for n, event in enumerate(tail.events) if event.type in BOTH}
    starts = {event.event.id: n for n, event in enumerate(tail.events) if event.type == "event_start"}
    assert set(starts) == set(finals), "every message and every thought was announced"
    assert len(starts) == len(tail.of("event_start")), "once"
    shown: dict[tuple[str, int], str] = {}
    for n, event in enumerate(tail.events):
        if event.type == "event_delta":
            assert starts[event.event_id] < n < finals[event.event_id]
            key = event.event_id, event.delta.index
            shown[key] = shown.get(key, "") + event.delta.content.text
    said = [event for event in tail.events if event.type == "agent.message"]
    assert shown == {
        (event.id, index): part.text for event in said for index, part in enumerate(event.content)
    }, "with nothing shed, the deltas are the whole text"
    assert [words(event) for event in said] == ["First part. Second part.", "Third.", "Over."]

    assert not [event for event in plain.events if event.type in PREVIEWS]
    assert [event.id for event in plain.events] == [e.id for e in tail.events if e.type not in PREVIEWS]
    previews = [event for event in thinking.events if event.type in PREVIEWS]
    assert [event.event.type for event in previews] == ["agent.thinking"] * 2


async def test_the_sdks_own_accumulator_takes_them(stage: Stage) -> None:
    stage.play(Reply(content=[THINKING, block("One. "), block("Two.")], delta_chars=2))
    session = await stage.session()
    async with stage.watch(session.id, event_deltas=BOTH) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    grown: Any = None
    lengths = []
    for event in tail.events:
        grown = accumulate_managed_agents_event(grown, event)
        lengths.append(0 if grown is None else len(words(grown)))
    assert words(grown) == "One. Two." and grown.id == (await tail.until("agent.message")).id
    assert lengths == sorted(lengths) and len(set(lengths)) > 4, "it grew with the deltas"


async def test_a_preview_of_a_failed_request_has_no_final_event(stage: Stage) -> None:
    reply = Reply.text("This will never be said in full.")
    stage.play(
        Reply(content=reply.content, error_after=(5, "api_error", "oops")),
        HttpError(status=400),
    )
    session = await stage.session()
    async with stage.watch(session.id, event_deltas=BOTH) as tail:
        await stage.send(session.id, text("Go."))
        await tail.idle()
    (start,) = tail.of("event_start")
    assert not tail.of("agent.message")
    positions = [n for n, event in enumerate(tail.events) if event.type == "event_delta"]
    end = next(n for n, event in enumerate(tail.events) if event.type == "span.model_request_end")
    assert positions and max(positions) < end
    assert start.event.id not in [event.id for event in await stage.history(session.id)]


async def test_resume_wherever_the_connection_broke(stage: Stage) -> None:
    """Readers that leave after a random number of events, again and again, while turns go on: each sees
    every event once. Echo and processed form of an input are two events."""
    chance = random.Random(20261120)
    calls = [(f"toolu_{n}", "bash", {"command": f"echo {n}"}) for n in range(3)]
    first_go, second_go = asyncio.Event(), asyncio.Event()
    look = Reply.tools(*calls, say="Look.")
    stage.play(
        Reply(content=look.content, stop_reason="tool_use", held_until=first_go),
        Reply(content=[block("Well.")], delta_chars=1, held_until=second_go),
        Reply.text("And again."),
    )
    session = await stage.session()
    first = await stage.send(session.id, {"type": "user.interrupt"})

    async def read_in_pieces(http: httpx2.AsyncClient, *, patience: int) -> list[tuple[str, str | None]]:
        seen: list[tuple[str, str | None]] = []
        cursor, is_last = "0.0", False
        while True:
            leave_after = chance.randint(1, patience)
            # Opting in to previews must not disturb the cursor: they carry none.
            async with aclosing(
                frames(http, session.id, cursor=cursor, **{"event_deltas[]": BOTH})
            ) as reading:
                async for frame_id, event in reading:
                    if event["type"] in PREVIEWS:
                        assert not frame_id
                        continue
                    cursor = frame_id
                    seen.append((event["id"], event["processed_at"]))
                    is_last |= (
                        event["type"] == "agent.message" and event["content"][0]["text"] == "And again."
                    )
                    if event["type"] == "session.status_idle" and is_last:
                        return seen
                    leave_after -= 1
                    if not leave_after:
                        break

    async with (
        httpx2.AsyncClient(
            base_url=stage.server.url, headers={"x-api-key": KEY}, timeout=WAIT_SECONDS
        ) as http,
        asyncio.TaskGroup() as group,
    ):
        readers = [group.create_task(read_in_pieces(http, patience=n)) for n in (1, 2, 3, 5, 8, 100)]
        await stage.send(session.id, text("Go."))
        await stage.asked(1)
        await stage.send(session.id, text("And this."), text("And that."))
        first_go.set()
        await stage.asked(2)
        await stage.send(session.id, text("One more."))
        second_go.set()
    results = [reader.result() for reader in readers]
    history = [event.to_dict(mode="json") for event in await stage.history(session.id)]
    sent = [event["id"] for event in history if event["type"].startswith("user.")]
    for seen in results:
        assert len(set(seen)) == len(seen), "nothing comes twice"
        # Nothing is missing. Where an echo stands between the log's events depends on who read when, but it
        # is always before its processed form.
        assert [event_id for event_id, at in seen if at is not None] == [event["id"] for event in history]
        assert [event_id for event_id, at in seen if at is None] == sent == [first[0].id, *sent[1:]]
        places = {event: place for place, event in enumerate(seen)}
        for event_id, at in seen:
            assert at is None or event_id not in sent or places[event_id, None] < places[event_id, at]


async def test_a_stream_without_a_cursor_begins_now(stage: Stage) -> None:
    stage.play(Reply.text("One."), Reply.text("Two."))
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("1"))
        await tail.idle()
    async with stage.watch(session.id) as later:
        await stage.send(session.id, text("2"))
        await later.idle()
    assert [words(event) for event in later.of("agent.message")] == ["Two."]
    assert later.events[0].type == "user.message" and later.events[0].processed_at is None
