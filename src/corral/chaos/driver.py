"""The clients: each drives one session after another, as a good client of a server that dies would.

Every send has one Idempotency-Key for all its attempts and goes to any node until it is acknowledged. What
a client believes comes from its stream alone; what it was told by an acknowledgement is written down.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import anthropic
import httpx2

from corral.chaos.history import Sent
from corral.chaos.plan import Call, Kind, Turn, lookup_tool, turns
from corral.chaos.watch import Watch
from corral.session.content import Json

__all__ = ["Clients", "Dialogue", "Refused"]

T = TypeVar("T")
MODEL: Final = "claude-opus-5-5"
TURNS_MAX: Final = 25  # of one session, then a new one: long conversations are another test's matter
PATIENCE_SECONDS: Final = 20.0  # for one answer; a server that hangs is not waited for
AGAIN_SECONDS: Final = 0.1
_TOOLSET: Final = {"type": "agent_toolset_20260401"}
_ASKING: Final = {**_TOOLSET, "default_config": {"permission_policy": {"type": "always_ask"}}}


class Refused(Exception):
    """The server refused what it should have taken."""


@dataclass(kw_only=True)
class Dialogue:
    """One session, as its client knows it. `asks`: its agent asks before every call."""

    name: str
    session_id: str
    asks: bool
    watch: Watch
    sent: list[Sent] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    turns_done: int = 0
    confirmed: set[str] = field(default_factory=set)  # calls answered by us, or being answered
    refused: list[str] = field(default_factory=list)
    is_over: bool = False
    doing: str = ""


class Clients:
    """All clients of a cluster. `prepare`, then `run` any number of them side by side."""

    def __init__(self, urls: Sequence[str], *, api_key: str, seed: int, kinds: Sequence[Kind]) -> None:
        self.dialogues: list[Dialogue] = []
        self.attempts_failed = 0
        self.turn_seconds: list[float] = []
        self._urls = list(urls)
        self._api_key = api_key
        self._seed = seed
        self._kinds = kinds
        # No retries of its own: an attempt goes to another node, and is counted.
        self._apis = [
            anthropic.AsyncAnthropic(base_url=url, api_key=api_key, max_retries=0, timeout=PATIENCE_SECONDS)
            for url in urls
        ]
        self._agents: dict[bool, str] = {}
        self._environment_id = ""

    async def aclose(self) -> None:
        for api in self._apis:
            await api.close()

    async def prepare(self) -> None:
        """Make the two agents and the environment that all sessions use."""
        for asks in (False, True):
            tools: list[Any] = [_ASKING if asks else _TOOLSET, lookup_tool()]
            self._agents[asks] = await self._agent(f"agent {asks}", tools)
        environment = await self._surely(
            "environment", lambda api, key: api.beta.environments.create(name="chaos", extra_headers=key)
        )
        self._environment_id = environment.id

    async def _agent(self, key: str, tools: list[Any]) -> str:
        agent = await self._surely(
            key,
            lambda api, headers: api.beta.agents.create(
                name="Chaos", model=MODEL, tools=tools, extra_headers=headers
            ),
        )
        return agent.id

    async def run(self, number: int, *, enough: asyncio.Event) -> None:
        """One client: sessions one after another until there is `enough`; the last turn is finished."""
        generation = 0
        while not enough.is_set():
            await self.converse(
                f"s{number}x{generation}", asks=(number + generation) % 3 == 2, enough=enough
            )
            generation += 1

    async def converse(self, name: str, *, asks: bool, enough: asyncio.Event) -> None:
        """One session from its creation through up to TURNS_MAX turns."""
        dialogue = await self.open(name, asks=asks)
        reading = asyncio.create_task(dialogue.watch.read(), name=f"watch {name}")
        try:
            plan = turns(self._seed, name, kinds=self._kinds)
            while dialogue.turns_done < TURNS_MAX and not enough.is_set():
                await self.take(dialogue, next(plan))
            dialogue.is_over = True
        except Refused as refusal:
            dialogue.refused.append(str(refusal))
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def open(self, name: str, *, asks: bool) -> Dialogue:
        """A new session and its reader, which is not started yet."""
        session = await self._surely(
            f"session {name}",
            lambda api, key: api.beta.sessions.create(
                agent=self._agents[asks], environment_id=self._environment_id, extra_headers=key
            ),
        )
        watch = Watch(
            session.id, urls=self._urls, api_key=self._api_key, previews=len(self.dialogues) % 2 == 0
        )
        dialogue = Dialogue(name=name, session_id=session.id, asks=asks, watch=watch)
        self.dialogues.append(dialogue)
        return dialogue

    async def take(self, dialogue: Dialogue, orders: Sequence[Turn]) -> None:
        """Send these messages and see them through to their end, answering what is asked."""
        began, watch = time.monotonic(), dialogue.watch
        dialogue.calls |= {call.token: call for turn in orders for call in turn.calls}
        messages = [
            {"type": "user.message", "content": [{"type": "text", "text": turn.text}]} for turn in orders
        ]
        if any(dialogue.asks or call.tool == "lookup" for turn in orders for call in turn.calls):
            # One may ask us something before a later one is there, which is then rightly refused.
            waits_for = set(await self.send(dialogue, *messages, key=orders[0].token))
        else:
            waits_for = set()
            for turn, message in zip(orders, messages, strict=True):
                waits_for |= set(await self.send(dialogue, message, key=turn.token))
        interrupt = next((turn for turn in orders if turn.kind == "interrupt"), None)

        def may_interrupt() -> bool:
            return interrupt is not None and self._may_interrupt(dialogue, interrupt)

        def is_over() -> bool:
            return watch.is_idle and not watch.blocked and waits_for <= watch.processed

        while not is_over():
            dialogue.doing = f"{orders[-1].kind} {orders[-1].token}, waits"
            await watch.until(
                lambda: is_over() or may_interrupt() or bool(set(watch.blocked) - dialogue.confirmed)
            )
            for call_id in [each for each in watch.blocked if each not in dialogue.confirmed]:
                await self._answer(dialogue, watch.uses[call_id])
            if interrupt is not None and may_interrupt():
                await asyncio.sleep(random.uniform(0.0, 0.3))
                key = f"{interrupt.token} interrupt"
                waits_for |= set(await self.send(dialogue, {"type": "user.interrupt"}, key=key))
                interrupt = None
        dialogue.turns_done += len(orders)
        self.turn_seconds.append(time.monotonic() - began)

    def _may_interrupt(self, dialogue: Dialogue, turn: Turn) -> bool:
        """Its call is there, and is not ours to answer any more."""
        commands = [
            use["id"]
            for use in dialogue.watch.uses.values()
            if use["name"] == "bash" and turn.calls[0].token in str(use["input"])
        ]
        return any(not dialogue.asks or call_id in dialogue.confirmed for call_id in commands)

    async def _answer(self, dialogue: Dialogue, use: Mapping[str, Json]) -> None:
        event: dict[str, Json]
        if use["type"] == "agent.custom_tool_use":
            word = use["input"]["word"]
            content = [{"type": "text", "text": f"found {word}"}]
            event = {
                "type": "user.custom_tool_result",
                "custom_tool_use_id": use["id"],
                "content": content,
            }
        else:
            denied = any(
                call.denied and f" {token} " in f"{use['input'].get('command', '')} "
                for token, call in dialogue.calls.items()
            )
            event = {
                "type": "user.tool_confirmation",
                "tool_use_id": use["id"],
                "result": "deny" if denied else "allow",
            }
        await self.send(dialogue, event, key=use["id"])
        dialogue.confirmed.add(use["id"])

    async def send(self, dialogue: Dialogue, *events: Mapping[str, Json], key: str) -> list[str]:
        """Send events in one request until it is acknowledged; returns their ids. Raises Refused."""
        dialogue.doing = f"sends {events[0]['type']} {key}"
        taken = await self._surely(
            f"{dialogue.session_id} {key}",
            lambda api, headers: api.beta.sessions.events.send(
                dialogue.session_id,
                events=list(events),  # type: ignore[arg-type]  # the SDK's parameter types
                extra_headers=headers,
            ),
        )
        assert taken.data
        sent = [
            Sent(event_id=taken_as.id, event=event)
            for taken_as, event in zip(taken.data, events, strict=True)
        ]
        dialogue.sent += sent
        return [each.event_id for each in sent]

    async def _surely(
        self, key: str, ask: Callable[[anthropic.AsyncAnthropic, dict[str, str]], Awaitable[T]]
    ) -> T:
        """The answer of the first node that gives one. Raises Refused for a caller's mistake."""
        headers = {"Idempotency-Key": f"chaos {self._seed} {key}"}
        while True:
            try:
                return await ask(random.choice(self._apis), headers)
            except (anthropic.ConflictError, anthropic.RateLimitError):
                pass  # an earlier attempt is still at work, or has been left by one that died
            except anthropic.APIStatusError as error:
                if error.status_code < 500:
                    raise Refused(f"{key}: {error.status_code} {error.message[:300]}") from error
            except (anthropic.APIConnectionError, httpx2.HTTPError):
                pass
            self.attempts_failed += 1
            await asyncio.sleep(AGAIN_SECONDS * random.uniform(0.5, 2.0))
