"""What must be true of every session afterwards, whatever happened to it meanwhile. Pure: a history in,
what is wrong with it out.

Each law is a function from a `History` to the sentences that say how it was broken; LAWS names them all.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from corral.brain.derive import derive
from corral.brain.turn import DENIED, NO_HANDS
from corral.catalog.models import ModelTable
from corral.chaos.grammar import breaches
from corral.chaos.history import History
from corral.chaos.plan import Call, expected
from corral.hands.news import NEWS_LOST, NEWS_RESTORED
from corral.session.call import INTERRUPTED
from corral.session.closing import LEFT_BEHIND
from corral.session.content import Json
from corral.session.events import INBOX_TYPES
from corral.session.fold import fold_stored
from corral.session.log import StoredEvent
from corral.session.state import begin

__all__ = ["LAWS", "Broken", "judge"]

UNKNOWN: Final = "outcome is unknown"
_SET_BACK: Final = (NEWS_RESTORED.partition("{")[0], NEWS_LOST)
_USES: Final = ("agent.tool_use", "agent.custom_tool_use")


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """One law, broken by one session."""

    law: str
    session_id: str
    detail: str


def judge(history: History) -> Iterator[Broken]:
    """All that is wrong; nothing if nothing is."""
    for name, law in LAWS.items():
        for detail in law(history):
            yield Broken(law=name, session_id=history.session_id, detail=detail)


# -- the log ------------------------------------------------------------------------------------------


def gap_free(history: History) -> Iterator[str]:
    """seqs from 1 without a gap, ids and arrivals once, stamps strictly increasing."""
    events, record = history.events, history.snapshot.record
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        yield f"seqs are {[event.seq for event in events]}"
    if record.last_seq != len(events):
        yield f"the record says {record.last_seq} events, there are {len(events)}"
    for before, after in pairwise(events):
        if before.processed_at >= after.processed_at:
            yield f"seq {after.seq} is stamped {after.processed_at}, seq {before.seq} {before.processed_at}"
    yield from _repeated("event id", (event.event_id for event in events))
    yield from _repeated("arrival", (event.arrival for event in events if event.arrival is not None))


def grammar(history: History) -> Iterator[str]:
    """The order of events is that of turns."""
    for breach in breaches(history.bodies):
        yield f"seq {breach.at}: {breach.message}"


def at_rest(history: History) -> Iterator[str]:
    """Every turn has ended and nothing waits."""
    record = history.snapshot.record
    if record.status not in ("idle", "terminated"):
        yield f"the session is {record.status}"
    if record.blocked_on:
        yield f"it waits for {list(record.blocked_on)}, which the client has answered"
    for entry in history.snapshot.inbox:
        yield f"the {entry.type} {entry.event_id} was never taken"


def acknowledged(history: History) -> Iterator[str]:
    """Every acknowledged input is there, as sent, once; and no other."""
    stored = {str(event.event_id): body for event, body in zip(history.events, history.bodies, strict=True)}
    waiting = {entry.event_id for entry in history.snapshot.inbox}
    for sent in history.sent:
        body = stored.get(sent.event_id)
        if body is None:
            if sent.event_id not in waiting:
                yield f"{sent.event['type']} {sent.event_id} was acknowledged and is gone"
        elif any(body.get(name) != value for name, value in sent.event.items()):
            yield f"{sent.event['type']} {sent.event_id} is not what was sent: {body}"
    known = {sent.event_id for sent in history.sent}
    yield from _repeated("acknowledged id", (sent.event_id for sent in history.sent))
    for event in history.events:
        if event.type.startswith("user.") and event.event_id not in known:
            yield f"{event.type} {event.event_id} is in the log, and nobody sent it"


def requests_end(history: History) -> Iterator[str]:
    """Every model request that began has ended, in that order."""
    starts = [event.event_id for event, _ in history.of("span.model_request_start")]
    ends = [body["model_request_start_id"] for _, body in history.of("span.model_request_end")]
    if starts != ends:
        yield f"{len(starts)} requests began, {len(ends)} ended, or in another order"


# -- tool calls ---------------------------------------------------------------------------------------


def answered_once(history: History) -> Iterator[str]:
    """Every call has one answer; no answer is without its call."""
    uses = {event.event_id for event, _ in history.of(*_USES)}
    answers = Counter(event.answers for event in history.events if event.answers is not None)
    for call_id, count in answers.items():
        if count != 1:
            yield f"{call_id} is answered {count} times"
        if call_id not in uses:
            yield f"{call_id} is answered and was never asked for"
    for call_id in uses - set(answers):
        yield f"{call_id} has no answer"


def ran_at_most_once(history: History) -> Iterator[str]:
    """Counted by what the calls left behind: none twice, and none that the log does not know."""
    if history.ran is None:
        return
    asked = {token for _, body in history.of(*_USES) if (token := _token(body))}
    for token, count in Counter(history.ran).items():
        if count > 1:
            yield f"the call {token} ran {count} times"
        if token not in asked:
            yield f"{token} ran, and no tool use in the log asked for it"


def true_results(history: History) -> Iterator[str]:
    """A result says what happened: done and it ran once, refused and it did not, unknown only after its
    host had died."""
    results = {event.answers: (event, body) for event, body in history.of("agent.tool_result")}
    ran = None if history.ran is None else Counter(history.ran)
    for use, body in history.of("agent.tool_use"):
        token = _token(body)
        if use.event_id not in results or token is None or token not in history.calls:
            continue
        result, said = results[use.event_id]
        times = None if ran is None or history.calls[token].tool != "bash" else ran[token]
        for message in _result(history, history.calls[token], use, result, said, times):
            yield f"{use.event_id} ({token}): {message}"


def _result(
    history: History,
    call: Call,
    use: StoredEvent,
    result: StoredEvent,
    said: Mapping[str, Json],
    times: int | None,
) -> Iterator[str]:
    text = _text(said)
    if not said.get("is_error"):
        if call.denied and history.asks:
            yield "it was denied, and has a result"
        if call.tool == "bash" and not text.rstrip().endswith(expected(call)):
            yield f"not its own result: {text[-80:]!r}"
        if times is not None and times != 1 and not (times == 0 and _was_set_back(history, use, result)):
            yield f"its result says done, and it ran {times} times"
    elif text.startswith(DENIED):
        if not (call.denied and history.asks):
            yield "it was refused, and nobody did"
        if times:
            yield "it was denied, and ran"
    elif text == INTERRUPTED:
        if not _was_interrupted(history, use, result):
            yield "it was interrupted, and nobody asked for that"
    elif text == LEFT_BEHIND:
        if not _was_given_up(history, result):
            yield "its turn was ended, and nobody did"
    elif not _in_trouble(history, use, result, counts_silence=text == NO_HANDS):
        yield f"its host lived, and its result is {text[:120]!r}"
    elif UNKNOWN not in text and times:
        yield f"it ran, and its result is {text[:120]!r}"


def outputs_kept_once(history: History) -> Iterator[str]:
    """What a call put out and said so is a file of the session, once, with what was put out in it."""
    if history.outputs is None:
        return
    yield from _repeated("the output", (name for name, _ in history.outputs))
    for name, content in history.outputs:
        if name not in history.calls or not history.calls[name].puts_out:
            yield f"nobody put out {name!r}"
        elif content != f"{name}\n":
            yield f"the output {name} holds {content[:80]!r}"
    results = {event.answers: (event, body) for event, body in history.of("agent.tool_result")}
    names = {name for name, _ in history.outputs}
    for use, body in history.of("agent.tool_use"):
        token = _token(body)
        if token is None or token not in history.calls or not history.calls[token].puts_out:
            continue
        result, said = results.get(use.event_id, (None, {}))
        if result is None or said.get("is_error") or token in names:
            continue
        if not _was_set_back(history, use, result):
            yield f"{use.event_id} ({token}) was put out, and is no file of the session"


def _was_interrupted(history: History, use: StoredEvent, result: StoredEvent) -> bool:
    """An interrupt is written down with the answers that it caused, or soon after them."""
    return any(
        use.seq < event.seq and event.seq <= result.seq + 16 for event, _ in history.of("user.interrupt")
    )


def _was_given_up(history: History, result: StoredEvent) -> bool:
    """The turn ended with the answer, because too many brains died at it or somebody said so."""
    return any(
        result.seq < event.seq <= result.seq + 64 and body["stop_reason"]["type"] == "retries_exhausted"
        for event, body in history.of("session.status_idle")
    )


def _was_set_back(history: History, use: StoredEvent, result: StoredEvent) -> bool:
    """Its workspace is not the one it ran in: its host went away, and the session went on from the last
    checkpoint. What was done since is gone, as documented; the log still tells it."""
    host_id = _host(history, use)
    return any(
        trouble.host_id == host_id
        and not trouble.is_silent
        and trouble.begin <= history.between(at)[1]
        and trouble.end >= history.between(result)[0]
        for at in _moves(history, after=result, host_id=host_id)
        for trouble in history.troubles
    )


def _moves(history: History, *, after: StoredEvent, host_id: str | None) -> Iterator[StoredEvent]:
    """What says that the session has been elsewhere since: a call placed on another host, or a result that
    tells of older files. A session that comes back before any call has run there leaves only the latter."""
    for use, _ in history.of("agent.tool_use"):
        if use.seq > after.seq and _host(history, use) not in (None, host_id):
            yield use
    for result, body in history.of("agent.tool_result"):
        if result.seq > after.seq and _text(body).startswith(_SET_BACK):
            yield result


def _host(history: History, use: StoredEvent) -> str | None:
    """Where a call was placed: when it was asked for, or when it was confirmed."""
    confirmations = history.of("user.tool_confirmation")
    placed = [use, *(event for event, body in confirmations if body["tool_use_id"] == use.event_id)]
    placements = [(event.private or {}).get("placement") for event in placed]
    return next((str(placement["host_id"]) for placement in placements if placement), None)


def _in_trouble(history: History, use: StoredEvent, result: StoredEvent, *, counts_silence: bool) -> bool:
    host_id = _host(history, use)
    return any(
        (counts_silence or not trouble.is_silent)
        and trouble.begin <= history.between(result)[1]
        and trouble.end >= history.between(use)[0]
        and host_id in (None, trouble.host_id)
        for trouble in history.troubles
    )


def _text(result: Mapping[str, Json]) -> str:
    return "".join(block.get("text", "") for block in result.get("content") or ())


def _token(use: Mapping[str, Json]) -> str | None:
    """The token of a call, from the input of its tool use."""
    given = use["input"]
    match use["name"]:
        case "bash":
            return str(given["command"]).partition(" >>")[0].removeprefix("echo ")
        case "write":
            return str(given["content"])
        case "lookup":
            return str(given["word"])
    return None


# -- what clients saw -----------------------------------------------------------------------------------


def echoes(history: History) -> Iterator[str]:
    """Every input was shown as waiting, then as processed, with one id and one content."""
    if history.frames is None:
        return
    waiting: dict[str, Mapping[str, Json]] = {}
    for frame in history.frames:
        event = frame.event
        if event["type"] not in INBOX_TYPES:
            continue
        if event["processed_at"] is None:
            if event["id"] in waiting:
                yield f"{event['id']} was echoed twice"
            waiting[event["id"]] = event
        elif event["id"] not in waiting:
            yield f"{event['id']} was shown as processed before its echo"
        elif waiting[event["id"]] != {**event, "processed_at": None}:
            yield f"{event['id']} was echoed as {waiting[event['id']]} and processed as {event}"
    taken = {event.event_id for event, _ in history.of(*INBOX_TYPES)}
    for event_id in waiting.keys() - taken:
        yield f"{event_id} was echoed and never processed"


def streams(history: History) -> Iterator[str]:
    """A reader that resumes by cursor saw exactly the log, in order; a preview begins its final event."""
    if history.frames is None:
        return
    shown = [
        frame.event for frame in history.frames if frame.cursor and frame.event["processed_at"] is not None
    ]
    yield from _differences("shown", shown, history.bodies)
    finals = {
        body["id"]: "".join(block.get("text", "") for block in body["content"])
        for _, body in history.of("agent.message")
    }
    previews: dict[tuple[int, str], str] = {}
    for frame in history.frames:
        if frame.event["type"] == "event_delta":
            key = (frame.connection, frame.event["event_id"])
            previews[key] = previews.get(key, "") + frame.event["delta"]["content"]["text"]
    for (_, event_id), text in previews.items():
        if event_id in finals and not finals[event_id].startswith(text):
            yield f"the preview of {event_id} was {text!r}, the message is {finals[event_id]!r}"


def listed(history: History) -> Iterator[str]:
    """The API lists what is stored."""
    if history.listed is not None:
        yield from _differences("listed", history.listed, history.bodies)


def _differences(
    how: str, shown: Sequence[Mapping[str, Json]], bodies: Sequence[Mapping[str, Json]]
) -> Iterator[str]:
    if list(shown) == list(bodies):
        return
    shown_ids, ids = [event["id"] for event in shown], [body["id"] for body in bodies]
    yield from _repeated(f"{how} event", shown_ids)
    if missing := [event_id for event_id in ids if event_id not in set(shown_ids)]:
        seq = ids.index(missing[0]) + 1
        yield f"{len(missing)} events were not {how}, the first is {missing[0]} at seq {seq}"
    if extra := [event_id for event_id in shown_ids if event_id not in set(ids)]:
        yield f"{extra[0]} was {how} and is not in the log"
    if shown_ids == ids:
        pair = next((a, b) for a, b in zip(shown, bodies, strict=True) if a != b)
        yield f"{how} as {pair[0]}, stored as {pair[1]}"
    elif sorted(shown_ids) == sorted(ids):
        yield f"{how} in another order than stored"


# -- what repeats the log -------------------------------------------------------------------------------


def usage_counted_once(history: History) -> Iterator[str]:
    """The session's tokens are the sum over its requests."""
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        total = sum(body["model_usage"][name] for _, body in history.of("span.model_request_end"))
        for where, usage in (("record", history.snapshot.record.usage), ("API", history.usage)):
            if usage is not None and usage[name] != total:
                yield f"{name}: {usage[name]} in the {where}, {total} in the log"


