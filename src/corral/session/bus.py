"""The bus: hints that save latency. Losing every message costs latency only; the store is the truth."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.log import InboxEntry, StoredEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """These entries of a session are durable. A bus between machines may send none ("look again"), and
    never sends what only brains may see (`private`, `answers`)."""

    session_id: SessionId
    entries: tuple[StoredEvent | InboxEntry, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """A best-effort delta of an event that is not stored yet; `n` counts per event id from 0, so that a
    reader drops the rest of an id after a gap. n = 0 is the start and has no text."""

    session_id: SessionId
    thread_id: ThreadId
    event_id: EventId
    event_type: str
    n: int
    index: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """The session is gone; streams end with `session.deleted`."""

    session_id: SessionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """This subscriber was too slow and missed messages: read the store, or close."""


Message = Committed | Preview | Deleted


class Bus(Protocol):
    def publish(self, message: Message) -> None:
        """Send to the session's subscribers. Never blocks, never fails."""

    def wake(self, session_id: SessionId) -> None:
        """Hint that this session needs a brain."""

    def wakes(self) -> AsyncIterator[SessionId]:
        """Wake hints, for the one orchestrator of this process; bounded, the sweep finds what is shed."""

    def subscribe(
        self, session_id: SessionId, *, buffer: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Message | Overflow]]:
        """Messages of one session from now on; at most `buffer` undelivered, then one Overflow."""

    def look_again(self, session_id: SessionId) -> None:
        """Tell this process's subscribers of a session that messages may have been lost: a Committed
        without entries, which itself is not lost. For those who look at the store."""
