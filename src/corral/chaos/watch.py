"""A reader of one session's stream that never loses its place: it resumes by cursor, on any node."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import httpx2

from corral.chaos.history import Frame
from corral.chaos.packed import Packed
from corral.session.content import Json
from corral.session.events import INBOX_TYPES

__all__ = ["Watch"]

SILENCE_SECONDS: Final = 25.0  # longer than a stream is ever silent; then the connection is dead
AGAIN_SECONDS: Final = 0.05
_PREVIEWS: Final = ("event_start", "event_delta")


class Watch:
    """What a stream has brought so far, and what follows from it for a client.

    count:     frames so far; `shown` gives them again. refusals: answers that no reader should get.
    processed: ids of inputs that were shown as processed. uses: tool uses by id.
    blocked:   ids that the session waits for; is_idle: the last status shown was idle.
    """

    def __init__(self, session_id: str, *, urls: Sequence[str], api_key: str, previews: bool) -> None:
        self.session_id = session_id
        self._frames = Packed()
        self.connections = 0
        self.refusals: list[str] = []
        self.processed: set[str] = set()
        self.answered: set[str] = set()
        self.uses: dict[str, Mapping[str, Json]] = {}
        self.is_idle = True
        self.blocked: Sequence[str] = ()
        self._urls = urls
        self._headers = {"x-api-key": api_key}
        self._query = {"event_deltas[]": "agent.message"} if previews else {}
        self._cursor = "0.0"
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Read until cancelled, over as many connections as it takes."""
        timeout = httpx2.Timeout(10.0, read=SILENCE_SECONDS)
        async with httpx2.AsyncClient(headers=self._headers, timeout=timeout) as http:
            while True:
                try:
                    async with aclosing(self._connection(http)) as frames:
                        async for frame in frames:
                            self.take(*frame)
                except httpx2.HTTPError:
                    pass
                await asyncio.sleep(AGAIN_SECONDS * random.uniform(0.5, 2.0))

    async def until(self, found: Callable[[], bool]) -> None:
        """Return once this is true; it is asked again whenever something came."""
        while not found():
            self._news.clear()
            await self._news.wait()

    async def _connection(
        self, http: httpx2.AsyncClient
    ) -> AsyncGenerator[tuple[str, Mapping[str, Json]], None]:
        url = f"{random.choice(self._urls)}/v1/sessions/{self.session_id}/events/stream"
        headers = {"last-event-id": self._cursor}
        async with http.stream("GET", url, params=self._query, headers=headers) as response:
            if response.status_code != 200:
                said = (await response.aread()).decode(errors="replace")
                if response.status_code < 500 and response.status_code != 429:
                    self.refusals.append(f"stream at {self._cursor}: {response.status_code} {said[:300]}")
                return
            self.connections += 1
            cursor = ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    cursor = value
                elif name == "data":
                    yield cursor, json.loads(value)
                    cursor = ""

    @property
    def count(self) -> int:
        return len(self._frames)

    def shown(self) -> Sequence[Frame]:
        """Everything, in the order received."""
        return [
            Frame(cursor=cursor, event=event, connection=connection, at=at)
            for cursor, event, connection, at in self._frames
        ]

    def take(self, cursor: str, event: Mapping[str, Json]) -> None:
        """What the stream brought next. cursor: empty for a preview."""
        self._cursor = cursor or self._cursor
        self._frames.append((cursor, event, self.connections, time.time()))
        kind = event["type"]
        if kind in _PREVIEWS:
            return
        if kind in INBOX_TYPES and event["processed_at"] is not None:
            self.processed.add(event["id"])
        match kind:
            case "session.status_running":
                self.is_idle, self.blocked = False, ()
            case "session.status_idle":
                self.is_idle, self.blocked = True, event["stop_reason"].get("event_ids", ())
            case "agent.tool_use" | "agent.custom_tool_use":
                self.uses[event["id"]] = event
            case "agent.tool_result":
                self.answered.add(event["tool_use_id"])
            case "user.custom_tool_result":
                self.processed.add(event["id"])
                self.answered.add(event["custom_tool_use_id"])
        self._news.set()
