"""Experiments with a number as their answer: one fault, again and again, at the moment that hurts.

The laws judge these sessions as all others; what is measured here comes on top.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from corral.chaos.cluster import Cluster
from corral.chaos.driver import Clients, Dialogue
from corral.chaos.faults import Faults, paused
from corral.chaos.plan import Call, Turn
from corral.chaos.schedule import Fault, Kind
from corral.kernel.ids import SessionId
from corral.session.log import SessionLog, Snapshot
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.log import Log

__all__ = ["ROUNDS", "SCENARIOS", "SESSIONS", "Stage"]

TOOL_SECONDS: Final = 20.0
STARTED_SECONDS: Final = 1.5  # between a call in the log and the blow: by then it runs
TAKEN_SECONDS_MAX: Final = 16.0  # since the last one moved: then the rest have a brain that lives
LOOK_SECONDS: Final = 0.05
CALL_SECONDS: Final = 0.05
KILLED_CALLS, STOPPED_CALLS = 12, 30  # of a turn that is to be taken over: it lasts longer than the fault
SPARE_SECONDS: Final = 30.0  # for a node to have a spare; some 5 s where nothing else runs
AFTER_SECONDS: Final = 2.0  # a zombie that wants to write has written by then


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a scenario plays on. `figures` is where it writes what it measured."""

    cluster: Cluster
    clients: Clients
    faults: Faults
    rounds: int
    sessions: int
    seed: int
    figures: dict[str, float]

    @asynccontextmanager
    async def dialogues(self) -> AsyncIterator[list[Dialogue]]:
        """So many sessions, each with its reader."""
        made = [await self.clients.open(f"s{number}", asks=False) for number in range(self.sessions)]
        reading = [asyncio.create_task(each.watch.read(), name="watch scenario") for each in made]
        try:
            yield made
            for each in made:
                each.is_over = True
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def long_tools(stage: Stage) -> None:
    """Calls of 20 s in all sessions; while they run, something is killed. One node: its server, or all of
    it and a new start, in turn. Many: a random node's process."""
    choice = random.Random(f"{stage.seed}/long-tools")
    async with stage.dialogues() as dialogues:
        for number in range(stage.rounds):
            calls = [
                Call(token=f"{dialogue.name}.{number}", seconds=TOOL_SECONDS) for dialogue in dialogues
            ]
            turns = [
                asyncio.create_task(
                    stage.clients.take(dialogue, [Turn(token=call.token, kind="long", rounds=[[call]])])
                )
                for dialogue, call in zip(dialogues, calls, strict=True)
            ]
            for dialogue, call in zip(dialogues, calls, strict=True):
                await dialogue.watch.until(partial(_is_asked, dialogue, call))
            await asyncio.sleep(STARTED_SECONDS)
            lane = choice.choice(list(stage.cluster.nodes))
            kinds: Sequence[Kind] = ("kill-server", "kill-all")
            if lane.startswith("hands"):
                kinds = ("kill-hands",)
            await stage.faults.perform(Fault(lane=lane, after=0.0, kind=kinds[number % len(kinds)]))
            await asyncio.gather(*turns)
    stage.figures["long calls"] = float(stage.rounds * stage.sessions)


def _is_asked(dialogue: Dialogue, call: Call) -> bool:
    return any(f"{call.token} " in str(use["input"]) for use in dialogue.watch.uses.values())


async def failover(stage: Stage) -> None:
    """SIGKILL of a brain: how long until another one's next event, for every session it ran."""

    async def kill(stage: Stage, lane: str, taken: Callable[[], Awaitable[None]]) -> datetime:
        await stage.faults.perform(Fault(lane=lane, after=0.0, kind="kill-server"))
        return stage.cluster.nodes[lane].killed_at or datetime.now(UTC)

    await _takeovers(stage, kill, calls=KILLED_CALLS)


async def zombie(stage: Stage) -> None:
    """SIGSTOP of a brain until others have taken over; SIGCONT; then it may write nothing."""

    async def stop(stage: Stage, lane: str, taken: Callable[[], Awaitable[None]]) -> datetime:
        async with paused(stage.cluster.nodes[lane].processes().get("server")):
            struck = datetime.now(UTC)
            await taken()
        await asyncio.sleep(AFTER_SECONDS)
        return struck

    await _takeovers(stage, stop, calls=STOPPED_CALLS)


