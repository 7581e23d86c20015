"""Make a recording for the `replay` model from a session that really ran.

    python scripts/record_session.py --data-dir DIR SESSION_ID --label "who, when" > recording.json

Reads the store of a stopped server. The model's replies are taken verbatim from the log's private payloads,
the pace from its time stamps; tool results are not recorded, because a replay executes the tools for real.
"""

import argparse
import asyncio
import sys
from datetime import datetime
from pathlib import Path

import orjson

from corral.brain.models.replay import FORMAT
from corral.kernel.ids import SessionId
from corral.session.content import Json
from corral.session.events import SpanModelRequestEnd, SpanModelRequestStart, UserMessage, parse
from corral.session.log import StoredEvent
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.log import Log


def replies(events: list[StoredEvent]) -> list[Json]:
    """One entry per model request that ended well; see `replay` for the format."""
    started: datetime | None = None
    found: list[Json] = []
    for event in events:
        if event.type == SpanModelRequestStart.TYPE:
            started = event.processed_at
        elif event.type == SpanModelRequestEnd.TYPE and event.private and started:
            seconds = (event.processed_at - started).total_seconds()
            usage = {name: count for name, count in event.private["usage"].items() if count}
            usage.pop("cost_microcents", None)
            found.append(
                {
                    "content": event.private["content"],
                    "stop_reason": event.private["stop_reason"],
                    "usage": usage,
                    "first_seconds": round(min(seconds, 0.6), 2),
                    "seconds": round(max(seconds - 0.6, 0.0), 2),
                }
            )
    return found


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("session_id")
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--label", required=True)
    asked = arguments.parse_args()
    database = await Database.open(asked.data_dir / "corral.db")
    try:
        snapshot = await Log(database, LocalBus()).snapshot(SessionId(asked.session_id))
    finally:
        await database.close()
    task = next(parse(event.body) for event in snapshot.events if event.type == UserMessage.TYPE)
    assert isinstance(task, UserMessage)
    recording = {
        "format": FORMAT,
        "label": asked.label,
        "model": snapshot.record.agent["model"]["id"],
        "task": task.content[0]["text"],
        "replies": replies(list(snapshot.events)),
    }
    sys.stdout.buffer.write(orjson.dumps(recording, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
