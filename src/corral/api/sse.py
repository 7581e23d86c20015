"""Event streams: raw ASGI, two small tasks per connection, nothing kept that the store has.

A stream subscribes to the bus *before* it reads its position from the store, so that nothing falls between
the two; from then on its position (the last seq and the last arrival it was sent) decides what is new. A
message that does not continue the position, a lost message or an overflow only means "read the store".
For the lost ones, one look at the store every TAIL_LOOK_SECONDS compares all positions at once.

Frames carry `id: seq.arrival`; sent back as `Last-Event-ID` they resume without gap or duplicate. Without
it a stream begins now, as the official one. Previews have no id: they are never resumed.
Source: API docs, events "SSE framing", "Event deltas"; docs/ARCHITECTURE.md.
"""

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from itertools import islice

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from corral.api.caller import Worker, caller_in
from corral.api.dependencies import Dependencies
from corral.api.schema.query import StreamQuery, parse_query
from corral.api.worker import Workers
from corral.kernel.errors import CallerError, InvalidRequest, NotFound, Overloaded, StoreUnavailable
from corral.kernel.ids import EVENT, EventId, SessionId, ThreadId, derived
from corral.kernel.limits import (
    EVENT_PAGE_LIMIT_MAX,
    PREVIEW_FINALS_KEPT,
    SSE_BUFFER_EVENTS_MAX,
    SSE_KEEPALIVE_SECONDS,
    STREAMS_OPEN_MAX,
    TAIL_LOOK_SECONDS,
    TAIL_LOOK_SESSIONS_MAX,
    WORKER_STREAM_LOOK_SECONDS,
)
from corral.session.bus import Committed, Deleted, Message, Overflow, Preview
from corral.session.events import AgentMessage, SessionDeleted, SpanModelRequestEnd
from corral.session.log import InboxEntry, Position, StoredEvent

_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _Ended(Exception):
    """The client went away or may not read on, or the server stops."""


class Streams:
    """The ASGI endpoint of every event stream, and the set of open ones: a stopping server ends them at
    once, and `run` sees to it that none of them waits for a message that was lost."""

    def __init__(self, dependencies: Dependencies, workers: Workers) -> None:
        self._dependencies = dependencies
        self._workers = workers
        self._watchers: set[asyncio.Task[None]] = set()
        self._readers: set[_Reader] = set()
        self._is_closing = False

    def close(self) -> None:
        """End all streams, and those still to come. For the server's shutdown; repeat: safe."""
        self._is_closing = True
        for watcher in self._watchers:
            watcher.cancel()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(TAIL_LOOK_SECONDS)
            with suppress(StoreUnavailable):
                await self.look()

    async def look(self) -> None:
        """Let the streams that are behind the store read it. Raises StoreUnavailable."""
        readers: defaultdict[SessionId, list[_Reader]] = defaultdict(list)
        for reader in self._readers:
            readers[reader.session_id].append(reader)
        session_ids = iter(readers)
        while batch := list(islice(session_ids, TAIL_LOOK_SESSIONS_MAX)):
            ends = await self._dependencies.log.ends(batch)
            for session_id in batch:
                end = ends.get(session_id)
                if any(reader.is_behind(end) for reader in readers[session_id]):
                    self._dependencies.bus.look_again(session_id)

    @property
    def open_count(self) -> int:
        return len(self._watchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.open_count >= STREAMS_OPEN_MAX:
            raise Overloaded(f"This server has {STREAMS_OPEN_MAX} event streams open. Try again, or poll.")
        session_id, thread_id, event_deltas, resume = _asked(scope)
        bus = self._dependencies.bus
        async with bus.subscribe(session_id, buffer=SSE_BUFFER_EVENTS_MAX) as messages:
            record = await self._dependencies.sessions.read(session_id)
            if thread_id is not None and all(thread.thread_id != thread_id for thread in record.threads):
                raise NotFound(f"Session {session_id} has no thread {thread_id!r}.")
            end = Position(seq=record.last_seq, arrival=record.last_arrival)
            if resume is not None and (resume.seq > end.seq or resume.arrival > end.arrival):
                raise InvalidRequest("Last-Event-ID: beyond the end of this session; not a cursor of it")
            reader = _Reader(
                self._dependencies,
                session_id=session_id,
                thread_id=thread_id,
                previews=_Previews(event_deltas, thread_id or record.primary_thread_id),
                position=resume or end,
                send=send,
            )
            who = caller_in(scope)
            worker = None if who is None else who.worker
            del record, scope
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": b": connected\n\n", "more_body": True})
            try:
                async with asyncio.TaskGroup() as group:
                    watcher = group.create_task(self._watch(receive))
                    self._watchers.add(watcher)
                    watcher.add_done_callback(self._watchers.discard)
                    guard = group.create_task(self._guard(worker)) if worker is not None else None
                    self._readers.add(reader)
                    if resume is not None:
                        await reader.catch_up()
                    await reader.follow(messages)
                    watcher.cancel()
                    if guard is not None:
                        guard.cancel()
            except* _Ended:
                pass
            finally:
                self._readers.discard(reader)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive) -> None:
        if self._is_closing:
            raise _Ended
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if self._is_closing:
                raise _Ended from None
            raise
        except (
            CallerError
        ):  # a body was announced that did not come, or not as it may: no client to wait for
            raise _Ended from None
        raise _Ended

    async def _guard(self, worker: Worker) -> None:
        """End the stream of a worker soon after its credential."""
        while True:
            await asyncio.sleep(WORKER_STREAM_LOOK_SECONDS)
            with suppress(StoreUnavailable):
                if not await self._workers.is_good(worker):
                    raise _Ended


