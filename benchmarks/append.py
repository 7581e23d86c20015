"""Durable appends per second: 64 concurrent writers, then one; 1 KB events, one event an append.

On SQLite, and on a PostgreSQL that is started here: there also against raw batched SQL in the same run,
which is the same rows of the same table, from 64 writers, without any of what an append checks and changes
besides: as one INSERT for each batch, and as the driver's pipeline of one for each event, which is faster
still (the driver needs no arrays for it). Prints the fsync p50 of the same disk, because disks drift.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import raw
from benchmarks.figure import Figure, at_least, percentile, value
from benchmarks.machine import Disk
from benchmarks.stack import durable_directory
from corral.kernel.clock import SystemClock
from corral.kernel.ids import Ids
from corral.process import look_for_garbage_rarely
from corral.session.events import AgentMessage
from corral.session.lease import Claim, Lease
from corral.session.log import Append, Derived, NewEvent
from corral.session.record import SessionRecord
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions
from corral.testing.postgres import Postgres, missing
from corral.testing.sessions import Draft, agent_message, new_session, user_message

WRITERS, SECONDS = 64, 2.0
FSYNC_SAMPLES = 50  # before each run: not within it, where they would be load
USAGE = {"input_tokens": 12345, "output_tokens": 678, "list_cost": {"amount": "12", "currency": "USD"}}
TEXT = "x" * 900  # with id, type and time the body is 1 KB


class Writer:
    """One session and the brain that holds its lease."""

    def __init__(self, log: Log, ids: Ids, record: SessionRecord, lease: Lease) -> None:
        self._log, self._ids, self._record, self._lease = log, ids, record, lease
        self._seq = 0
        self._last = record.created_at
        self.seconds: list[float] = []

    async def run(self, until: float) -> None:
        while time.perf_counter() < until:
            start = time.perf_counter()
            await self._append()
            self.seconds.append(time.perf_counter() - start)

    async def _append(self) -> None:
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        event = AgentMessage(
            id=self._ids.event(), type=AgentMessage.TYPE, content=[{"type": "text", "text": TEXT}]
        )
        derived = Derived(
            status="running",
            usage=USAGE,
            active_seconds=1.5,
            running_since=self._last,
            blocked_on=(),
            needs_brain=True,
            threads=(),  # what the agent says changes no thread
        )
        await self._log.append(
            Append(
                session_id=self._record.session_id,
                lease=self._lease,
                seen_seq=self._seq,
                seen_arrival=0,
                events=[
                    NewEvent(event=event, thread_id=self._record.primary_thread_id, processed_at=self._last)
                ],
                derived=derived,
            )
        )
        self._seq += 1


async def writer(log: Log, sessions: Sessions, leases: Leases, ids: Ids) -> Writer:
    now = datetime.now(UTC)
    record = await sessions.create(replace(new_session(ids, now), usage=USAGE))
    [lease] = await leases.claim(owner="bench", limit=1, session_ids=[record.session_id])
    return Writer(log, ids, record, lease)


async def measure(runs: int) -> list[Figure]:
    look_for_garbage_rarely()  # as the server does
    with tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as name:
        directory = Path(name)
        with contextlib.closing(Disk(directory)) as disk:
            together, alone = [], []
            for run in range(runs):
                disk.sample(FSYNC_SAMPLES)
                together.append(await _append(directory / f"{run}.db", writers=WRITERS))
            alone.append(await _append(directory / "alone.db", writers=1))
            disk.sample(FSYNC_SAMPLES)
            fsync_ms = disk.fsync_ms
    return [
        Figure(
            title="durable appends of 1 KB, one event each",
            values=[
                value(
                    f"{WRITERS} writers, median of {runs} runs",
                    _rate(together),
                    "events/s",
                    at_least(10_000),
                ),
                value(f"{WRITERS} writers, append p50", _milliseconds(together, 50), "ms"),
                value(f"{WRITERS} writers, append p95", _milliseconds(together, 95), "ms"),
                value("one writer", _rate(alone), "events/s"),
                value("one writer, append p50", _milliseconds(alone, 50), "ms"),
            ],
            fsync_ms=fsync_ms,
        ),
        await _postgres(runs),
    ]


async def _postgres(runs: int) -> Figure:
    title = "the same on PostgreSQL"
    if reason := missing():
        return Figure(title=title, values=[], notes=[f"not measured: {reason}"])
    with (
        tempfile.TemporaryDirectory(prefix="corral-bench-", dir=durable_directory()) as name,
        contextlib.closing(Disk(Path(name))) as disk,
        Postgres.start(below=durable_directory(), own=True) as postgres,
    ):
        together, bare, accepted = [], [], []
        for _ in range(runs):  # in turns, so that both have the same machine and disk
            disk.sample(FSYNC_SAMPLES)
            for how in raw.WAYS:
                url = postgres.fresh_database()
                bare.append((how, await raw.rate(url, how=how, writers=WRITERS, seconds=SECONDS)))
            together.append(await _append(postgres.fresh_database(), writers=WRITERS))
            accepted.append(await _accept(postgres.fresh_database()))
        alone = [await _append(postgres.fresh_database(), writers=1)]
        fsync_ms = disk.fsync_ms
    batched, piped = (statistics.median(rate for way, rate in bare if way == how) for how in raw.WAYS)
    return Figure(
        title=title,
        values=[
            value(f"raw batched SQL, a statement a batch, {WRITERS} writers", batched, "events/s"),
            value(f"{WRITERS} writers, median of {runs} runs", _rate(together), "events/s"),
            value("of raw", 100 * _rate(together) / batched, "%", at_least(50)),
            value("raw, a statement an event in the driver's pipeline", piped, "events/s"),
            value("of that", 100 * _rate(together) / piped, "%"),
            value(f"{WRITERS} writers, append p50", _milliseconds(together, 50), "ms"),
            value(f"{WRITERS} writers, append p95", _milliseconds(together, 95), "ms"),
            value("one writer", _rate(alone), "events/s"),
            value("one writer, append p50", _milliseconds(alone, 50), "ms"),
            value("100 sessions: accept, then claim by append", statistics.median(accepted), "sessions/s"),
        ],
        fsync_ms=fsync_ms,
        notes=[
            "the database, its clients and the benchmark share the machine's cores",
            "raw inserts the same rows into the same table and indexes, commits as durably and groups what"
            " waits; it encodes no event, and locks, checks and updates no session and no thread",
        ],
    )


async def _accept(where: str) -> float:
    """Sessions per second: to each of 100 a message is sent, and a brain takes it with its first append."""
    database = await Database.open(where)
    try:
        bus, ids = LocalBus(), Ids()
        log, sessions = Log(database, bus), Sessions(database, bus, SystemClock())
        records = [await sessions.create(new_session(ids, datetime.now(UTC))) for _ in range(100)]

        async def turn(record: SessionRecord) -> None:
            await log.accept(record.session_id, [user_message(ids)], now=datetime.now(UTC))
            seen = await log.snapshot(record.session_id)
            claim = Claim(session_id=record.session_id, owner="bench", epoch=1)
            draft = Draft(seen=seen, lease=claim, now=datetime.now(UTC))
            await log.append(draft.append([agent_message(ids)], takes=seen.inbox))

        start = time.perf_counter()
        await asyncio.gather(*map(turn, records))
        return len(records) / (time.perf_counter() - start)
    finally:
        await database.close()


async def _append(where: Path | str, *, writers: int) -> list[float]:
    """Seconds of every append of a run."""
    database = await Database.open(where)
    try:
        bus, ids = LocalBus(), Ids()
        log, sessions, leases = Log(database, bus), Sessions(database, bus, SystemClock()), Leases(database)
        ready = [await writer(log, sessions, leases, ids) for _ in range(writers)]
        until = time.perf_counter() + SECONDS
        await asyncio.gather(*(each.run(until) for each in ready))
    finally:
        await database.close()
    return [seconds for each in ready for seconds in each.seconds]


def _rate(runs: list[list[float]]) -> float:
    return statistics.median(len(run) / SECONDS for run in runs)


def _milliseconds(runs: list[list[float]], percent: float) -> float:
    return 1000 * statistics.median(percentile(run, percent) for run in runs)
