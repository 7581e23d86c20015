"""PostgreSQL and connections that die, at any moment of a transaction: nothing is lost, nothing doubled."""

import asyncio
import contextlib
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Connection, func, insert, text
from sqlalchemy import select as query
from sqlalchemy.exc import DBAPIError

from corral.kernel.errors import Stale, StoreUnavailable
from corral.kernel.ids import EventId, Ids, SessionId
from corral.kernel.limits import POSTGRES_IDLE_SECONDS, POSTGRES_LOCK_SECONDS
from corral.session.lease import Lease
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.driver import fetch
from corral.store.engine import postgres_engine, target
from corral.store.lease import Leases
from corral.store.log import Log
from corral.store.schema import tombstones, writers
from corral.store.sessions import Sessions
from corral.store.transact import Outage, PostgresReader, PostgresWriter
from corral.testing.clock import ManualClock
from corral.testing.postgres import Postgres, missing
from corral.testing.sessions import Draft, agent_message, new_session, user_message
from tests.served import WAIT_SECONDS, until

T = TypeVar("T")

NOW = ManualClock().now()
AWAY_SECONDS = 0.05  # before the next try: after a long outage each fails at once


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


def write(connection: Connection, name: str) -> str:
    connection.execute(insert(tombstones), {"session_id": name, "deleted_at": NOW})
    return name


async def count(database: Database) -> int:
    return await database.read(
        lambda connection: connection.scalar(query(func.count()).select_from(tombstones)) or 0
    )


def by_sqlalchemy(connection: Connection) -> object:
    return connection.execute(text("SELECT 7")).all()


class CountedPauses(Outage):
    """How often something had to be tried again."""

    count = 0

    def pause(self, error: DBAPIError, attempt: int) -> None:
        self.count += 1
        super().pause(error, attempt)


# -- connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "in a batch"])
async def test_a_connection_that_is_cut_within_a_batch(
    postgres: Postgres, database: Database, others: int
) -> None:
    backends: list[int] = []

    def body(connection: Connection) -> str:
        backends.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        written = write(connection, "sesn_cut")
        if len(backends) == 1:
            with postgres.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 60000)", [backends[0]])
        return written

    names = ["sesn_cut", *(f"sesn_{n}" for n in range(others))]
    bodies = [body, *(partial(write, name=name) for name in names[1:])]
    assert await asyncio.gather(*(database.write(each, locks=()) for each in bodies)) == names
    assert len(set(backends)) == 2
    assert await count(database) == len(names)


async def test_a_reader_that_is_cut_reads_again(postgres: Postgres, database: Database) -> None:
    backends: list[int] = []

    def body(connection: Connection) -> int:
        backends.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if len(backends) == 1:
            with postgres.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 60000)", [backends[0]])
        return int(connection.execute(text("SELECT 7")).scalar_one())

    assert await database.read(body) == 7
    assert len(set(backends)) == 2


@pytest.mark.parametrize("read", [lambda connection: fetch(connection, "SELECT 7"), by_sqlalchemy])
def test_one_lost_connection_stands_for_all(
    postgres: Postgres, database_url: str, read: Callable[[Connection], object]
) -> None:
    """Whoever meets a server that has gone need not wait for each of its old connections to fail."""
    engine, pauses = postgres_engine(target(database_url), writes=False, connections=4), CountedPauses()
    try:
        with contextlib.ExitStack() as stack:
            backends = [
                stack.enter_context(engine.connect()).connection.driver_connection.info.backend_pid
                for _ in range(4)
            ]
        with postgres.connect() as other:
            for backend in backends:
                other.execute("SELECT pg_terminate_backend(%s, 60000)", [backend])
        assert PostgresReader(engine, pauses, is_one_statement=True)(read) == [(7,)]
        assert pauses.count == 1
    finally:
        engine.dispose()


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "in a batch"])
async def test_a_connection_to_a_server_that_takes_no_writes_is_replaced(
    database: Database, others: int
) -> None:
    """As after a fail-over, when the connection leads to the server that is a standby now."""
    backends: list[int] = []

    def body(connection: Connection) -> str:
        backends.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if len(backends) == 1:
            connection.execute(text("SET LOCAL transaction_read_only = on"))
        return write(connection, "sesn_standby")

    names = ["sesn_standby", *(f"sesn_{n}" for n in range(others))]
    bodies = [body, *(partial(write, name=name) for name in names[1:])]
    assert await asyncio.gather(*(database.write(each, locks=()) for each in bodies)) == names
    assert len(set(backends)) == len(backends) == 2
    assert await count(database) == len(names)


