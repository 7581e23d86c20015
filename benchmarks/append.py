"""Durable appends per second: 64 concurrent writers, then one; 1 KB events, one event an append.

Prints the fsync p50 of the same disk in the same run, because disks drift. Run:
`python benchmarks/append.py [--writers 64] [--seconds 3] [--directory DIR]`.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from corral.kernel.clock import SystemClock
from corral.kernel.ids import SESSION, THREAD, EnvironmentId, Ids, SessionId, ThreadId
from corral.session.events import AgentMessage
from corral.session.lease import Lease
from corral.session.log import Append, Derived, NewEvent
from corral.session.record import SessionRecord, ThreadRecord
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.sessions import Sessions

USAGE = {"input_tokens": 12345, "output_tokens": 678, "list_cost": {"amount": "12", "currency": "USD"}}
TEXT = "x" * 900  # with id, type and time the body is 1 KB


def fsync_p50_ms(directory: Path, rounds: int = 200) -> float:
    """An append of 4 KB and its fsync, as a commit makes one."""
    seconds = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(rounds):
            os.write(file.fileno(), b"x" * 4096)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


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
            threads=self._record.threads,
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
    session_id, thread_id = SessionId(ids.mint(SESSION)), ThreadId(ids.mint(THREAD))
    agent = {"id": "agent_bench", "version": 1, "name": "bench"}
    record = await sessions.create(
        SessionRecord(
            session_id=session_id,
            primary_thread_id=thread_id,
            title=None,
            metadata={},
            agent=agent,
            environment_id=EnvironmentId("env_bench"),
            environment={},
            status="idle",
            usage=USAGE,
            active_seconds=0.0,
            running_since=None,
            blocked_on=(),
            last_seq=0,
            last_arrival=0,
            epoch=0,
            created_at=now,
            updated_at=now,
            archived_at=None,
            terminated_at=None,
            threads=(ThreadRecord(thread_id=thread_id, agent=agent, created_at=now, updated_at=now),),
        )
    )
    [lease] = await leases.claim(owner="bench", limit=1, session_ids=[session_id])
    return Writer(log, ids, record, lease)


async def measure(directory: Path, writers: int, seconds: float) -> str:
    database = await Database.open(directory / f"bench-{writers}.db")
    try:
        bus, ids = LocalBus(), Ids()
        log, sessions, leases = Log(database, bus), Sessions(database, bus, SystemClock()), Leases(database)
        runs = [await writer(log, sessions, leases, ids) for _ in range(writers)]
        start = time.perf_counter()
        await asyncio.gather(*(run.run(start + seconds) for run in runs))
        took = time.perf_counter() - start
    finally:
        await database.close()
    each = sorted(value for run in runs for value in run.seconds)
    p50, p95 = (each[len(each) * percent // 100] * 1000 for percent in (50, 95))
    rate = len(each) / took
    return f"{writers:3d} writers: {rate:8.0f} events/s   append p50 {p50:.2f} ms, p95 {p95:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--directory", type=Path, default=None, help="where the disk to measure is")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        for writers in (arguments.writers, 1):
            result = asyncio.run(measure(Path(name), writers, arguments.seconds))
            print(f"{result}   (fsync p50 {fsync_p50_ms(Path(name)):.2f} ms)")


if __name__ == "__main__":
    main()
