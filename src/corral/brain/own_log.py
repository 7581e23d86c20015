"""An agent reads the log of its own session back: files below LOG_DIRECTORY that only `read` knows.

They are not in the sandbox: a `read` of such a path is answered here, from the store, and never sent to a
host. So it needs no tool that the official toolset does not have, and no copy of the log; an agent that has
no `read`, or must ask before it, has no more than that here. Reading changes nothing: after a crash it is
done again.

    events.jsonl   line N is event N of the log, long texts shortened
    N.txt          event N in full: the text of its content, or its JSON

Only what clients see of an event is shown. Source: docs/DIVERGENCES.md "The agent's own log".
"""

import posixpath
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from typing import Final

import orjson

from corral.kernel.ids import SessionId, ThreadId
from corral.kernel.limits import LOG_EVENTS_AT_ONCE, LOG_LINE_CHARS_MAX, LOG_SLICE_CHARS_MAX
from corral.session.content import Json, ToolResult
from corral.session.log import EventFilter, Position, SessionLog, StoredEvent
from corral.session.state import PendingCall, State

__all__ = ["LOG_DIRECTORY", "LOG_NOTE", "read_own_log", "stored_events"]

LOG_DIRECTORY: Final = "/mnt/session/log"
LOG_NOTE: Final = (
    "When your context fills up, old tool results are cleared from it: note down what you will need of"
    " them. Everything is kept in the log of this session. The read tool, and no other, shows it:"
    f" {LOG_DIRECTORY}/events.jsonl has one event a line (use view_range), {LOG_DIRECTORY}/N.txt has line N"
    " in full."
)
_EVENT = re.compile(r"([1-9][0-9]{0,9})\.txt")
_NAMES: Final = "there are events.jsonl and N.txt, for line N of it in full"
_STRING_CHARS: Final = LOG_LINE_CHARS_MAX // 4  # of one text in a line that is too long
_WORKING_DIRECTORY: Final = "/workspace"


async def read_own_log(log: SessionLog, state: State, call: PendingCall) -> ToolResult | None:
    """The result of a call that reads the log; None for every other call."""
    path = call.input.get("file_path")
    if call.own_tool != "read" or not isinstance(path, str):
        return None
    where = posixpath.normpath(posixpath.join(_WORKING_DIRECTORY, path))
    if where != LOG_DIRECTORY and not where.startswith(LOG_DIRECTORY + "/"):
        return None
    name = where.removeprefix(LOG_DIRECTORY).lstrip("/")
    try:
        first, last = _range(call.input.get("view_range"))
        if name == "events.jsonl":
            return await _events(log, state, call.thread_id, first, last)
        if numbered := _EVENT.fullmatch(name):
            return await _event(log, state, call.thread_id, int(numbered[1]), first, last)
    except ValueError as error:
        return ToolResult.text(f"read: {error}", is_error=True)
    return ToolResult.text(f"read: {path}: no such file; {_NAMES}", is_error=True)


def _range(given: Json) -> tuple[int, int | None]:
    """First and last line; None: to the end."""
    if given is None:
        return 1, None
    try:
        first, last = (int(line) for line in given)
    except (TypeError, ValueError):
        raise ValueError("view_range must be [start_line, end_line]") from None
    return max(1, first), last if last > 0 else None


async def _events(
    log: SessionLog, state: State, thread_id: ThreadId, first: int, last: int | None
) -> ToolResult:
    lines: list[str] = []
    room = LOG_SLICE_CHARS_MAX
    async for event in stored_events(log, state.session_id, thread_id, after=first - 1):
        if last is not None and event.seq > last:
            break
        line = _line(event)
        room -= len(line) + 1
        if room < 0 and lines:
            lines.append(f"(read on from line {event.seq}: view_range [{event.seq}, {last or -1}])")
            break
        lines.append(line)
    return ToolResult.text("\n".join(lines) or f"(the log ends before line {first})")


async def _event(
    log: SessionLog, state: State, thread_id: ThreadId, seq: int, first: int, last: int | None
) -> ToolResult:
    async for event in stored_events(log, state.session_id, thread_id, after=seq - 1):
        if event.seq == seq:
            return ToolResult.text(_lines(_words(orjson.loads(event.body)), first, last))
        break
    return ToolResult.text(f"read: {LOG_DIRECTORY}/{seq}.txt: no such event in the log", is_error=True)


async def stored_events(
    log: SessionLog,
    session_id: SessionId,
    thread_id: ThreadId,
    *,
    after: int = 0,
    newest_first: bool = False,
) -> AsyncIterator[StoredEvent]:
    """The thread's events after this seq, in order, as of now; or all of them, the newest first."""
    position = None if newest_first else Position(seq=after)
    while True:
        page = await log.page(
            session_id,
            EventFilter(thread_id=thread_id),
            descending=newest_first,
            limit=LOG_EVENTS_AT_ONCE,
            after=position,
        )
        for event in page.events:
            if isinstance(event, StoredEvent):  # inputs that wait are not in the log yet
                yield event
        if page.next_position is None:
            return
        position = page.next_position


def _line(event: StoredEvent) -> str:
    body = {"line": event.seq, **orjson.loads(event.body)}
    line = orjson.dumps(body).decode()
    if len(line) <= LOG_LINE_CHARS_MAX:
        return line
    line = orjson.dumps(_shorter(body)).decode()
    if len(line) <= LOG_LINE_CHARS_MAX:
        return line
    return f"{line[:LOG_LINE_CHARS_MAX]}... ({event.seq}.txt has all of it)"


def _shorter(value: Json) -> Json:
    if isinstance(value, str) and len(value) > _STRING_CHARS:
        return f"{value[:_STRING_CHARS]}... ({len(value) - _STRING_CHARS} characters more)"
    if isinstance(value, Mapping):
        return {key: _shorter(item) for key, item in value.items()}
    return [_shorter(item) for item in value] if isinstance(value, list) else value


def _words(body: Mapping[str, Json]) -> str:
    """What an event says, as text."""
    blocks: Sequence[Mapping[str, Json]] = body.get("content") or ()
    if blocks and all(block.get("type") == "text" for block in blocks):
        return "\n".join(str(block["text"]) for block in blocks)
    shown = {**body, "content": [_without_data(block) for block in blocks]} if blocks else dict(body)
    return orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode().replace("\\n", "\n")


def _without_data(block: Mapping[str, Json]) -> Json:
    source = block.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "base64":
        return block
    return {**block, "source": {**source, "data": f"({len(source.get('data') or '')} characters)"}}


def _lines(text: str, first: int, last: int | None) -> str:
    """Lines of a text; one that is too long counts as several, so that all of it can be reached."""
    shown: list[str] = []
    room, number = LOG_SLICE_CHARS_MAX, count(1)
    for line in text.split("\n"):
        for begin in range(0, len(line) or 1, LOG_LINE_CHARS_MAX):
            piece = line[begin : begin + LOG_LINE_CHARS_MAX]
            at = next(number)
            if at < first:
                continue
            if last is not None and at > last:
                return "\n".join(shown)
            room -= len(piece) + 1
            if room < 0:
                return "\n".join([*shown, f"(read on from line {at}: view_range [{at}, {last or -1}])"])
            shown.append(piece)
    return "\n".join(shown) or f"(the text ends before line {first})"
