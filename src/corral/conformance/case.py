"""What a case is, and what it works with.

    @case("agents", "POST /v1/agents", "GET /v1/agents/{agent_id}")
    async def a_created_agent_is_found(to: Target) -> None:
        agent = await to.agent(name="first")
        same((await to.beta.agents.retrieve(agent.id)).name, "first", "name")

A case is a coroutine function whose name is a sentence. It fails by raising `Nonconforming` (through `same`
and `check`), or whatever the SDK raises. `Target` remembers what a case made and takes it away afterwards.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2

__all__ = ["CASES", "Case", "Nonconforming", "Target", "case", "check", "refused", "same"]

TURN_SECONDS_MAX = 120.0  # a turn of a real model with a tool call
PAGES_MAX = 1_000


class Nonconforming(Exception):
    """The server does not do what official clients expect; the message says what, and what they do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """`covers`: names of `surface.SURFACE`. needs_model: it lets an agent work, which may cost money."""

    group: str
    covers: tuple[str, ...]
    run: "Callable[[Target], Awaitable[None]]"
    needs_model: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").strip()


CASES: list[Case] = []
"""Filled by importing `corral.conformance.cases`; in the order of the files."""

Written = Callable[["Target"], Awaitable[None]]


def case(group: str, *covers: str, needs_model: bool = False) -> Callable[[Written], Written]:
    def add(run: Written) -> Written:
        CASES.append(Case(group=group, covers=covers, run=run, needs_model=needs_model))
        return run

    return add


def check(holds: object, otherwise: str) -> None:
    """Raises Nonconforming(otherwise) unless it holds."""
    if not holds:
        raise Nonconforming(otherwise)


def same(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Nonconforming(f"{what}: {_short(found)}, and not {_short(wanted)}")


@contextlib.contextmanager
def refused(status: int, error: str = "invalid_request_error", *, naming: str = "") -> Iterator[None]:
    """The body of the block is refused with that status and error type; its message names `naming`."""
    try:
        yield
    except anthropic.APIStatusError as found:
        same(found.status_code, status, f"status of {_short(found.message)}")
        body: Any = found.body
        same(body.get("type"), "error", "type of an error's body")
        same(body["error"]["type"], error, f"error type of a {status}")
        check(body.get("request_id"), "an error carries its request_id")
        check(naming in body["error"]["message"], f"{body['error']['message']!r} does not name {naming!r}")
    else:
        raise Nonconforming(
            f"accepted, and not refused with {status}{f' naming {naming}' if naming else ''}"
        )


@dataclass(kw_only=True, slots=True)
class Target:
    """A server under test, for one case.

    beta:  `AsyncAnthropic(...).beta`, strict: a response that is not of the documented shape is an error.
    http:  the same server without an SDK: paths are relative to it, keys are sent.
    model: the model of agents that a case makes.
    """

    client: anthropic.AsyncAnthropic
    http: httpx2.AsyncClient
    model: str
    _undo: list[tuple[str, Callable[[], Awaitable[object]]]] = field(default_factory=list)

    @property
    def beta(self) -> Any:
        return self.client.beta

    def name(self, what: str) -> str:
        """A name that nothing else on the server has."""
        return f"conformance-{what}-{secrets.token_hex(4)}"

    def later(self, what: str, undo: Callable[[], Awaitable[object]]) -> None:
        """Undo it when the case has ended, in reverse order; an error then is not the case's."""
        self._undo.append((what, undo))

    async def clean(self) -> None:
        while self._undo:
            _, undo = self._undo.pop()
            with contextlib.suppress(anthropic.APIError, httpx2.HTTPError):
                await undo()

    # -- what cases make -------------------------------------------------------------------------------

    async def agent(self, **fields: Any) -> Any:
        agent = await self.beta.agents.create(**{"name": self.name("agent"), "model": self.model} | fields)
        self.later("agent", lambda: self.beta.agents.archive(agent.id))
        return agent

    async def environment(self, **fields: Any) -> Any:
        found = await self.beta.environments.create(
            **{"name": self.name("environment"), "config": {"type": "cloud"}} | fields
        )
        self.later("environment", lambda: self.beta.environments.delete(found.id))
        return found

    async def session(self, agent: Any = None, environment: Any = None, **fields: Any) -> Any:
        agent = agent or await self.agent()
        environment = environment or await self.environment()
        session = await self.beta.sessions.create(
            agent=fields.pop("as_agent", agent.id), environment_id=environment.id, **fields
        )
        self.later("session", lambda: self._end(session.id))
        return session

    async def _end(self, session_id: str) -> None:
        """Delete needs a session that does not run."""
        with contextlib.suppress(anthropic.APIStatusError):
            await self.beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
        await self.rests(session_id)
        await self.beta.sessions.delete(session_id)

    async def rests(self, session_id: str, *, seconds: float = TURN_SECONDS_MAX) -> Any:
        """The session once it neither runs nor is rescheduled."""
        async with asyncio.timeout(seconds):
            while True:
                session = await self.beta.sessions.retrieve(session_id)
                if session.status not in ("running", "rescheduling"):
                    return session
                await asyncio.sleep(0.2)

    async def said(self, session_id: str, *texts: str, **fields: Any) -> list[Any]:
        """Say it, and wait for the next `session.status_idle`: every event of the stream until then."""
        events: list[dict[str, Any]] = [
            {"type": "user.message", "content": [{"type": "text", "text": text}]} for text in texts
        ]
        return await self.sent(session_id, events, **fields)

    async def sent(self, session_id: str, events: Sequence[dict[str, Any]]) -> list[Any]:
        """Send these, and wait as `said` does. The stream is open before anything is sent."""
        seen: list[Any] = []
        async with asyncio.timeout(TURN_SECONDS_MAX):
            async with await self.beta.sessions.events.stream(session_id) as stream:
                await self.beta.sessions.events.send(session_id, events=list(events))
                async for event in stream:
                    seen.append(event)
                    if event.type == "session.status_idle" or event.type.endswith("terminated"):
                        break
        check(not (why := _given_up(seen)), f"the turn was given up: {why}")
        return seen

    async def every(self, page: AsyncIterator[Any]) -> list[Any]:
        """All items of a list that pages by itself."""
        found = []
        async for item in page:
            found.append(item)
            check(len(found) <= PAGES_MAX, "a list that ends")
        return found


def _given_up(seen: Sequence[Any]) -> str | None:
    """The last error of a turn that ended for it; None for every other turn."""
    if getattr(getattr(seen[-1], "stop_reason", None), "type", None) != "retries_exhausted":
        return None
    errors = [f"{e.error.type}: {e.error.message}" for e in seen if e.type == "session.error"]
    return errors[-1] if errors else "no session.error says why"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
