"""A model that says what the seed says: text, calls side by side, custom calls, or failures of any kind."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

from corral.brain.ports import (
    BlockStarted,
    ModelEvent,
    ModelFailed,
    ModelReply,
    ModelRequest,
    TextDelta,
    Usage,
)
from corral.brain.summary import INSTRUCTION
from corral.session.content import Block
from corral.testing.simulation.eventloop import CURRENT
from corral.testing.simulation.world import World

__all__ = ["SimulatedModel"]


class SimulatedModel:
    """`brain.ports.Model`. Refuses a conversation that a provider would refuse: that is a violation."""

    def __init__(self, world: World, *, rounds_max: int, narrow: Random | None = None) -> None:
        """narrow: what draws the sizes of conversations, if they are to outgrow the model's window."""
        self._world = world
        self._rounds_max = rounds_max
        self._nonce = 0
        self._narrow = narrow

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        world, chance = self._world, self._world.chance
        _check(request, world)
        await asyncio.sleep(chance.random() * 0.5)
        if world.happens(world.faults.model_fails):
            if chance.random() < 0.5:
                yield BlockStarted(index=0, type="text")
                yield TextDelta(index=0, text="half an ans")
            await self._fail()
        is_summary = INSTRUCTION in str(request.messages[-1]["content"][-1].get("text"))
        self._check_window(is_summary=is_summary)
        rounds = sum(
            block["type"] == "tool_result" for message in request.messages for block in message["content"]
        )
        blocks, stop_reason = self._blocks(rounds) if not is_summary else ([], "end_turn")
        self._nonce += 1
        nonce = f"reply-{self._nonce}"
        yield BlockStarted(index=0, type="text")
        yield TextDelta(index=0, text=nonce)
        if len(blocks) and chance.random() < 0.3:
            yield BlockStarted(index=1, type="tool_use")  # a sandbox warms up meanwhile
            await asyncio.sleep(chance.random() * 0.3)
        output_tokens = chance.randrange(1, 100)
        if not CURRENT.get().is_alive:
            raise asyncio.CancelledError
        world.ledger.replies[nonce] = output_tokens
        world.note("the model replies: %s, %s blocks", stop_reason, len(blocks))
        yield ModelReply(
            content=[{"type": "text", "text": nonce}, *self._padding(), *blocks],
            stop_reason=stop_reason,
            usage=Usage(input_tokens=self._prompt_tokens(), output_tokens=output_tokens),
        )

    def _padding(self) -> list[Block]:
        """A narrow model talks so much that there is something to summarise."""
        return [] if self._narrow is None else [{"type": "text", "text": "word " * 300}]

    def _check_window(self, *, is_summary: bool) -> None:
        """A narrow model now and then finds a request too long, also one for a summary."""
        if is_summary:
            self._world.note("the model is asked for a summary")
        if self._narrow is not None and self._narrow.random() < 0.1:
            self._world.note("the model finds a request too long")
            raise ModelFailed("too long", failure="context_overflow", retryable=False)

    def _prompt_tokens(self) -> int:
        """Of a narrow model, half the requests count as so much that a summary is due."""
        return 16_000 if self._narrow is not None and self._narrow.random() < 0.5 else 10

    def _blocks(self, rounds: int) -> tuple[list[Block], str]:
        chance = self._world.chance
        if rounds >= self._rounds_max or chance.random() < 0.15:
            return [], "end_turn" if chance.random() < 0.95 else "pause_turn" if rounds < 9 else "refusal"
        count = 1 if chance.random() < 0.6 else chance.randrange(2, 4)
        blocks = [self._call() for _ in range(count)]
        return blocks, "tool_use" if chance.random() < 0.95 else "max_tokens"

    def _call(self) -> Block:
        chance, draw = self._world.chance, self._world.chance.random()
        name = "bash" if draw < 0.5 else "write" if draw < 0.8 else "lookup" if draw < 0.95 else "teleport"
        seconds = chance.random() * (0.3 if chance.random() < 0.7 else 6.0)
        self._nonce += 1
        fields: dict[str, Any] = {"seconds": round(seconds, 3)}
        return {"type": "tool_use", "id": f"toolu_{self._nonce}", "name": name, "input": fields}

    async def _fail(self) -> None:
        chance = self._world.chance
        draw = chance.random()
        if draw < 0.05:
            await asyncio.sleep(30.0)  # silent, until the adapter gives up
        self._world.note("the model fails")
        raise ModelFailed(
            "the simulated model failed",
            failure="overloaded" if draw < 0.8 else "request_failed",
            retryable=draw < 0.8,
            retry_after_seconds=chance.random() * 3 if draw < 0.2 else None,
        )

    async def aclose(self) -> None:
        return


def _check(request: ModelRequest, world: World) -> None:
    """Every call answered, once, before the assistant speaks again; the conversation ends with the user."""
    open_calls: set[str] = set()
    role = ""
    for message in request.messages:
        role = message["role"]
        if role == "assistant" and open_calls:
            world.violation("a conversation goes on with calls that have no result")
        for block in message["content"]:
            if block["type"] == "tool_use":
                open_calls.add(block["id"])
            elif block["type"] == "tool_result":
                if block["tool_use_id"] not in open_calls:
                    world.violation("a conversation has a result without its call")
                open_calls.discard(block["tool_use_id"])
    if open_calls:
        world.violation("a request has calls without results")
