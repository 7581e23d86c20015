"""Golden logs: whole sessions of a released version, private payloads included, that must fold for ever.

    python -m tests.replay.golden                         plays the scripts below on a real server
    python -m tests.replay.golden DATA_DIR SESSION NAME   records a session that exists

A file is `VERSION-NAME.json`: the record, the log and the inbox as stored, and what folding them gave.
Files are added, one set per release that changes what is stored, and never changed.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from corral import __version__
from corral.config import Config
from corral.kernel.clock import parse_rfc3339, rfc3339
from corral.session.fold import fold_stored, receive
from corral.session.log import InboxEntry, Snapshot, StoredEvent
from corral.session.record import SessionRecord, ThreadRecord
from corral.session.state import State, begin
from corral.testing.messages_reply import HttpError, Reply
from tests.served import Served, text
from tests.stage import ASK, LOOKUP, TOOLSET, Stage, staged

DIRECTORY = Path(__file__).parent


def folded(session: Snapshot) -> State:
    state = begin(session.record)
    for event in session.events:
        fold_stored(state, event)
    for entry in session.inbox:
        receive(state, entry)
    return state


def summary(state: State) -> dict[str, Any]:
    """What a later version must still make of the log. Prices of running time may change, so no sum of
    money but that of the requests, which is in the log."""
    return {
        "status": state.status,
        "seq": state.seq,
        "arrival": state.arrival,
        "active_seconds": round(state.active_seconds, 6),
        "blocked_on": state.blocked_on,
        "waiting": [waiting.event.type for waiting in state.inbox.values()],
        "threads": {
            thread.thread_id: {
                "status": thread.status,
                "stop_reason": thread.stop_reason,
                "wants_model": thread.wants_model,
                "calls": sorted(thread.calls),
                "tools": [tool["type"] for tool in thread.agent["tools"]],
                "tokens": {name: str(value) for name, value in asdict(thread.tokens).items()},
                "entries": [
                    {"role": entry.role, "types": [block["type"] for block in entry.content]}
                    for entry in thread.entries
                ],
                # What goes to the model, to the byte: a changed thinking block is refused there.
                "entries_sha256": sha256(
                    json.dumps([(entry.role, entry.content) for entry in thread.entries]).encode()
                ).hexdigest(),
            }
            for thread in state.threads.values()
        },
    }


def read(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """The session of a file, and the summary that it was recorded with."""
    golden = json.loads(path.read_text())
    record = _times(golden["record"])
    threads = tuple(ThreadRecord(**_times(thread)) for thread in record.pop("threads"))
    session = Snapshot(
        record=SessionRecord(**record, threads=threads),
        events=[
            StoredEvent(**_times(event) | {"body": event["body"].encode()}) for event in golden["events"]
        ],
        inbox=[InboxEntry(**entry | {"body": entry["body"].encode()}) for entry in golden["inbox"]],
    )
    return session, golden["summary"]


def write(session: Snapshot, name: str) -> None:
    """Record a session under this version's name. Never overwrites."""
    golden = {
        "version": __version__,
        "summary": summary(folded(session)),
        "record": asdict(session.record),
        "events": [event._asdict() for event in session.events],
        "inbox": [asdict(entry) for entry in session.inbox],
    }
    path = DIRECTORY / f"{__version__}-{name}.json"
    with path.open("x") as file:
        json.dump(golden, file, indent=1, default=_encoded)
        file.write("\n")
    print(path)


def _encoded(value: object) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Decimal):
        return str(value)
    assert isinstance(value, bytes)
    return value.decode()


_DECODED: Mapping[str, Callable[[str], Any]] = {
    "at": parse_rfc3339,
    "since": parse_rfc3339,
    "cost": Decimal,
    "rate": Decimal,
}


def _times(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _DECODED[name.rpartition("_")[2]](value)
        if isinstance(value, str) and name.endswith(tuple(f"_{kind}" for kind in _DECODED))
        else value
        for name, value in fields.items()
    }


# -- what is recorded ---------------------------------------------------------------------------------


