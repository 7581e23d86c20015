"""What every model adapter must do; run these checks on your own.

    async def test_reply(model, request):
        await check_reply(model, request)

`request` must be answered by at least one text block. The checks use nothing but the `Model` port.
"""

from contextlib import aclosing
from typing import Any

from corral.brain.ports import BlockStarted, Model, ModelEvent, ModelReply, ModelRequest, TextDelta


async def collect(model: Model, request: ModelRequest) -> list[ModelEvent]:
    """Everything one request yields."""
    return [event async for event in model.stream(request)]


async def check_reply(model: Model, request: ModelRequest) -> ModelReply:
    """One terminal reply, and previews before it that agree with it."""
    events = await collect(model, request)
    reply = events[-1]
    assert isinstance(reply, ModelReply), "the last event is the reply"
    assert sum(isinstance(event, ModelReply) for event in events) == 1, "there is one reply"
    assert reply.stop_reason, "a reply says why it stopped"
    started: list[str] = []
    text: dict[int, str] = {}
    for event in events[:-1]:
        if isinstance(event, BlockStarted):
            assert event.index == len(started), "blocks start in order, none is left out"
            started.append(event.type)
        elif isinstance(event, TextDelta):
            assert event.index == len(started) - 1, "a delta belongs to the block that is open"
            assert started[event.index] == "text", "only text blocks have text deltas"
            text[event.index] = text.get(event.index, "") + event.text
    assert started == [block["type"] for block in reply.content], "every block was announced"
    for index, block in enumerate(reply.content):
        if block["type"] == "text":
            assert text.get(index, "") == block["text"], "the deltas add up to the text"
        if block["type"] == "tool_use":
            assert block["id"] and block["name"] and isinstance(block["input"], dict), "a call is complete"
    ids = [block["id"] for block in reply.content if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids), "tool ids are unique"
    if reply.stop_reason in ("tool_use", "end_turn"):
        assert bool(ids) == (reply.stop_reason == "tool_use"), "it stops for its tool calls, and only then"
    return reply


async def check_abort(model: Model, request: ModelRequest) -> None:
    """A reader may leave after any event; the model is usable afterwards."""
    count = len(await collect(model, request))
    for leave_after in {1, count // 2, count - 1}:
        stream: Any = model.stream(request)
        async with aclosing(stream):
            seen = 0
            async for _ in stream:
                seen += 1
                if seen >= leave_after:
                    break
    await check_reply(model, request)


async def check_close(model: Model) -> None:
    """Closing twice is safe."""
    await model.aclose()
    await model.aclose()
