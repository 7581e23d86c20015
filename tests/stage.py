"""Tests side by side on one server: each stage has its own agents, script and view of the upstream.

The agents of a stage carry its name as their system prompt, so the one fake Messages API knows whose script
answers. When a stage ends, the laws that hold for every session are checked on each of its sessions.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, pairwise
from typing import Any

import anthropic
import httpx2

from corral.brain.derive import derive
from corral.brain.judge import RULES
from corral.catalog.models import ModelTable
from corral.session.fold import fold_stored
from corral.session.log import Snapshot
from corral.session.state import begin
from corral.testing.messages_api import MessagesApi, Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from tests.served import KEY, WAIT_SECONDS, Served, served, until

MODEL = "claude-opus-5-5"  # has a list price and takes system messages
NARROW, NARROW_TOKENS = "claude-narrow", 20_000  # a model of the server's own table, and its window
TOOLSET = {"type": "agent_toolset_20260401"}
ASK = {**TOOLSET, "default_config": {"permission_policy": {"type": "always_ask"}}}
LOOKUP = {
    "type": "custom",
    "name": "lookup",
    "description": "Look a word up.",
    "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}},
}
PREVIEWS = ("event_start", "event_delta")
_names = count(1)


@asynccontextmanager
async def staged(**of_server: Any) -> "AsyncIterator[Stages]":
    """A server of its own, as `served` makes it, whose models say what its stages play."""
    async with MessagesApi() as upstream, served(messages_url=upstream.url, **of_server) as server:
        yield Stages(upstream, server)


class Stages:
    """Gives every stage its script on one upstream."""

    def __init__(self, upstream: MessagesApi, server: Served) -> None:
        self.server = server
        self._stages: dict[str, Stage] = {}
        upstream.script = self._answer

    @asynccontextmanager
    async def open(self) -> "AsyncIterator[Stage]":
        stage = Stage(self.server, f"stage {next(_names)}")
        self._stages[stage.name] = stage
        try:
            yield stage
        finally:
            del self._stages[stage.name]
        stage.check()

    def _answer(self, request: Request) -> Answer:
        stage = self._stages.get(request.json["system"][0]["text"])
        if request.json["system"][0]["text"] == RULES:
            asked_by = json.loads(request.json["messages"][0]["content"][0]["text"])["instructions"]
            return self._stages[asked_by].judge(request)
        return (
            HttpError(status=400, message="this stage is over") if stage is None else stage.answer(request)
        )


class Stage:
    """One test's part of the server.

    `play` gives out answers in order of arrival; `script` may be a function instead.
    """

    def __init__(self, server: Served, name: str) -> None:
        self.server = server
        self.client = server.client
        self.name = name
        self.requests: list[Request] = []
        self.script: Callable[[Request], Answer] = self._next
        self.session_ids: list[str] = []
        self.judge: Callable[[Request], Answer] = lambda _: Reply.text("UNSURE")
        self._answers: deque[Answer] = deque()
        self._refused: list[Request] = []
        self._news = asyncio.Event()
        self._environment_id: str | None = None

    # -- the model's side ------------------------------------------------------------
    def play(self, *answers: Answer) -> None:
        """What the model will answer next."""
        self._answers.extend(answers)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        self._news.set()
        answer = self.script(request)
        if isinstance(answer, HttpError) and answer.status in (400, 413):
            self._refused.append(request)
        return answer

    def _next(self, request: Request) -> Answer:
        if not self._answers:
            return HttpError(status=400, message="the script of this stage is over")
        return self._answers.popleft()

    async def asked(self, number: int, *, seconds: float = WAIT_SECONDS) -> Request:
        """The stage's request with this number, from 1, waiting for it."""
        async with asyncio.timeout(seconds):
            while len(self.requests) < number:
                self._news.clear()
                await self._news.wait()
        return self.requests[number - 1]

    # -- the client's side ------------------------------------------------------------
    async def session(
        self, *tools: Any, model: str = MODEL, mcp_servers: Sequence[Any] = (), **fields: Any
    ) -> Any:
        """A session of a new agent with these tools; the built-in ones if none are named."""
        agent = await self.client.beta.agents.create(
            name="Tester",
            model=model,
            system=self.name,
            tools=list(tools or (TOOLSET,)),
            mcp_servers=list(mcp_servers),
        )
        if self._environment_id is None:
            self._environment_id = (await self.client.beta.environments.create(name="test")).id
        session = await self.client.beta.sessions.create(
            agent=agent.id, **{"environment_id": self._environment_id, **fields}
        )
        self.session_ids.append(session.id)
        return session

    async def send(self, session_id: str, *events: Any, **options: Any) -> Any:
        return (
            await self.client.beta.sessions.events.send(session_id, events=list(events), **options)
        ).data

    async def send_surely(self, session_id: str, event: Any, *, seconds: float = WAIT_SECONDS) -> str:
        """Send until it is acknowledged, with one key for all attempts; returns the event's id."""
        key = {"Idempotency-Key": f"{session_id} {next(_names)}"}
        async with asyncio.timeout(seconds):
            while True:
                with suppress(anthropic.APIConnectionError, anthropic.InternalServerError):
                    return str((await self.send(session_id, event, extra_headers=key))[0].id)
                await asyncio.sleep(0.02)

    async def history(self, session_id: str) -> list[Any]:
        return [event async for event in self.client.beta.sessions.events.list(session_id)]

    async def rests(self, session_id: str, *, seconds: float = WAIT_SECONDS) -> Any:
        """The session once it works no more, asked for again and again, as after a crash."""
        status = "not to be had"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    with suppress(anthropic.APIConnectionError):  # the server is being replaced
                        session = await self.client.beta.sessions.retrieve(session_id)
                        if (status := session.status) in ("idle", "terminated"):
                            return session
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{session_id} does not come to rest, its status is {status}") from None

    # -- the sandbox's side ------------------------------------------------------------------------------
    async def exists(self, session_id: str, name: str) -> None:
        """Wait until a command has made this file in the workspace."""
        await until((self.server.workspace(session_id) / name).exists)

    async def touch(self, session_id: str, name: str) -> None:
        """Make a file in the workspace, as a signal to a command that waits for it or will."""
        await until(self.server.workspace(session_id).exists)
        (self.server.workspace(session_id) / name).touch()

    @asynccontextmanager
    async def watch(self, session_id: str, **options: Any) -> "AsyncIterator[Tail]":
        """An event stream, read in the background."""
        stream = await self.client.beta.sessions.events.stream(session_id, **options)
        tail = Tail(stream)
        reading = asyncio.create_task(tail.read())
        try:
            yield tail
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await stream.close()

    # -- the laws ------------------------------------------------------------
    def forget(self, session_id: str) -> None:
        """This session was deleted: there is no log to check."""
        self.session_ids.remove(session_id)

    def check(self) -> None:
        logs = [self.server.snapshot(session_id) for session_id in self.session_ids]
        for log in logs:
            check_log(log)
        if len(logs) == 1:
            check_requests(self.requests, refused=self._refused, shorter=shorter_requests(logs[0]))


