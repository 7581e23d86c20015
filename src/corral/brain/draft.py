"""A draft: events that are about to be appended, already folded.

Folding first lets one decision build on another, so that a reply, its results and the next request go
into the log in one transaction. A draft folds into a fork of the state; if the append is refused, the
draft is thrown away and the state stands as it was.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from corral.catalog.mcp.servers import McpTools
from corral.kernel.clock import Clock
from corral.kernel.ids import EventId, Ids, ThreadId
from corral.session.content import Json
from corral.session.events import Event
from corral.session.fold import fold
from corral.session.log import NewEvent
from corral.session.state import State, Waiting

TICK = timedelta(microseconds=1)


class Draft:
    """Collects events, stamps them strictly increasing, folds each into `state`, which is a fork."""

    def __init__(self, state: State, *, clock: Clock, ids: Ids) -> None:
        self.state = state.fork()
        self.events: list[NewEvent] = []
        self.consumes: list[EventId] = []
        self.sought: dict[ThreadId, tuple[Mapping[str, Json], ...] | None] = {}
        """Skills that repositories bring, for the request that is written now; None: nobody knows yet."""
        self.listings: dict[ThreadId, tuple[McpTools, ...]] = {}
        """What MCP servers listed, likewise."""
        self._clock = clock
        self._ids = ids

    def now(self) -> datetime:
        """The stamp that the next event would get."""
        return max(self._clock.now(), self.state.last_at + TICK)

    def add(
        self,
        kind: type[Event],
        thread_id: ThreadId,
        *,
        event_id: EventId | None = None,
        private: Mapping[str, Json] | None = None,
        answers: EventId | None = None,
        **fields: Any,
    ) -> EventId:
        """Write a new event of the brain's own."""
        event = kind(id=event_id or self._ids.event(), **fields)
        self._write(event, thread_id, private=private, answers=answers)
        return event.id

    def take(self, waiting: Waiting, *, private: Mapping[str, Json] | None = None) -> None:
        """Move an input from the inbox to the log, id kept."""
        self.consumes.append(waiting.event.id)
        if waiting.private is not None:
            private = {**waiting.private, **(private or {})}
        self._write(waiting.event, waiting.thread_id, private=private, arrival=waiting.arrival)

    def _write(
        self,
        event: Event,
        thread_id: ThreadId,
        *,
        private: Mapping[str, Json] | None = None,
        answers: EventId | None = None,
        arrival: int | None = None,
    ) -> None:
        at = self.now()
        self.events.append(
            NewEvent(
                event=event,
                thread_id=thread_id,
                processed_at=at,
                private=private,
                answers=answers,
                arrival=arrival,
            )
        )
        fold(self.state, event, thread_id=thread_id, at=at, private=private, answers=answers)
