"""Group commit: what shares a transaction, and what happens to the others when one fails."""

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, event, func, insert, select

from corral.kernel.errors import Conflict, NotFound, StoreUnavailable
from corral.kernel.ids import Ids, SessionId
from corral.kernel.limits import WRITE_STATEMENT_BYTES_MAX, WRITES_QUEUED_MAX
from corral.store.bus import LocalBus
from corral.store.database import Database
from corral.store.log import Log
from corral.store.schema import inbox, tombstones
from corral.testing.clock import ManualClock
from corral.testing.sessions import user_message
from tests.opened import Opened

NOW = ManualClock().now()


def write(connection: Connection, name: str) -> str:
    connection.execute(insert(tombstones), {"session_id": name, "deleted_at": NOW})
    return name


async def count(database: Database, table: Table = tombstones) -> int:
    return await database.read(
        lambda connection: connection.scalar(select(func.count()).select_from(table)) or 0
    )


async def test_waiting_writes_share_one_commit(database: Database) -> None:
    commits = 0

    def committed(_connection: Connection) -> None:
        nonlocal commits
        commits += 1

    event.listen(database.writer, "commit", committed)
    names = [f"sesn_{number}" for number in range(100)]
    results = await asyncio.gather(*(database.write(partial(write, name=name)) for name in names))
    assert list(results) == names
    assert commits == 1
    assert await count(database) == 100


async def test_a_failing_write_by_itself_is_undone(database: Database) -> None:
    def fails(connection: Connection) -> None:
        write(connection, "sesn_bad")
        raise Conflict("no")

    with pytest.raises(Conflict):
        await database.write(fails)
    assert await count(database) == 0