async def _takeovers(
    stage: Stage,
    strike: Callable[[Stage, str, Callable[[], Awaitable[None]]], Awaitable[datetime]],
    *,
    calls: int,
) -> None:
    """Strike brains in turn, `rounds` takeovers long, while every session takes many short steps: its next
    event is always due within a fraction of a second. Between two strikes all sessions finish their turn,
    and every brain's node has its spare again, as it has when brains do not die every few seconds."""
    database = await Database.open(stage.cluster.database_url or stage.cluster.database_path)
    log: SessionLog = Log(database, LocalBus())
    seconds: list[float] = []
    brains = stage.cluster.with_role("brain")
    number = zombie_writes = spareless = 0
    try:
        async with stage.dialogues() as dialogues:
            await asyncio.gather(*_begin(stage, dialogues, "first", calls=1))  # has a sandbox from here on
            while len(seconds) < stage.rounds:
                if stage.cluster.kind == "postgres":
                    spareless += not all([await node.has_spare(seconds=SPARE_SECONDS) for node in brains])
                asked = [len(dialogue.watch.uses) for dialogue in dialogues]
                turns = _begin(stage, dialogues, str(number), calls=calls)
                for dialogue, count in zip(dialogues, asked, strict=True):
                    await dialogue.watch.until(partial(_has_asked, dialogue, count))
                before = await _epochs(log, dialogues)
                taken = partial(_taken, log, dialogues, before)
                struck = await strike(stage, brains[number % len(brains)].name, taken)
                await asyncio.gather(*turns)
                for dialogue in dialogues:
                    snapshot = await log.snapshot(SessionId(dialogue.session_id))
                    epoch = before.get(dialogue.session_id)  # None: it was at rest
                    moved = None if epoch is None else _next_event(snapshot, after=struck, epoch=epoch)
                    if moved is not None:
                        seconds.append((moved - struck).total_seconds())
                    zombie_writes += _late_writes(snapshot)
                number += 1
    finally:
        await database.close()
    assert seconds, "nothing was taken over"
    seconds.sort()
    stage.figures.update(
        {
            "strikes": float(number),
            "strikes without a spare": float(spareless),
            "takeovers": float(len(seconds)),
            "to the next event, p50 s": seconds[len(seconds) // 2],
            "to the next event, p95 s": seconds[int(len(seconds) * 0.95)],
            "to the next event, max s": seconds[-1],
            "zombie writes": float(zombie_writes),
        }
    )


def _begin(
    stage: Stage, dialogues: Sequence[Dialogue], name: str, *, calls: int
) -> list[asyncio.Task[None]]:
    """In each session, a turn of so many short calls, one after another."""
    turns = []
    for dialogue in dialogues:
        token = f"{dialogue.name}.{name}"
        rounds = [[Call(token=f"{token}.{n}", seconds=CALL_SECONDS)] for n in range(calls)]
        order = Turn(token=token, kind="rounds", rounds=rounds)
        turns.append(asyncio.create_task(stage.clients.take(dialogue, [order])))
    return turns


def _has_asked(dialogue: Dialogue, uses: int) -> bool:
    return len(dialogue.watch.uses) > uses


async def _taken(log: SessionLog, dialogues: Sequence[Dialogue], before: Mapping[str, int]) -> None:
    """Until all sessions have another brain; some had one that lives, and are not waited for longer."""
    last, seen = time.monotonic(), dict(before)
    while time.monotonic() < last + TAKEN_SECONDS_MAX:
        now = dict(await _epochs(log, dialogues))
        if now != seen:
            seen, last = now, time.monotonic()
        if all(now[each] != before.get(each) for each in now):
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _epochs(log: SessionLog, dialogues: Sequence[Dialogue]) -> Mapping[str, int]:
    """Of the sessions that run."""
    found = {}
    for dialogue in dialogues:
        with suppress(Exception):
            snapshot = await log.snapshot(SessionId(dialogue.session_id), after_seq=2**31)
            if snapshot.record.status == "running":
                found[dialogue.session_id] = snapshot.record.epoch
    return found


def _next_event(snapshot: Snapshot, *, after: datetime, epoch: int) -> datetime | None:
    """When the first event after a moment was written, if a later epoch than this one wrote it."""
    wrote = [event for event in snapshot.events if event.processed_at > after]
    later = [e for e in wrote if (e.private or {}).get("epoch", 0) > epoch]
    if not later:
        return None
    # What came between the blow and the first word of the new epoch without an epoch of its own is either
    # the last commit of the old brain, on its way already, or a result that the new one wrote down.
    return later[0].processed_at


def _late_writes(snapshot: Snapshot) -> int:
    """Events of an epoch that was over when they were written."""
    highest = late = 0
    for event in snapshot.events:
        epoch = int((event.private or {}).get("epoch", 0))
        late += bool(epoch) and epoch < highest
        highest = max(highest, epoch)
    return late


SCENARIOS: Final[Mapping[str, Callable[[Stage], Awaitable[None]]]] = {
    "long-tools": long_tools,
    "failover": failover,
    "zombie": zombie,
}
ROUNDS: Final[Mapping[str, int]] = {"long-tools": 20, "failover": 100, "zombie": 100}
SESSIONS: Final = 10