def columns_repeat_the_fold(history: History) -> Iterator[str]:
    """Status, usage and the rest of the record are what a fold of the log gives."""
    record = history.snapshot.record
    if not history.events:
        return
    state = begin(record)
    try:
        for event in history.events:
            fold_stored(state, event)
    except (AssertionError, KeyError) as error:
        yield f"the log cannot be folded: {error}"
        return
    derived = derive(state, ModelTable.packaged(), needs_brain=False)
    for name in ("status", "usage", "active_seconds", "running_since", "stop_reason", "requests_cost"):
        if getattr(derived, name) != getattr(record, name):
            yield f"{name}: {getattr(record, name)!r} in the record, {getattr(derived, name)!r} in the log"
    if list(derived.blocked_on) != list(record.blocked_on):
        yield f"blocked_on: {record.blocked_on!r} in the record, {derived.blocked_on!r} in the log"


def nothing_private_shown(history: History) -> Iterator[str]:
    """What only brains need is in no public body."""
    for event, body in zip(history.events, history.bodies, strict=True):
        if shown := {"private", "signature", "placement", "epoch"} & set(body):
            yield f"seq {event.seq} shows {sorted(shown)}"


LAWS: Final[Mapping[str, Callable[[History], Iterator[str]]]] = {
    "seqs are gap-free": gap_free,
    "the order is legal": grammar,
    "every turn has ended": at_rest,
    "nothing acknowledged is missing": acknowledged,
    "requests have ends": requests_end,
    "every call is answered once": answered_once,
    "no call runs twice": ran_at_most_once,
    "results are true": true_results,
    "outputs are kept once": outputs_kept_once,
    "echo and event are pairs": echoes,
    "streams show the log": streams,
    "lists show the log": listed,
    "usage is counted once": usage_counted_once,
    "columns repeat the fold": columns_repeat_the_fold,
    "nothing private is shown": nothing_private_shown,
}


def _repeated(what: str, values: "Iterator[Json] | Sequence[Json]") -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} is there {count} times"
