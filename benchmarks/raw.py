"""What PostgreSQL and its driver can do at all: batches of events, inserted and committed, no more.

The commit policy is ours: writers hand their rows to a few threads with a connection each, which take all
that waits, insert it in one go, commit durably, and wake the writers.
"""

import asyncio
import contextlib
import queue
import threading
import time
from typing import Any

import psycopg

from corral.kernel.ids import EVENT, SESSION, THREAD, Ids

__all__ = ["WAYS", "rate"]

WAYS = ("unnest", "executemany")
THREADS = 2  # of 1 to 4 the best here, on two cores
_COLUMNS = "session_id, seq, event_id, arrival, thread_id, type, body, private, processed_at, answers"
_UNNEST = f"""INSERT INTO events ({_COLUMNS}) SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[],
    %s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::bytea[], %s::bigint[], %s::text[])"""
_VALUES = f"INSERT INTO events ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_HEAD = b'{"id":"sevt_0111111111111111111111111","type":"agent.message","content":[{"type":"text","text":"'
_BODY = _HEAD + b"x" * 900 + b'"}],"processed_at":"2026-11-20T10:00:00.000000Z"}'

Row = tuple[Any, ...]
Jobs = list[tuple[Row, "asyncio.Future[None]"]]


async def rate(url: str, *, how: str, writers: int, seconds: float) -> float:
    """Events per second."""
    loop, ids = asyncio.get_running_loop(), Ids()
    waiting: queue.SimpleQueue[Jobs | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=_work, args=(url, how, waiting, loop)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    submitted: Jobs = []
    count = 0

    def hand_over() -> None:
        waiting.put(submitted[:])
        submitted.clear()

    async def write(until: float) -> None:
        nonlocal count
        session_id, thread_id, seq = ids.mint(SESSION), ids.mint(THREAD), 0
        while time.perf_counter() < until:
            seq += 1
            done = loop.create_future()
            if not submitted:
                loop.call_soon(hand_over)
            now, event_id = time.time_ns() // 1000, ids.mint(EVENT)
            row = (session_id, seq, event_id, None, thread_id, "agent.message", _BODY, None, now, None)
            submitted.append((row, done))
            await done
            count += 1

    until = time.perf_counter() + seconds
    await asyncio.gather(*(write(until) for _ in range(writers)))
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return count / seconds


def _work(
    url: str, how: str, waiting: "queue.SimpleQueue[Jobs | None]", loop: asyncio.AbstractEventLoop
) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        while (jobs := waiting.get()) is not None:
            with contextlib.suppress(queue.Empty):
                while (more := waiting.get_nowait()) is not None:
                    jobs = jobs + more
                waiting.put(None)
            rows = [row for row, _ in jobs]
            if how == "unnest":
                cursor.execute(_UNNEST, [list(column) for column in zip(*rows, strict=True)])
            else:
                cursor.executemany(_VALUES, rows)
            connection.commit()
            loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: Jobs) -> None:
    for _, done in jobs:
        done.set_result(None)