async def test_a_failing_write_is_undone_alone(database: Database) -> None:
    def fails(connection: Connection) -> None:
        write(connection, "sesn_bad")
        raise Conflict("no")

    results = await asyncio.gather(
        database.write(lambda connection: write(connection, "sesn_1")),
        database.write(fails),
        database.write(lambda connection: write(connection, "sesn_2")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, Conflict, str]
    assert await count(database) == 2


async def test_a_mistake_found_before_a_write_costs_the_others_nothing(database: Database) -> None:
    runs: list[str] = []

    def fine(connection: Connection, name: str) -> str:
        runs.append(name)
        return write(connection, name)

    def refuses(_connection: Connection) -> None:
        runs.append("refused")
        raise Conflict("no")

    results = await asyncio.gather(
        database.write(partial(fine, name="sesn_1")),
        database.write(refuses, checks_first=True),
        database.write(partial(fine, name="sesn_2")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, Conflict, str]
    assert runs == ["sesn_1", "refused", "sesn_2"]
    assert await count(database) == 2


async def test_refused_events_cost_the_others_nothing(database: Database) -> None:
    savepoints: list[str] = []
    event.listen(database.writer, "savepoint", lambda _connection, name: savepoints.append(name))
    log = Log(database, LocalBus())
    results = await asyncio.gather(
        database.write(partial(write, name="sesn_1")),
        log.accept(SessionId("sesn_unknown"), [user_message(Ids())], now=NOW),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, NotFound]
    assert not savepoints


async def test_merged_items_arrive_together_and_answer_apart(database: Database) -> None:
    calls: list[tuple[int, bool]] = []

    def merged(connection: Connection, items: Sequence[str], /, *, careful: bool) -> list[str | Exception]:
        calls.append((len(items), careful))
        return [Conflict(item) if item == "bad" else write(connection, item) for item in items]

    results = await asyncio.gather(
        *(database.merge(merged, item) for item in ("a", "bad", "b")), return_exceptions=True
    )
    assert [type(result) for result in results] == [str, Conflict, str]
    assert calls == [(3, False)]


async def test_merged_items_that_are_large_are_fewer_at_once(database: Database) -> None:
    calls: list[list[str]] = []

    def merged(connection: Connection, items: Sequence[str], /, *, careful: bool) -> list[str | Exception]:
        calls.append(list(items))
        return [write(connection, item) for item in items]

    half = WRITE_STATEMENT_BYTES_MAX // 2
    sizes = {"a": half, "b": half, "c": 1, "huge": 3 * WRITE_STATEMENT_BYTES_MAX, "d": 0, "e": 1}
    stored = await asyncio.gather(
        *(database.merge(merged, name, size=size) for name, size in sizes.items())
    )
    assert calls == [["a", "b"], ["c"], ["huge"], ["d", "e"]]
    assert len(set(stored)) == len(sizes)


async def test_merged_items_that_fail_are_undone_together_and_alone(database: Database) -> None:
    def merged(connection: Connection, items: Sequence[str], /, *, careful: bool) -> list[str | Exception]:
        for item in items:
            write(connection, item)
        raise AssertionError("our bug")

    results = await asyncio.gather(
        database.merge(merged, "a"),
        database.write(lambda connection: write(connection, "sesn_1")),
        database.merge(merged, "b"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [AssertionError, str, AssertionError]
    assert await count(database) == 1


async def test_a_full_disk_undoes_the_batch_and_is_survived(database: Database) -> None:
    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await database.write(lambda connection: limit(connection, 1))  # no page more than there is
    big = "sesn_" + "x" * 1_000_000
    results = await asyncio.gather(
        database.write(lambda connection: write(connection, "sesn_small")),
        database.write(lambda connection: write(connection, big)),
        database.write(lambda connection: write(connection, "sesn_after")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert "no room" in str(results[0])
    assert await count(database) == 0
    await database.write(lambda connection: limit(connection, 1_000_000))
    assert await database.write(lambda connection: write(connection, big)) == big
    assert await count(database) == 1


async def test_a_cancelled_write_is_still_whole_and_announced(database: Database) -> None:
    announced = asyncio.Event()
    started = threading.Event()
    go_on = threading.Event()

    def slow(connection: Connection) -> str:
        started.set()
        assert go_on.wait(60)
        return write(connection, "sesn_1")

    task = asyncio.create_task(database.write(slow, committed=lambda _name: announced.set()))
    await asyncio.to_thread(started.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await asyncio.wait_for(announced.wait(), 60)
    assert await count(database) == 1


async def test_too_many_waiting_writes_are_refused(database: Database) -> None:
    go_on = threading.Event()

    def slow(_connection: Connection) -> bool:
        return go_on.wait(60)

    tasks = [asyncio.create_task(database.write(slow)) for _ in range(WRITES_QUEUED_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="waiting"):
        await database.write(slow)
    go_on.set()
    assert all(await asyncio.gather(*tasks))


async def test_close_commits_what_was_submitted(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "corral.db")
    tasks = [asyncio.create_task(database.write(partial(write, name=f"sesn_{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    await database.close()
    assert len(await asyncio.gather(*tasks)) == 50
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(lambda connection: write(connection, "sesn_late"))
    reopened = await Database.open(tmp_path / "corral.db")
    assert await count(reopened) == 50
    await reopened.close()


async def test_a_reader_sees_one_snapshot(database: Database) -> None:
    first_read = threading.Event()
    written = threading.Event()

    def reads_twice(connection: Connection) -> tuple[int | None, int | None]:
        counted = select(func.count()).select_from(tombstones)
        before = connection.scalar(counted)
        first_read.set()
        assert written.wait(60)
        return before, connection.scalar(counted)

    reading = asyncio.create_task(database.read(reads_twice))
    await asyncio.to_thread(first_read.wait, 60)
    await database.write(lambda connection: write(connection, "sesn_1"))
    written.set()
    assert await reading == (0, 0)
    assert await count(database) == 1


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(lambda connection: write(connection, "sesn_1"))


@pytest.mark.parametrize("session_id", ["sesn_\0", "sesn_\udcff"])
async def test_an_id_that_no_database_takes_is_refused_alone(opened: Opened, session_id: str) -> None:
    """PostgreSQL has no text with a NUL, and nobody can encode half a character."""
    database = opened.database
    records = [await opened.stores.session() for _ in range(2)]
    ids, now = opened.stores.ids, opened.stores.clock.now()
    accepted = await asyncio.gather(
        opened.stores.log.accept(records[0].session_id, [user_message(ids)], now=now),
        opened.stores.log.accept(SessionId(session_id), [user_message(ids)], now=now),
        opened.stores.log.accept(records[1].session_id, [user_message(ids)], now=now),
        return_exceptions=True,
    )
    assert [isinstance(each, BaseException) for each in accepted] == [False, True, False]
    assert isinstance(accepted[1], NotFound | StoreUnavailable | UnicodeError)
    with pytest.raises((NotFound, StoreUnavailable, UnicodeError)):
        await opened.stores.log.accept(SessionId(session_id), [user_message(ids)], now=now)
    assert await count(database, inbox) == 2
