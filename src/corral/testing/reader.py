"""A stream's view of a session, checked against the laws of the tail at every step."""

from corral.kernel.ids import SessionId
from corral.session.log import InboxEntry, Position, SessionLog, StoredEvent


class TailReader:
    """Follows one session through `tail` from the beginning, and asserts what a stream may rely on:

    - every log entry once, in the order of seq, without a gap;
    - the echo of every input once, in the order of arrival, before its processed form;
    - an echo has the body that the inbox had.
    """

    def __init__(self, session_id: SessionId) -> None:
        self._session_id = session_id
        self.position = Position()
        self._echoes: dict[int, InboxEntry] = {}

    async def read(self, log: SessionLog, *, limit: int) -> bool:
        """Read once; True if the reader has caught up."""
        page = await log.tail(self._session_id, self.position, limit=limit)
        assert len(page.events) <= limit
        for entry in page.events:
            if isinstance(entry, StoredEvent):
                self._processed(entry)
            else:
                self._echo(entry)
        assert page.next_position in (None, self.position)
        assert page.events or page.next_position is None
        return page.next_position is None

    def _processed(self, event: StoredEvent) -> None:
        assert event.seq == self.position.seq + 1, "the log has no gaps"
        if event.arrival is not None:
            echo = self._echoes.get(event.arrival)
            assert echo is not None, f"the echo of arrival {event.arrival} precedes its processed form"
            assert echo.event_id == event.event_id
        self.position = Position(seq=event.seq, arrival=self.position.arrival)

    def _echo(self, entry: InboxEntry) -> None:
        assert entry.arrival == self.position.arrival + 1, "echoes come in the order of arrival"
        assert entry.body.endswith(b'"processed_at":null}')
        self._echoes[entry.arrival] = entry
        self.position = Position(seq=self.position.seq, arrival=entry.arrival)