class CuttingProxy:
    """A server's port, on loopback, that cuts the connection of the next COMMIT: `before` the server has
    it, or `after` it has answered."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server = ("127.0.0.1", parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        self.cut: str | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        is_last = False
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data or (source is server and is_last):
                        return
                    if source is client and b"COMMIT\0" in data and self.cut is not None:
                        how, self.cut = self.cut, None
                        if how == "before":
                            return
                        is_last = True  # what the server says next is its answer
                    (server if source is client else client).sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # also wakes the thread that accepts
        self._listener.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(database_url)
    yield proxy
    proxy.close()


@pytest.mark.parametrize(("how", "runs"), [("before", 2), ("after", 1)])
async def test_a_commit_whose_answer_is_lost_counts_once(proxy: CuttingProxy, how: str, runs: int) -> None:
    """Its writer's row tells whether it took effect: also when it is the first of that writer."""
    database = await Database.open(proxy.url)
    try:
        for first in (True, False):
            ran: list[str] = []

            def body(connection: Connection, ran: list[str] = ran) -> str:
                ran.append(write(connection, f"sesn_{random.getrandbits(64)}"))
                return ran[-1]

            before = await count(database)
            proxy.cut = how
            assert await database.write(body) == ran[-1], first
            assert proxy.cut is None
            assert len(ran) == runs
            assert await count(database) == before + 1
    finally:
        await database.close()


