"""One session afterwards, as `laws` judges it: what was acknowledged, what is stored, shown and has run.

Written down by those who saw it: the clients (`driver`, `watch`), the nodes (`node`), the store (`store`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from corral.chaos.plan import Call
from corral.session.content import Json
from corral.session.log import Snapshot, StoredEvent

__all__ = ["Frame", "History", "Sent", "Trouble"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """An input that a client sent and the server acknowledged."""

    event_id: str
    event: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What a stream brought: an event with its cursor, or a preview, which has none."""

    cursor: str
    event: Mapping[str, Json]
    connection: int
    at: float = 0.0  # when it came, seconds since 1970 by a clock that nobody steps; 0 if unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """From when to when the hands of a host could not be relied on (killed, ended, on their way up).

    is_silent: they lived, and could not be heard of (stopped, or their node or the database was away): no
    call may have been sent there, and none is lost.
    """

    host_id: str
    begin: datetime
    end: datetime
    is_silent: bool = False


@dataclass(frozen=True, kw_only=True)
class History:
    """One session: as stored, as acknowledged, as shown, as run.

    asks:    its agent asks before every tool call.
    listed:  what the API listed at the end, oldest first.
    usage:   of the session, as the API showed it.
    frames:  what its stream brought, over all connections; None if nobody read.
    ran:     tokens that calls left in the workspace; None if there is no workspace.
    outputs: (name, content) of every file of the session; None if nobody read them.
    calls:   every call its orders could lead to, by token.
    """

    session_id: str
    snapshot: Snapshot
    asks: bool = False
    sent: Sequence[Sent] = ()
    listed: Sequence[Mapping[str, Json]] | None = None
    usage: Mapping[str, Json] | None = None
    frames: Sequence[Frame] | None = None
    ran: Sequence[str] | None = None
    outputs: Sequence[tuple[str, str]] | None = None
    calls: Mapping[str, Call] = field(default_factory=dict)
    troubles: Sequence[Trouble] = ()

    @property
    def events(self) -> Sequence[StoredEvent]:
        return self.snapshot.events

    @cached_property
    def bodies(self) -> Sequence[Mapping[str, Json]]:
        return [json.loads(event.body) for event in self.events]

    @cached_property
    def _shown_at(self) -> Mapping[str, datetime]:
        """When each event was first shown as processed."""
        shown: dict[str, datetime] = {}
        for frame in self.frames or ():
            if frame.cursor and frame.at and frame.event["processed_at"] is not None:
                shown.setdefault(frame.event["id"], datetime.fromtimestamp(frame.at, UTC))
        return shown

    def between(self, event: StoredEvent) -> tuple[datetime, datetime]:
        """From when to when it may have been written. Its stamp is as wrong as its writer's clock may be,
        and a stream shows it only afterwards."""
        shown_at = self._shown_at.get(event.event_id, event.processed_at)
        return min(event.processed_at, shown_at), max(event.processed_at, shown_at)

    def of(self, *types: str) -> Iterator[tuple[StoredEvent, Mapping[str, Json]]]:
        return (pair for pair in zip(self.events, self.bodies, strict=True) if pair[0].type in types)