def _asked(scope: Scope) -> tuple[SessionId, ThreadId | None, frozenset[str], Position | None]:
    """What the request asks for. Raises InvalidRequest."""
    request = Request(scope)
    query = parse_query(StreamQuery, request.query_params)
    resume = None
    cursor = request.headers.get("last-event-id")
    if cursor:
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise InvalidRequest("Last-Event-ID: send an id as this server's streams give them")
        resume = Position(seq=int(match[1]), arrival=int(match[2]))
    params = request.path_params
    return params["session_id"], params.get("thread_id"), frozenset(query.event_deltas), resume


class _Reader:
    """One stream: where it stands, and how it gets on."""

    __slots__ = (
        "_dependencies",
        "_is_over",
        "_position",
        "_previews",
        "_send",
        "_thread_id",
        "session_id",
    )

    def __init__(
        self,
        dependencies: Dependencies,
        *,
        session_id: SessionId,
        thread_id: ThreadId | None,
        previews: "_Previews",
        position: Position,
        send: Send,
    ) -> None:
        self._dependencies = dependencies
        self.session_id = session_id
        self._thread_id = thread_id
        self._previews = previews
        self._position = position
        self._send = send
        self._is_over = False

    def is_behind(self, end: Position | None) -> bool:
        """Whether the store has more than was sent, or (None) the session is gone."""
        position = self._position
        return end is None or end.seq > position.seq or end.arrival > position.arrival

    async def follow(self, messages: AsyncIterator[Message | Overflow]) -> None:
        """Send what happens until the session is deleted or this reader is hopelessly slow."""
        while not self._is_over:
            try:
                async with asyncio.timeout(SSE_KEEPALIVE_SECONDS):
                    message = await anext(messages)
            except TimeoutError:
                await self._write(b":keepalive\n\n")
                continue
            match message:
                case Committed(entries=entries) if self._continues(entries):
                    await self._emit(entries)
                case Committed():
                    await self.catch_up()
                case Preview():
                    frame = self._previews.frame(message)
                    if frame is not None:
                        await self._write(frame)
                case Deleted():
                    await self._emit_deleted()
                case Overflow():
                    await self._after_overflow()

    async def catch_up(self) -> None:
        """Send everything that the store has after the position; while there is no store, the next look
        finds that this stream is behind."""
        while not self._is_over:
            try:
                page = await self._dependencies.log.tail(
                    self.session_id, self._position, limit=EVENT_PAGE_LIMIT_MAX
                )
            except NotFound:
                await self._emit_deleted()
                return
            except StoreUnavailable:
                return
            await self._emit(page.events)
            if page.next_position is None:
                return

    def _continues(self, entries: Iterable[StoredEvent | InboxEntry]) -> bool:
        """Whether these entries, without those already sent, follow the position without a gap."""
        seq, arrival = self._position.seq, self._position.arrival
        is_empty = True
        for entry in entries:
            is_empty = False
            if isinstance(entry, InboxEntry):
                if entry.arrival > arrival + 1:
                    return False
                arrival = max(arrival, entry.arrival)
            else:
                if entry.seq > seq + 1 or (entry.arrival or 0) > arrival:
                    return False
                seq = max(seq, entry.seq)
        return not is_empty

    async def _emit(self, entries: Iterable[StoredEvent | InboxEntry]) -> None:
        frames: list[bytes] = []
        seq, arrival = self._position.seq, self._position.arrival
        for entry in entries:
            if isinstance(entry, InboxEntry):
                if entry.arrival <= arrival:
                    continue
                arrival = entry.arrival
            else:
                if entry.seq <= seq:
                    continue
                seq = entry.seq
                self._previews.saw(entry)
            if self._thread_id is None or entry.thread_id == self._thread_id:
                frames.append(b"event: message\nid: %d.%d\ndata: %b\n\n" % (seq, arrival, entry.body))
        self._position = Position(seq=seq, arrival=arrival)
        if frames:
            await self._write(b"".join(frames))

    async def _emit_deleted(self) -> None:
        event = SessionDeleted(
            type=SessionDeleted.TYPE, id=EventId(derived(EVENT, self.session_id, SessionDeleted.TYPE))
        )
        body = event.body(processed_at=self._dependencies.clock.now())
        await self._write(b"event: message\ndata: %b\n\n" % body)
        self._is_over = True

    async def _after_overflow(self) -> None:
        """The bus dropped messages for this reader. Go on from the store, unless it is too far behind."""
        self._previews.forget()
        try:
            record = await self._dependencies.sessions.read(self.session_id)
        except NotFound:
            await self._emit_deleted()
            return
        except StoreUnavailable:
            return  # as in catch_up
        if record.last_seq - self._position.seq > SSE_BUFFER_EVENTS_MAX:
            self._is_over = True
            return
        await self.catch_up()

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


