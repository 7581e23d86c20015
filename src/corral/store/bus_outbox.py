"""What a node still has to tell the other nodes, and how that is written down.

A payload is a JSON array: the node that sent it, then hints in order, each an array of its own:

    ["node_1", ["c", session], ["w", session], ["d", session],
               ["p", session, thread, event, event type, n, index, text]]

c: something was committed, look again. w: wake. d: deleted. p: a preview. e: an echo, which only has to
come back. A kind or form that is not known is skipped: it comes from a newer node.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as numbers

import orjson

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.kernel.limits import (
    BUS_HINTS_MAX,
    BUS_PAYLOAD_BYTES_MAX,
    BUS_PAYLOADS_PER_FLUSH_MAX,
    BUS_PREVIEWS_BYTES_MAX,
)
from corral.kernel.metrics import count
from corral.session.bus import Committed, Deleted, Message, Preview

__all__ = ["Outbox", "Wake", "read"]


@dataclass(frozen=True, slots=True)
class Wake:
    """A hint that this session needs a brain."""

    session_id: SessionId


_Key = tuple[str, SessionId] | int  # one hint per session and kind; previews are numbered


class Outbox:
    """Bounded. Previews are shed first; other hints are a set, and those beyond its bound are shed too."""

    def __init__(self, node_id: str) -> None:
        self._head = b"[" + orjson.dumps(node_id)
        self._items: OrderedDict[_Key, bytes] = OrderedDict()
        self._preview_keys = numbers()
        self._previews = 0
        self._preview_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, hint: Message | Wake) -> None:
        """Never fails."""
        match hint:
            case Preview():
                self._put_preview(hint)
            case Committed(session_id=session_id):
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
                self._forget_preview(item)
            items.append(item)
            room -= len(item) + 1
        if items:
            payloads.append(self._payload(items))
        return payloads

    def shed_previews(self) -> None:
        """Drop what would be old news by the time it can be sent."""
        for key in [key for key in self._items if isinstance(key, int)]:
            self._forget_preview(self._items.pop(key))
            count("bus_messages", fate="dropped")

    def put_echo(self) -> None:
        """Something to send that means nothing to anybody but its sender, to whom it comes back."""
        self._items["e", SessionId("")] = b'["e"]'

    def _put_once(self, kind: str, session_id: SessionId) -> None:
        key = (kind, session_id)
        if key in self._items:
            self._items.move_to_end(key)  # behind the previews that it ends
        elif len(self._items) - self._previews < BUS_HINTS_MAX:
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
        fits = len(self._head) + len(item) + 2 <= BUS_PAYLOAD_BYTES_MAX
        if fits and self._preview_bytes + len(item) <= BUS_PREVIEWS_BYTES_MAX:
            self._items[next(self._preview_keys)] = item
            self._previews += 1
            self._preview_bytes += len(item)
        else:
            count("bus_messages", fate="dropped")

    def _forget_preview(self, item: bytes) -> None:
        self._previews -= 1
        self._preview_bytes -= len(item)

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