async def _tools(stage: Stage) -> str:
    """Thinking, parallel tools, a failing one, a message meanwhile, an unknown block, cached tokens."""
    thinking = {"type": "thinking", "thinking": "Hm. é", "signature": "c2lnbmF0dXJl"}
    calls = Reply.tools(
        ("toolu_1", "bash", {"command": "until [ -e go ]; do sleep 0.01; done; echo hi > f; cat f"}),
        ("toolu_2", "read", {"file_path": "missing"}),
        ("toolu_3", "teleport", {}),
        say="Let me see.",
    )
    usage = {"cache_read_input_tokens": 70, "cache_creation_input_tokens": 9, "output_tokens": 333}
    stage.play(
        Reply(content=[thinking, *calls.content], stop_reason="tool_use", usage=usage),
        Reply(content=[{"type": "hologram", "z": 1.5}, *Reply.text("Done.").content]),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        await tail.until("agent.tool_use")
        await stage.send(session.id, text("And this."))
        await stage.touch(session.id, "go")
        await tail.idle()
    return str(session.id)


async def _answers(stage: Stage) -> str:
    """Allowed, denied, answered by the client, and one still open."""
    stage.play(
        Reply.tools(
            *(("toolu_1", "bash", {"command": "echo 1"}), ("toolu_2", "bash", {"command": "echo 2"})),
            ("toolu_3", "lookup", {"word": "corral"}),
        ),
        Reply.tools(("toolu_4", "lookup", {"word": "again"})),
    )
    session = await stage.session(ASK, LOOKUP)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Go."))
        allowed, denied, custom = (await tail.idle()).stop_reason.event_ids
        confirmation = {"type": "user.tool_confirmation", "tool_use_id": allowed, "result": "allow"}
        await stage.send(session.id, confirmation)
        await tail.idle(2)
        denial = {"tool_use_id": denied, "result": "deny", "deny_message": "Not on a Friday."}
        result = {"custom_tool_use_id": custom, "content": [{"type": "text", "text": "a pen"}]}
        await stage.send(
            session.id,
            confirmation | denial,
            {"type": "user.custom_tool_result", **result},
        )
        await tail.idle(3)
    return str(session.id)


async def _troubles(stage: Stage) -> str:
    """A retry, an interrupted tool and reply, a refusal, a cut call, a dead turn, new tools."""
    long = Reply.text("A long answer.")
    call = Reply.tools(("toolu_1", "bash", {"command": "touch began; sleep 100"}))
    stage.play(
        HttpError(status=529, headers={"retry-after-ms": "1"}),
        call,
        Reply(content=long.content, hang_after_bytes=len(long.stream) // 2),
        Reply(content=[], stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"}),
        Reply(content=[*long.content, *call.content], stop_reason="max_tokens"),
        HttpError.prompt_too_long(),
        Reply.text("Aye."),
    )
    session = await stage.session(initial_events=[text("Go.")], title="Troubles", metadata={"a": "b"})
    async with stage.watch(session.id) as tail:
        await stage.exists(session.id, "began")
        await stage.send(session.id, {"type": "user.interrupt"}, text("Then talk."))
        await stage.asked(3)
        await stage.send(session.id, {"type": "user.interrupt"})
        await tail.idle(2)
        for number in (3, 4, 5):
            await stage.send(session.id, text(f"Turn {number}."))
            await tail.idle(number)
        await stage.client.beta.sessions.update(session.id, agent={"tools": [LOOKUP, TOOLSET]})
        system = {"type": "system.message", "content": [{"type": "text", "text": "Talk like a sailor."}]}
        await stage.send(session.id, text("Last."), system)
        await tail.idle(6)
    stage.requests.clear()  # the tools have changed
    return str(session.id)


async def _record() -> None:
    async with staged() as stages:
        for play in (_tools, _answers, _troubles):
            async with stages.open() as stage:
                session_id = await play(stage)
            write(stages.server.snapshot(session_id), play.__name__.removeprefix("_"))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        asyncio.run(_record())
    else:
        data_dir, session_id, name = sys.argv[1:]
        write(Served(Config(data_dir=Path(data_dir))).snapshot(session_id), name)