class _Previews:
    """Which deltas may be shown: opted in, of the thread being read, gap-free after their start, and
    never after their final event."""

    __slots__ = ("_finals", "_next", "_thread_id", "_wanted")

    def __init__(self, wanted: frozenset[str], thread_id: ThreadId) -> None:
        self._wanted = wanted
        self._thread_id = thread_id
        self._next: dict[EventId, int] = {}
        self._finals: deque[EventId] | None = deque(maxlen=PREVIEW_FINALS_KEPT) if wanted else None

    def frame(self, preview: Preview) -> bytes | None:
        """The frame to send, if any."""
        event_id = preview.event_id
        if preview.event_type not in self._wanted or preview.thread_id != self._thread_id:
            return None
        if preview.n == 0:
            if event_id in self._next or event_id in (self._finals or ()):
                return None
            self._next[event_id] = 1
            return _frame({"type": "event_start", "event": {"type": preview.event_type, "id": event_id}})
        if self._next.get(event_id) != preview.n:
            self._next.pop(event_id, None)  # a gap: the rest of this id is dropped
            return None
        self._next[event_id] = preview.n + 1
        if preview.event_type != AgentMessage.TYPE:
            return None  # thinking previews are start-only
        content = {"type": "text", "text": preview.text}
        delta = {"type": "content_delta", "index": preview.index, "content": content}
        return _frame({"type": "event_delta", "event_id": event_id, "delta": delta})

    def saw(self, entry: StoredEvent) -> None:
        """A final event ends its own preview; the end of the request ends all of its thread."""
        if self._finals is None or entry.thread_id != self._thread_id:
            return
        if entry.type in self._wanted:
            self._next.pop(entry.event_id, None)
            self._finals.append(entry.event_id)
        elif entry.type == SpanModelRequestEnd.TYPE:
            self.forget()

    def forget(self) -> None:
        """Drop the rest of what is being previewed."""
        if self._finals is not None:
            self._finals.extend(self._next)
        self._next.clear()


def _frame(event: dict[str, object]) -> bytes:
    return b"event: message\ndata: %b\n\n" % orjson.dumps(event)