class Tail:
    """What a stream has brought so far."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._news = asyncio.Event()
        self.events: list[Any] = []
        self.has_ended = False

    async def read(self) -> None:
        async for event in self._stream:
            self.events.append(event)
            self._news.set()
        self.has_ended = True
        self._news.set()

    async def until(self, kind: str, number: int = 1, *, seconds: float = WAIT_SECONDS) -> Any:
        """The event of this type with this number, from 1, waiting for it."""
        return (await self._wait(lambda: self.of(kind)[number - 1 : number], kind, seconds))[0]

    async def idle(self, number: int = 1, *, seconds: float = WAIT_SECONDS) -> Any:
        """The `session.status_idle` with this number, from 1."""
        return await self.until("session.status_idle", number, seconds=seconds)

    async def ended(self, *, seconds: float = WAIT_SECONDS) -> None:
        await self._wait(lambda: self.has_ended, "the end of the stream", seconds)

    async def _wait(self, found: Callable[[], Any], what: str, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                while not (value := found()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come; there came {self.types}") from None
        return value

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    @property
    def types(self) -> list[str]:
        """Types in the order received, echoes of queued inputs and previews left out."""
        return [
            event.type
            for event in self.events
            if event.type not in PREVIEWS and getattr(event, "processed_at", None) is not None
        ]

    def after(self, event: Any) -> list[str]:
        """The types received after the final form of this event."""
        position = max(n for n, seen in enumerate(self.events) if getattr(seen, "id", None) == event.id)
        tail = Tail(None)
        tail.events = self.events[position + 1 :]
        return tail.types


def words(event: Any) -> str:
    """The text of an event with content."""
    return "".join(block.text for block in event.content if block.type == "text")


async def frames(
    http: httpx2.AsyncClient, session_id: str, *, cursor: str = "", **query: Any
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Cursor and event of each frame; ends when the server ends it."""
    headers = {"last-event-id": cursor} if cursor else {}
    path = f"/v1/sessions/{session_id}/events/stream"
    async with http.stream("GET", path, params=query, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        seen_id = ""
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                seen_id = value
            elif name == "data":
                yield seen_id, json.loads(value)
                seen_id = ""


# -- laws ------------------------------------------------------------


def check_log(session: Snapshot) -> None:
    """What holds for every session that has come to rest, whatever happened to it."""
    events, record = session.events, session.record
    bodies = [json.loads(event.body) for event in events]
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), "seqs are gap-free"
    assert record.last_seq == len(events)
    assert all(a.processed_at < b.processed_at for a, b in pairwise(events)), "stamps increase strictly"
    assert len({event.event_id for event in events}) == len(events), "ids are unique"
    arrivals = [event.arrival for event in events if event.arrival is not None]
    assert len(set(arrivals)) == len(arrivals), "an input is taken once"
    for body in bodies:
        assert not {"private", "signature", "placement", "epoch"} & set(body)
        assert "signature" not in json.dumps(body), "no private block is on the wire"

    kinds = ("agent.tool_use", "agent.custom_tool_use", "agent.mcp_tool_use")
    uses = [event.event_id for event in events if event.type in kinds]
    answers = Counter(event.answers for event in events if event.answers is not None)
    assert set(answers) <= set(uses) and all(n == 1 for n in answers.values()), "a call is answered once"
    assert set(uses) - set(answers) == set(record.blocked_on), "no call is left without an answer"
    starts = [event.event_id for event in events if event.type == "span.model_request_start"]
    ends = [b["model_request_start_id"] for b in bodies if b["type"] == "span.model_request_end"]
    assert starts == ends, "every request that began has ended, in order"
    assert record.status in ("idle", "terminated"), f"the session came to rest: {record.status}"
    assert not session.inbox, "every input was taken"

    state = begin(record)
    for event in events:
        fold_stored(state, event)
    if events:
        derived = derive(state, ModelTable.packaged(), needs_brain=False)
        assert (derived.status, derived.usage) == (record.status, record.usage), "columns repeat the fold"
        assert (derived.blocked_on, derived.active_seconds) == (record.blocked_on, record.active_seconds)
        assert (derived.stop_reason, derived.requests_cost) == (record.stop_reason, record.requests_cost)


