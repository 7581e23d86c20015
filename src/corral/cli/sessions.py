"""`corral sessions`: list, show, tail, events."""

import json
import time
from typing import Any

from rich.console import Console

from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem
from corral.cli.render import Renderer, cost, print_table
from corral.kernel.limits import CLI_RECONNECT_SECONDS, CLI_RECONNECTS_MAX

__all__ = ["list_sessions", "show_events", "show_session", "tail_session"]


def list_sessions(api: Api, *, most: int, as_json: bool) -> None:
    sessions = list(api.pages("/v1/sessions", most=most))
    if as_json:
        print(json.dumps(sessions, indent=2))
        return
    rows = []
    for each in sessions:
        agent, usage = each.get("agent") or {}, each.get("usage") or {}
        rows.append((
            each["id"], each["status"], agent.get("name"), cost(usage.get("list_cost")),
            each["updated_at"][:19], each.get("title") or "",
        ))  # fmt: skip
    print_table(("id", "status", "agent", "cost", "updated (UTC)", "title"), rows)


def show_session(api: Api, session_id: str) -> None:
    print(json.dumps(api.get(f"/v1/sessions/{session_id}"), indent=2))


def show_events(api: Api, session_id: str, *, most: int, with_network: bool, as_json: bool) -> None:
    """The log from its beginning. with_network: and at its time, what was asked for from the network; the
    newest `most` of that."""
    renderer = Renderer(Console(highlight=False), as_json=as_json)
    entries: list[dict[str, Any]] = []
    if with_network:
        entries = list(api.pages(f"/corral/v1/sessions/{session_id}/audit", most=most))  # newest first
    for event in api.pages(f"/v1/sessions/{session_id}/events", most=most, order="asc"):
        while entries and entries[-1]["created_at"] < (event.get("processed_at") or ""):
            renderer.show(entries.pop())
        renderer.show(event)
    for entry in reversed(entries):
        renderer.show(entry)


def tail_session(api: Api, session_id: str, *, as_json: bool) -> None:
    """What was, then what happens, until the session ends. Resumes by cursor: no gap, no repeat."""
    renderer = Renderer(Console(highlight=False), as_json=as_json)
    cursor, failures = "0.0", 0
    while True:
        try:
            with api.stream(f"/v1/sessions/{session_id}/events/stream", cursor=cursor) as events:
                for cursor_now, data in events:
                    cursor, failures = cursor_now or cursor, 0
                    event: dict[str, Any] = json.loads(data)
                    renderer.show(event)
                    if event.get("type") in ("session.deleted", "session.status_terminated"):
                        return
        except Problem as problem:
            failures += 1
            if problem.exit is not Exit.NO_SERVER or failures > CLI_RECONNECTS_MAX:
                raise
        time.sleep(CLI_RECONNECT_SECONDS)
