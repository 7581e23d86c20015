"""What a node still has to tell the other nodes, and how that is written down.

A payload is a JSON array: the node that sent it, then hints in order, each an array of its own:

    ["node_1", ["f", session, entry...], ["c", session], ["w", session], ["d", session],
               ["p", session, thread, event, event type, n, index, text]]

f: these entries were committed, each `[seq, arrival, event, event type, thread, microseconds, body]`, with
null for what it does not have; never what only brains may see. c: something was committed, look again.
w: wake. d: deleted. p: a preview. e: an echo, which only has to come back. A kind or form that is not known
is skipped: it comes from a newer node.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers

import orjson

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.kernel.limits import (
    BUS_ENTRIES_BYTES_MAX,
    BUS_HINTS_MAX,
    BUS_PAYLOAD_BYTES_MAX,
    BUS_PAYLOADS_PER_FLUSH_MAX,
    BUS_PREVIEWS_BYTES_MAX,
)
from corral.kernel.metrics import count
from corral.session.bus import Committed, Deleted, Message, Preview
from corral.session.log import InboxEntry, StoredEvent
from corral.store.schema import from_us, to_us

__all__ = ["Outbox", "Wake", "read"]


@dataclass(frozen=True, slots=True)
class Wake:
    """A hint that this session needs a brain."""

    session_id: SessionId


_Key = tuple[str, SessionId] | int  # one hint per session and kind; previews and entries are numbered


class Outbox:
    """Bounded. Previews are shed first, and entries become "look again", which is what they save; other
    hints are a set, and those beyond its bound are shed too."""

    def __init__(self, node_id: str) -> None:
        self._head = b"[" + orjson.dumps(node_id)
        self._items: OrderedDict[_Key, bytes] = OrderedDict()
        self._keys = numbers()
        self._numbered = 0
        self._numbered_bytes = 0
        self._with_entries: dict[int, SessionId] = {}

    def __len__(self) -> int:
        return len(self._items)

    def put(self, hint: Message | Wake) -> None:
        """Never fails."""
        match hint:
            case Preview():
                self._put_preview(hint)
            case Committed(session_id=session_id, entries=entries):
                if ("c", session_id) in self._items or not self._put_entries(session_id, entries):
                    self._put_once("c", session_id)
            case Deleted(session_id=session_id):
                self._put_once("d", session_id)
            case Wake(session_id=session_id):
                self._put_once("w", session_id)

    def take(self) -> list[str]:
        """Remove what fits into one flush: payloads in the order of their hints; none if nothing is due."""
        payloads: list[str] = []
        items: list[bytes] = []
        size = room = BUS_PAYLOAD_BYTES_MAX - len(self._head) - 1
        while self._items:
            key, item = next(iter(self._items.items()))
            if len(item) + 1 > room:
                payloads.append(self._payload(items))
                items, room = [], size
                if len(payloads) == BUS_PAYLOADS_PER_FLUSH_MAX:
                    break
            del self._items[key]
            if isinstance(key, int):
                self._forget(key, item)
            items.append(item)
            room -= len(item) + 1
        if items:
            payloads.append(self._payload(items))
        return payloads

    def shed_previews(self) -> None:
        """Drop what would be old news by the time it can be sent."""
        for key in [key for key in self._items if isinstance(key, int)]:
            session_id = self._with_entries.get(key)
            self._forget(key, self._items.pop(key))
            if session_id is not None:
                self._put_once("c", session_id)
            else:
                count("bus_messages", fate="dropped")

    def put_echo(self) -> None:
        """Something to send that means nothing to anybody but its sender, to whom it comes back."""
        self._items["e", SessionId("")] = b'["e"]'

    def _put_once(self, kind: str, session_id: SessionId) -> None:
        key = (kind, session_id)
        if key in self._items:
            self._items.move_to_end(key)  # behind the previews that it ends
        elif len(self._items) - self._numbered < BUS_HINTS_MAX:
            self._items[key] = orjson.dumps([kind, session_id])
        else:
            count("bus_messages", fate="dropped")

    def _put_preview(self, preview: Preview) -> None:
        try:
            item = orjson.dumps(
                [
                    "p",
                    preview.session_id,
                    preview.thread_id,
                    preview.event_id,
                    preview.event_type,
                    preview.n,
                    preview.index,
                    preview.text,
                ]
            )
        except orjson.JSONEncodeError:  # half a surrogate pair
            return
        if self._put_numbered(item) is None:
            count("bus_messages", fate="dropped")

    def _put_entries(self, session_id: SessionId, entries: Sequence[StoredEvent | InboxEntry]) -> bool:
        """Whether there was room; and there is something to tell."""
        if not entries or sum(len(entry.body) for entry in entries) > BUS_ENTRIES_BYTES_MAX:
            return False
        key = self._put_numbered(orjson.dumps(["f", session_id, *map(_row, entries)]))
        if key is not None:
            self._with_entries[key] = session_id
        return key is not None

    def _put_numbered(self, item: bytes) -> int | None:
        fits = len(self._head) + len(item) + 2 <= BUS_PAYLOAD_BYTES_MAX
        if not fits or self._numbered_bytes + len(item) > BUS_PREVIEWS_BYTES_MAX:
            return None
        key = next(self._keys)
        self._items[key] = item
        self._numbered += 1
        self._numbered_bytes += len(item)
        return key

    def _forget(self, key: int, item: bytes) -> None:
        self._numbered -= 1
        self._numbered_bytes -= len(item)
        self._with_entries.pop(key, None)

    def _payload(self, items: list[bytes]) -> str:
        return b",".join([self._head, *items]).decode() + "]"


def read(payload: str) -> tuple[str, Iterator[Message | Wake]]:
    """The node that sent this, and its hints. Raises ValueError: none of ours."""
    data = orjson.loads(payload)
    match data:
        case [str(node_id), *items]:
            return node_id, _hints(items)
    raise ValueError("not a payload of a node")


def _hints(items: list[object]) -> Iterator[Message | Wake]:
    for item in items:
        match item:
            case ["c", str(session_id)]:
                yield Committed(session_id=SessionId(session_id))
            case ["f", str(session_id), *rows]:
                try:
                    entries = _entries(rows)
                except OverflowError:  # a time that is none
                    entries = ()
                yield Committed(session_id=SessionId(session_id), entries=entries)
            case ["w", str(session_id)]:
                yield Wake(SessionId(session_id))
            case ["d", str(session_id)]:
                yield Deleted(session_id=SessionId(session_id))
            case ["p", str(session_id), str(thread), str(event), str(kind), int(n), int(index), str(text)]:
                yield Preview(
                    session_id=SessionId(session_id),
                    thread_id=ThreadId(thread),
                    event_id=EventId(event),
                    event_type=kind,
                    n=n,
                    index=index,
                    text=text,
                )


def _row(entry: StoredEvent | InboxEntry) -> list[object]:
    seq = us = None
    if isinstance(entry, StoredEvent):
        seq, us = entry.seq, to_us(entry.processed_at)
    return [seq, entry.arrival, entry.event_id, entry.type, entry.thread_id, us, entry.body.decode()]


def _entries(rows: list[object]) -> tuple[StoredEvent | InboxEntry, ...]:
    """None at all if a form is not known: then it is "look again"."""
    entries: list[StoredEvent | InboxEntry] = []
    for row in rows:
        match row:
            case [int(seq), arrival, str(event), str(kind), str(thread), int(us), str(body)]:
                entries.append(
                    StoredEvent(
                        seq=seq,
                        event_id=EventId(event),
                        type=kind,
                        thread_id=ThreadId(thread),
                        arrival=arrival if isinstance(arrival, int) else None,
                        body=body.encode(),
                        private=None,
                        processed_at=from_us(us),
                    )
                )
            case [None, int(arrival), str(event), str(kind), str(thread), None, str(body)]:
                entries.append(
                    InboxEntry(
                        arrival=arrival,
                        event_id=EventId(event),
                        type=kind,
                        thread_id=ThreadId(thread),
                        body=body.encode(),
                    )
                )
            case _:
                return ()
    return tuple(entries)