def shorter_requests(session: Snapshot) -> set[int]:
    """The requests, by number from 0, that need not continue the one before: the log says that the
    conversation was made shorter between the two, or that one of them asks for a summary of it."""
    shorter, number, is_shorter = set[int](), -1, False
    for event in session.events:
        if event.type == "span.model_request_start":
            number += 1
            private = event.private or {}
            if is_shorter or "clears" in private or (private.get("compacts") or {}).get("transcript_bytes"):
                shorter.add(number)
            is_shorter = "compacts" in private
    return shorter


def check_requests(
    requests: Sequence[Request], *, refused: Sequence[Request] = (), shorter: Collection[int] = ()
) -> None:
    """What holds for the requests of one session: each continues the one before, byte for byte, but for
    `shorter` ones. What the provider refused is left out of later requests, so nothing continues that."""
    for request in requests:
        assert KEY not in json.dumps(request.headers) and KEY.encode() not in request.body
        assert request.api_key == "upstream-key"
        assert _marks(request.json) <= 4, "the provider's limit of cache marks"
        if request.json["messages"]:
            assert request.json["messages"][0]["role"] == "user"
    numbers = {request.number: number for number, request in enumerate(requests)}
    for before, after in pairwise(each for each in requests if each not in refused):
        if numbers[after.number] in shorter:
            continue
        old, new = _blocks(before), _blocks(after)
        assert new[: len(old)] == old, "a request begins with all of the one before"
        assert _unmarked(before.json["system"]) == _unmarked(after.json["system"])


def _blocks(request: Request) -> list[tuple[str, str]]:
    """Role and bytes of each block of the conversation, cache marks stripped."""
    return [
        (message["role"], json.dumps(_unmarked(block)))
        for message in request.json["messages"]
        for block in message["content"]
    ]


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    return {key: item for key, item in value.items() if key != "cache_control"}


def _marks(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_marks, value))
    if isinstance(value, dict):
        return ("cache_control" in value) + sum(map(_marks, value.values()))
    return 0
