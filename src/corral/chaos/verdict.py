"""The judgement of a run: every session by every law, and what the stopped cluster has left behind."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from corral.chaos.cluster import Cluster
from corral.chaos.driver import Clients
from corral.chaos.history import History, Trouble
from corral.chaos.laws import judge
from corral.chaos.reading import Reading
from corral.chaos.report import Report
from corral.chaos.residue import end, left_behind, secrets_in
from corral.chaos.store import snapshots

__all__ = ["judge_remains", "judge_sessions"]

REMAINS_SECONDS = 5.0  # for what is ending to end


async def judge_sessions(
    report: Report, *, cluster: Cluster, clients: Clients, readings: Mapping[str, Reading]
) -> None:
    """Put what is wrong with each session, and what it counts, into the report. No node runs any more."""
    troubles: list[Trouble] = []
    for node in cluster.nodes.values():
        troubles += node.troubles
    async for dialogue, snapshot in snapshots(cluster, clients.dialogues):
        reading = readings[dialogue.session_id]
        history = History(
            session_id=dialogue.session_id,
            snapshot=snapshot,
            asks=dialogue.asks,
            sent=dialogue.sent,
            listed=list(reading.listed),
            usage=reading.usage,
            frames=dialogue.watch.shown(),
            ran=reading.ran,
            outputs=reading.outputs,
            calls=dialogue.calls,
            troubles=troubles,
        )
        if broken := list(judge(history)):
            report.violations += broken
            _keep(history, cluster.root)
        _count(history, report)
        for refusal in [*dialogue.refused, *dialogue.watch.refusals]:
            report.broken("nothing good is refused", refusal, session_id=dialogue.session_id)
        report.reconnects += max(0, dialogue.watch.connections - 1)
    report.sessions = len(clients.dialogues)
    report.turns = sum(dialogue.turns_done for dialogue in clients.dialogues)
    report.attempts_failed, report.turn_seconds = clients.attempts_failed, clients.turn_seconds


async def judge_remains(report: Report, *, cluster: Cluster) -> None:
    """Look for what the stopped cluster has left, once it has had a moment to go; and end it then."""
    root = cluster.root
    deadline = time.monotonic() + REMAINS_SECONDS
    while (left := list(left_behind(root))) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    for sentence in left:
        report.broken("nothing is left behind", sentence)
    end(root)
    known = cluster.secrets
    wanted = {
        "the API key": known.api_key,
        "the model's key": known.model_key,
        "a variable of the operator": known.variable,
    }
    for sentence in await asyncio.to_thread(lambda: list(secrets_in(root, wanted))):
        report.broken("secrets are nowhere", sentence)


def _keep(history: History, root: Path) -> None:
    """All that is known of a session that broke a law, beside the schedule."""
    known = {
        "log": [
            {"seq": event.seq, "private": event.private, **body}
            for event, body in zip(history.events, history.bodies, strict=True)
        ],
        "ran": history.ran,
        "troubles": [asdict(trouble) for trouble in history.troubles],
        "frames": [asdict(frame) for frame in history.frames or ()],
    }
    (root / f"{history.session_id}.json").write_text(json.dumps(known, indent=1, default=str))


def _count(history: History, report: Report) -> None:
    report.events += len(history.events)
    report.calls += sum(1 for _ in history.of("agent.tool_use", "agent.custom_tool_use"))
    report.unknown += sum("outcome is unknown" in str(body) for _, body in history.of("agent.tool_result"))
    report.given_up += sum(
        body["stop_reason"]["type"] == "retries_exhausted" for _, body in history.of("session.status_idle")
    )
