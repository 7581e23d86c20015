"""Previews: best-effort deltas of a reply while it streams. Never stored; the final event repeats them.

The ids are minted here, at the first text, and reused by the final event. Source: API docs, events "Event
deltas".
"""

from corral.brain.ports import BlockStarted, TextDelta
from corral.kernel.ids import EventId, Ids, SessionId, ThreadId
from corral.session.bus import Bus, Preview


class Previews:
    """The previews of one model request. `message_ids`: event id by block index, for the final events."""

    def __init__(self, *, bus: Bus, ids: Ids, session_id: SessionId, thread_id: ThreadId) -> None:
        self.message_ids: dict[int, EventId] = {}
        self._bus = bus
        self._ids = ids
        self._session_id = session_id
        self._thread_id = thread_id
        self._event_id: EventId | None = None  # of the message that text goes to now
        self._block = -1  # the text block it came from last
        self._index = -1  # that block's place in the message's content
        self._n = 0

    def see(self, event: BlockStarted | TextDelta) -> None:
        """Pass on one piece of the stream."""
        if isinstance(event, TextDelta):
            if event.text:
                self._text(event)
        elif event.type in ("thinking", "redacted_thinking"):
            self._event_id = None
            self.message_ids[event.index] = self._ids.event()
            self._publish(self.message_ids[event.index], "agent.thinking", 0)
        elif event.type != "text":
            self._event_id = None  # the next text is another message

    def _text(self, event: TextDelta) -> None:
        if self._event_id is None:
            self._event_id = self.message_ids[event.index] = self._ids.event()
            self._block, self._index, self._n = event.index, 0, 0
            self._publish(self._event_id, "agent.message", 0)
        elif event.index != self._block:
            self._block, self._index = event.index, self._index + 1
        self._n += 1
        self._publish(self._event_id, "agent.message", self._n, index=self._index, text=event.text)

    def _publish(self, event_id: EventId, kind: str, n: int, *, index: int = 0, text: str = "") -> None:
        self._bus.publish(
            Preview(
                session_id=self._session_id,
                thread_id=self._thread_id,
                event_id=event_id,
                event_type=kind,
                n=n,
                index=index,
                text=text,
            )
        )
