"""What sessions, threads and environments look like on the wire. Every field of the official types."""

from collections.abc import Mapping
from datetime import datetime

import orjson

from corral.catalog.records import Wire
from corral.catalog.sandbox import SANDBOX
from corral.kernel.clock import rfc3339
from corral.session.closing import closed_usage
from corral.session.content import Json
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord, ThreadRecord
from corral.session.tokens import Tokens

NEW_USAGE: Mapping[str, Json] = {
    **Tokens().wire(),
    "active_seconds": 0.0,
    "list_cost": {"amount": "0", "currency": "USD"},
}
"""`usage` of a session that has done nothing yet (observed)."""

_QUEUED = b',"processed_at":null}'


def session_view(record: SessionRecord, *, now: datetime) -> dict[str, Json]:
    """Times that are still running are added here; the record has them as of its last event."""
    usage = closed_usage(record, at=now)  # as if it went idle now
    threads_running = sum(
        thread.active_seconds + _open_seconds(thread.running_since, now) for thread in record.threads
    )
    duration = ((record.terminated_at or now) - record.created_at).total_seconds()
    return {
        "id": record.session_id,
        "type": "session",
        "status": record.status,
        "title": record.title,
        "agent": record.agent,
        "environment_id": record.environment_id,
        "deployment_id": None,
        "vault_ids": list(record.vault_ids),
        "resources": [resource.body for resource in record.resources],
        "metadata": record.metadata,
        "budget": record.budget,
        "outcome_evaluations": [],
        "usage": {**usage, "active_seconds": _seconds(usage["active_seconds"])},
        "stats": {
            "active_seconds": _seconds(threads_running),
            "duration_seconds": _seconds(max(0.0, duration)),
        },
        "created_at": rfc3339(record.created_at),
        "updated_at": rfc3339(record.updated_at),
        "archived_at": _time(record.archived_at),
    }


def thread_view(record: SessionRecord, thread: ThreadRecord, *, now: datetime) -> dict[str, Json]:
    """`stats` is null before the first transition, `usage` before the first idle."""
    running = _open_seconds(thread.running_since, now)
    has_run = thread.running_since is not None or thread.usage is not None or thread.active_seconds > 0
    end = thread.archived_at or record.terminated_at or now
    stats = {
        "active_seconds": _seconds(thread.active_seconds + running),
        "duration_seconds": _seconds(max(0.0, (end - thread.created_at).total_seconds())),
        "startup_seconds": 0.0,
    }
    return {
        "id": thread.thread_id,
        "type": "session_thread",
        "session_id": record.session_id,
        "parent_thread_id": thread.parent_thread_id,
        "workflow_run_id": None,
        "agent": thread.agent,
        "status": thread.status,
        "stats": stats if has_run else None,
        "usage": thread.usage,
        "created_at": rfc3339(thread.created_at),
        "updated_at": rfc3339(thread.updated_at),
        "archived_at": _time(thread.archived_at),
    }


def environment_view(environment: Wire) -> dict[str, Json]:
    """With `state`, which hosted environments carry (observed: "active"; "archived" is inferred), and
    without what is ours alone."""
    shown = {name: value for name, value in environment.items() if name != SANDBOX}
    return {**shown, "state": "active" if environment["archived_at"] is None else "archived"}


def sent_view(entry: StoredEvent | InboxEntry) -> bytes:
    """An event in the answer to its POST: a queued one has no `processed_at` at all (observed)."""
    if isinstance(entry, InboxEntry):
        return entry.body.removesuffix(_QUEUED) + b"}"
    return entry.body


def joined(bodies: list[bytes], **fields: Json) -> bytes:
    """`{"data": [bodies], ...fields}` without parsing the bodies."""
    rest = orjson.dumps(fields)[1:] if fields else b"}"
    return b'{"data":[' + b",".join(bodies) + (b"]," if fields else b"]") + rest


def _open_seconds(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _seconds(value: float) -> float:
    return round(value, 3)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