async def test_no_row_gets_many_versions(
    proxy: CuttingProxy, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an old transaction all of them stay. Where a row ends, the last commit is known, too."""
    monkeypatch.setattr("corral.store.transact.WRITER_ROW_VERSIONS_MAX", 3)
    engine = postgres_engine(target(proxy.url), writes=True, connections=1)
    writer, found = PostgresWriter(engine, Outage()), Counter[str]()
    ran: list[str] = []

    def body(connection: Connection) -> str:
        ran.append(write(connection, f"sesn_{len(ran)}"))
        return str(connection.execute(query(writers.c.writer_id)).scalar_one())

    for number in range(12):
        proxy.cut = ("before", "after", None)[number % 3]
        found[await asyncio.to_thread(writer, body)] += 1
    engine.dispose()
    assert len(ran) > sum(found.values()) == 12
    assert len(found) > 3 and max(found.values()) <= 3
    database = await Database.open(database_url)
    assert await count(database) == 12
    await database.close()


async def test_a_store_that_stays_away_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.store.transact.STORE_OUTAGE_SECONDS", 0.3)
    proxy = CuttingProxy(database_url)
    database = await Database.open(proxy.url)
    proxy.close()
    proxy.cut = "after"
    with pytest.raises(StoreUnavailable, match="not known") as caught:
        await database.write(partial(write, name="sesn_1"))
    assert caught.value.written
    with pytest.raises(StoreUnavailable) as caught:
        await database.write(partial(write, name="sesn_2"))
    assert not caught.value.written and caught.value.retryable
    await database.close()


# -- the server ---------------------------------------------------------------------------------------


async def once_there(call: Callable[[], Awaitable[T]]) -> T:
    """The server may be away for long: whoever starts it says if it stays away."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(AWAY_SECONDS)


class Worker:
    """A session, and what its brain or its client was told: `told` are acknowledged events, in order."""

    def __init__(self, database: Database, ids: Ids) -> None:
        bus = LocalBus()
        self.log, self.leases = Log(database, bus), Leases(database)
        self.sessions = Sessions(database, bus, ManualClock(), ids=ids)
        self.ids = ids
        self.told: list[EventId] = []

    async def begin(self) -> None:
        record = await self.sessions.create(new_session(self.ids, NOW))
        self.session_id: SessionId = record.session_id

    async def appends(self, is_over: Callable[[], bool]) -> None:
        lease: Lease
        [lease] = await self.leases.claim(owner="brain", limit=1, session_ids=[self.session_id])
        seen = await self.log.snapshot(self.session_id)
        while not is_over():
            append = Draft(seen=seen, lease=lease, now=NOW).append([agent_message(self.ids)])
            stored = await once_there(partial(self.log.append, append))
            self.told += [event.event_id for event in stored]
            seen = await once_there(
                partial(self.log.snapshot, self.session_id, after_seq=stored[-1].seq - 1)
            )

    async def sends(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            message = user_message(self.ids)
            try:
                await self.log.accept(self.session_id, [message], now=NOW)
                self.told.append(message.id)
            except StoreUnavailable:  # it may be there or not, but not twice
                await asyncio.sleep(AWAY_SECONDS)
            if len(self.told) % 500 == 0:  # the inbox has a bound
                await self._empty()

    async def _empty(self) -> None:
        leases = await once_there(
            partial(self.leases.claim, owner="brain", limit=1, session_ids=[self.session_id])
        )
        seen = await once_there(partial(self.log.snapshot, self.session_id))
        for lease in leases:
            with contextlib.suppress(StoreUnavailable, Stale):
                await self.log.append(
                    Draft(seen=seen, lease=lease, now=NOW).append(takes=seen.inbox, releases=True)
                )

    async def check(self) -> None:
        seen = await self.log.snapshot(self.session_id)
        assert [event.seq for event in seen.events] == list(range(1, len(seen.events) + 1))
        found = Counter(entry.event_id for entry in (*seen.events, *seen.inbox))
        assert not [event_id for event_id, times in found.items() if times > 1]
        assert not set(self.told) - set(found)
        assert [entry.arrival for entry in seen.inbox] == sorted(entry.arrival for entry in seen.inbox)


async def test_a_killed_server_loses_and_doubles_nothing() -> None:
    """SIGKILL of the postmaster under 64 concurrent writers, several times; nobody has to be restarted."""
    if reason := missing():
        pytest.skip(reason)
    with Postgres.start(own=True) as postgres:
        database = await Database.open(postgres.fresh_database())
        try:
            ids, over = Ids(), False
            workers = [Worker(database, ids) for _ in range(64)]
            await asyncio.gather(*(worker.begin() for worker in workers))
            async with asyncio.TaskGroup() as group:
                for number, worker in enumerate(workers):
                    work = worker.appends if number % 2 else worker.sends
                    group.create_task(work(lambda: over))
                for _ in range(3):
                    before = [len(worker.told) for worker in workers]
                    await until(
                        lambda before=before: all(  # type: ignore[misc]
                            len(worker.told) > told for worker, told in zip(workers, before, strict=True)
                        ),
                        seconds=60,
                    )
                    postgres.kill()
                    await asyncio.to_thread(postgres.restart)
                over = True
            for worker in workers:
                await worker.check()
        finally:
            await database.close()


# -- locks --------------------------------------------------------------------------------------------


async def test_a_standby_is_neither_read_nor_written() -> None:
    """The server comes back as a standby, as one does that was replaced, and takes over again."""
    if reason := missing():
        pytest.skip(reason)
    with Postgres.start(own=True, settings={"log_connections": "on"}) as postgres:
        database = await Database.open(postgres.fresh_database())
        with postgres.connect() as connection:
            [directory] = connection.execute("SHOW data_directory").fetchone()
            connection.execute(f"COPY (SELECT '') TO '{directory}/standby.signal'")
        postgres.stop()
        postgres.restart()
        seen = postgres.log().count("connection authorized")
        reading = asyncio.create_task(
            database.read(lambda connection: connection.scalar(text("SELECT pg_is_in_recovery()")))
        )
        writing = asyncio.create_task(database.write(partial(write, name="sesn_1")))
        await until(lambda: postgres.log().count("connection authorized") > seen + 1)
        with postgres.connect() as connection:
            connection.execute("SELECT pg_promote()")
        assert await reading is False
        assert await writing == "sesn_1"
        await database.close()


async def test_crossing_batches_do_not_deadlock(postgres: Postgres, database_url: str) -> None:
    """Two nodes write to the same sessions in all orders, appends, inputs and claims mixed."""
    nodes = [await Database.open(database_url) for _ in range(2)]
    try:
        ids = Ids()
        workers = [[Worker(node, ids) for node in nodes] for _ in range(12)]
        for pair in workers:
            await pair[0].begin()
            pair[1].session_id = pair[0].session_id

        async def write_to_many(node: int, seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(15):
                worker = chance.choice(workers)[node]
                if chance.random() < 0.3:
                    [lease] = await worker.leases.claim(
                        owner=f"brain-{seed}", limit=1, session_ids=[worker.session_id]
                    ) or [None]
                    if lease is not None:
                        seen = await worker.log.snapshot(worker.session_id)
                        with contextlib.suppress(Stale):
                            await worker.log.append(
                                Draft(seen=seen, lease=lease, now=NOW).append([agent_message(ids)])
                            )
                        await worker.leases.release([lease])
                else:
                    [entry] = await worker.log.accept(worker.session_id, [user_message(ids)], now=NOW)
                    worker.told.append(entry.event_id)

        await asyncio.gather(*(write_to_many(n % 2, n) for n in range(40)))
        for pair in workers:
            pair[0].told += pair[1].told
            await pair[0].check()
        with postgres.connect(database_url) as connection:
            [deadlocks] = connection.execute(
                "SELECT pg_stat_get_db_deadlocks(oid) FROM pg_database WHERE datname = current_database()"
            ).fetchone()
        assert deadlocks == 0
    finally:
        for node in nodes:
            await node.close()


async def test_a_deadlock_with_a_stranger_is_survived(postgres: Postgres, database: Database) -> None:
    """Somebody locks by hand, in another order: the database ends one of the two, and ours is run again."""
    ids = Ids()
    workers = [Worker(database, ids) for _ in range(2)]
    for worker in workers:
        await worker.begin()
    first, second = (worker.session_id for worker in workers)
    runs, lock = 0, "SELECT 1 FROM sessions WHERE session_id = '{}' FOR UPDATE"
    holds, asked = threading.Event(), threading.Event()

    def body(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # it waits in here
        connection.execute(text(lock.format(first)))
        holds.set()
        assert asked.wait(WAIT_SECONDS)
        if runs == 1:
            wait_until_blocked(postgres, "stranger")
        connection.execute(text(lock.format(second)))
        return runs

    def stranger() -> None:
        import psycopg

        url = database.writer.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, application_name="stranger") as connection:
            connection.execute("SET deadlock_timeout = '60s'")  # so it is not the one that is ended
            connection.execute(lock.format(second))
            assert holds.wait(WAIT_SECONDS)
            asked.set()
            connection.execute(lock.format(first))

    other = asyncio.create_task(asyncio.to_thread(stranger))
    with postgres.connect() as connection:
        holding = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'stranger' AND state LIKE 'idle in%'"
        )
        await until(lambda: connection.execute(holding).fetchone() is not None)
    assert await database.write(body) == 2
    await other


def wait_until_blocked(postgres: Postgres, name: str) -> None:
    until = time.monotonic() + WAIT_SECONDS
    with postgres.connect() as connection:
        while not connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'",
            [name],
        ).fetchone():
            assert time.monotonic() < until, f"{name} is not blocked"
            time.sleep(0.01)


STOPS = """
import asyncio, os, signal, sys, time
from sqlalchemy import text
from corral.store.database import Database

async def main():
    database = await Database.open(sys.argv[1])
    runs = 0

    def body(connection):
        nonlocal runs
        runs += 1
        counted = "UPDATE sessions SET epoch = epoch + 1 WHERE session_id = :id"
        connection.execute(text(counted), {"id": sys.argv[2]})
        if runs == 1:
            print("holds", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.5)  # other threads stop a little later; this is over when it is continued
        return runs

    print(await database.write(body), flush=True)
    await database.close()

asyncio.run(main())
"""


async def test_a_stopped_process_does_not_hold_a_row_for_ever(
    database: Database, database_url: str
) -> None:
    """SIGSTOP within a transaction: others go on; when it is continued, it begins anew and counts once."""
    ids = Ids()
    worker = Worker(database, ids)
    await worker.begin()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPS, database_url, worker.session_id, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"holds\n"
        start = time.monotonic()
        await worker.log.accept(worker.session_id, [user_message(ids)], now=NOW)
        took = time.monotonic() - start
        assert POSTGRES_IDLE_SECONDS / 2 < took < POSTGRES_LOCK_SECONDS
        process.send_signal(signal.SIGCONT)
        assert await process.stdout.readline() == b"2\n"
        assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert (await worker.sessions.read(worker.session_id)).epoch == 1


# -- the server that tests start ----------------------------------------------------------------------

STARTS = """
from corral.testing.postgres import Postgres
server = Postgres.start(own=True)
print(server.pid, server.url(by_socket=True), flush=True)
input()
"""


async def test_a_server_ends_with_the_process_that_started_it() -> None:
    """Also when that process is killed: no server, no files stay behind."""
    if reason := missing():
        pytest.skip(reason)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        pid, url = (await process.stdout.readline()).decode().split()
        directory = Path(unquote(parse_qs(urlsplit(url).query)["host"][0])).parent
        assert psutil.pid_exists(int(pid)) and directory.is_dir()
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not psutil.pid_exists(int(pid)) and not directory.exists())
