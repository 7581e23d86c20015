"""The laws of the hands host's journal: durable before answered, fenced, bounded, whole after any cut."""

import asyncio
import contextlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.hands import journal as journal_module
from corral.hands.journal import Journal, Row
from corral.hands.ports import WorkspaceMissing
from corral.kernel.errors import Conflict, HandsUnavailable, LeaseLost, SandboxUnavailable

S = "sesn_1"
SETTLED = Row(result=None, is_settled=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    journal = Journal(path)
    yield journal
    await journal.aclose()


async def test_a_call_goes_from_absent_to_started_to_result_to_settled(journal):
    assert await journal.fence(S, epoch=1, call_id="c1") is None
    await journal.start(S, "c1")
    assert await journal.fence(S, epoch=1, call_id="c1") == Row(result=None)
    await journal.finish(S, "c1", b"out")
    assert await journal.finish(S, "c1", b"too late") == b"out"
    assert await journal.fence(S, epoch=1, call_id="c1") == Row(result=b"out")
    journal.settle(["c1", "unknown"])
    for call_id in ("c1", "unknown"):
        assert await journal.fence(S, epoch=1, call_id=call_id) == SETTLED


async def test_a_forbidden_call_never_starts_and_others_are_untouched(journal):
    await journal.start(S, "c1")
    await journal.finish(S, "c2", b"out")
    await journal.forbid(S, ["c1", "c2", "c3"], b"no")
    assert await journal.start(S, "c3") == b"no"
    assert await journal.start(S, "c4") is None
    rows = [await journal.fence(S, epoch=1, call_id=f"c{n}") for n in (1, 2, 3)]
    assert rows == [Row(result=None), Row(result=b"out"), Row(result=b"no")]


async def test_a_settled_call_starts_no_more_and_takes_no_room(path, monkeypatch):
    monkeypatch.setattr(journal_module, "JOURNAL_CALLS_MAX", 2)
    journal = Journal(path)
    for n in range(5):  # more than there may be unsettled ones
        assert await journal.start(S, f"c{n}") is None
        await journal.finish(S, f"c{n}", b"out")
        journal.settle([f"c{n}"])
    await journal.forbid(S, ["c0"], b"no")
    await journal.aclose()
    journal = Journal(path)
    for n in range(5):
        with pytest.raises(LeaseLost):
            await journal.start(S, f"c{n}")
        assert await journal.fence(S, epoch=1, call_id=f"c{n}") == SETTLED
    for n in range(2):
        await journal.start(S, f"d{n}")
    with pytest.raises(SandboxUnavailable):
        await journal.start(S, "d2")
    await journal.aclose()


async def test_settled_calls_are_forgotten_in_time_a_few_at_once(journal, monkeypatch):
    def known() -> int:
        return journal._writer._db.execute("SELECT count(*) FROM settled").fetchone()[0]

    journal.settle([f"c{n}" for n in range(10)])
    assert await journal.fence(S, epoch=1) is None
    assert known() == 10
    monkeypatch.setattr(journal_module, "JOURNAL_SETTLED_SECONDS", -1)
    for left in (9, 8):  # one came, two went
        journal.settle([f"d{left}"])
        await journal.fence(S, epoch=1)
        assert known() == left
    assert await journal.fence(S, epoch=1, call_id="c0") is None


async def test_the_highest_epoch_survives_and_fences(journal, path):
    await journal.fence(S, epoch=5)
    with pytest.raises(LeaseLost):
        await journal.fence(S, epoch=4)
    await journal.fence("sesn_2", epoch=1)
    await journal.aclose()
    again = Journal(path)
    with pytest.raises(LeaseLost):
        await again.fence(S, epoch=4)
    await again.fence(S, epoch=5)
    await again.aclose()


async def test_a_refusal_does_not_touch_the_operations_beside_it(journal):
    await journal.fence(S, epoch=5)
    outcomes = await asyncio.gather(
        journal.start(S, "c1"), journal.fence(S, epoch=1), journal.start(S, "c2"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), LeaseLost, type(None)]
    assert await journal.fence(S, epoch=5, call_id="c1") == await journal.fence(S, epoch=5, call_id="c2")


async def test_a_released_session_is_fenced_for_every_epoch_and_forgotten(journal):
    await journal.start(S, "c1")
    await journal.start("sesn_2", "c2")
    await journal.release(S, is_deleted=True)
    await journal.release(S, is_deleted=True)
    await journal.forget(S, is_deleted=True)
    assert await journal.is_released(S) and not await journal.is_released("sesn_2")
    with pytest.raises(LeaseLost):
        await journal.fence(S, epoch=10**15)
    assert await journal.fence("sesn_2", epoch=1, call_id="c2") == Row(result=None)


async def test_unsettled_calls_are_bounded_and_settling_makes_room(path, monkeypatch):
    monkeypatch.setattr(journal_module, "JOURNAL_CALLS_MAX", 3)
    journal = Journal(path)
    for n in range(3):
        await journal.start(S, f"c{n}")
    with pytest.raises(SandboxUnavailable, match="unsettled"):
        await journal.start(S, "c3")
    assert await journal.fence(S, epoch=1, call_id="c3") is None
    journal.settle(["c0", "c0", "never"])
    await journal.start(S, "c3")
    await journal.aclose()
    journal = Journal(path)  # the count is taken from the file, not remembered
    with pytest.raises(SandboxUnavailable):
        await journal.start(S, "c4")
    await journal.forget(S, is_deleted=True)
    await journal.start(S, "c4")
    await journal.aclose()


async def test_old_results_of_one_session_go_and_open_calls_stay(path, monkeypatch):
    monkeypatch.setattr(journal_module, "JOURNAL_CALLS_MAX", 4)
    journal = Journal(path)
    await journal.finish(S, "done", b"out")
    await journal.forbid(S, ["forbidden"], b"no")
    await journal.start(S, "open")
    await journal.finish("sesn_2", "other", b"out")
    journal.settle_old(S)  # younger than the bound
    assert await journal.fence(S, epoch=1, call_id="done") == Row(result=b"out")
    journal.settle_old(S, seconds=0)
    assert await journal.fence(S, epoch=1, call_id="done") is None
    assert await journal.fence(S, epoch=1, call_id="forbidden") is None
    assert await journal.fence(S, epoch=1, call_id="open") == Row(result=None)
    assert await journal.fence("sesn_2", epoch=1, call_id="other") == Row(result=b"out")
    for n in range(2):
        await journal.start(S, f"c{n}")  # there is room again
    with pytest.raises(SandboxUnavailable):
        await journal.start(S, "c2")
    await journal.aclose()


async def test_a_journal_of_the_first_format_goes_on(path):
    db = sqlite3.connect(path)
    for statement in (
        "CREATE TABLE meta (journal_id TEXT NOT NULL)",
        "CREATE TABLE epochs (session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, released_at REAL)",
        "CREATE TABLE calls (call_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, result BLOB)",
        "CREATE INDEX calls_session ON calls (session_id)",
        "PRAGMA user_version = 1",
        "INSERT INTO meta VALUES ('hjrn_old')",
        f"INSERT INTO calls VALUES ('done', '{S}', x'6f'), ('open', '{S}', NULL)",
    ):
        db.execute(statement)
    db.commit()
    db.close()
    for _ in range(2):
        journal = Journal(path)
        assert journal.journal_id == "hjrn_old"
        assert await journal.fence(S, epoch=1, call_id="done") == Row(result=b"o")
        journal.settle_old(S)
        await journal.finish(S, "open", b"late")
        await journal.aclose()
    journal = Journal(path)
    journal.settle_old(S, seconds=0)
    assert await journal.fence(S, epoch=1, call_id="done") is None
    await journal.aclose()


async def test_identity_is_minted_with_the_file_and_a_broken_file_is_another_journal(journal, path):
    await journal.start(S, "c1")
    await journal.aclose()
    again = Journal(path)
    assert again.journal_id == journal.journal_id
    await again.aclose()
    path.write_bytes(b"not a journal at all " * 500)
    fresh = Journal(path)
    assert fresh.journal_id != journal.journal_id
    assert await fresh.fence(S, epoch=1, call_id="c1") is None
    assert Path(f"{path}.broken").read_bytes().startswith(b"not a journal")
    await fresh.aclose()


async def test_a_newer_format_is_left_alone(journal, path):
    await journal.aclose()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HandsUnavailable, match="format 99"):
        Journal(path)
    assert path.exists()


async def test_a_broken_disk_fails_the_operation_and_writes_nothing(journal, path):
    journal._writer._db.execute("PRAGMA query_only = ON")  # what a disk turned read-only looks like
    with pytest.raises(HandsUnavailable, match="cannot be written"):
        await journal.start(S, "c1")
    journal._writer._db.execute("PRAGMA query_only = OFF")
    assert await journal.fence(S, epoch=1, call_id="c1") is None


async def test_an_operation_that_cannot_be_written_at_all_does_not_stop_the_journal(journal):
    with pytest.raises(HandsUnavailable):
        await journal.fence(S, epoch=2**70)
    with pytest.raises(HandsUnavailable):
        await journal.start(S, "\ud800")
    await journal.start(S, "c1")


async def test_a_closed_journal_refuses(path):
    journal = Journal(path)
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(HandsUnavailable):
        await journal.start(S, "c1")


async def test_torn_anywhere_the_rest_is_a_prefix_of_what_was_written(path, tmp_path):
    """Cut the write-ahead log at many lengths, or end it in garbage: no row is half there, none is out of
    order, the journal keeps its name and still writes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    journal = Journal(path)
    await journal.start(S, "c0")
    for n in range(30):
        await journal.finish(S, f"c{n}", b"%d" % n * 300)
        await journal.start(S, f"c{n + 1}")
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", frozen / f"journal.sqlite{suffix}")
    await journal.aclose()
    wal = (frozen / "journal.sqlite-wal").read_bytes()
    # Before this length the file itself is not made yet; a real journal answers nobody until then.
    lengths = [len(wal), len(wal) - 1, *(rng.randrange(len(wal) // 4, len(wal)) for _ in range(25))]
    seen = set()
    for number, length in enumerate(lengths):
        torn = tmp_path / f"torn{number}.sqlite"
        shutil.copy(frozen / "journal.sqlite", torn)
        Path(f"{torn}-wal").write_bytes(wal[:length] + rng.randbytes(rng.randrange(5000)))
        opened = Journal(torn)
        assert opened.journal_id == journal.journal_id
        rows = [await opened.fence(S, epoch=1, call_id=f"c{n}") for n in range(31)]
        started = sum(row is not None for row in rows)
        finished = sum(row is not None and row.result is not None for row in rows)
        assert started - finished in (0, 1)
        for n, row in enumerate(rows):
            assert row == (
                Row(result=b"%d" % n * 300) if n < finished else Row(result=None) if n < started else None
            )
        await opened.start(S, "after")
        await opened.aclose()
        seen.add(started)
    assert 31 in seen and len(seen) > 5


_WRITER = """
import asyncio, sys
from pathlib import Path
from corral.hands.journal import Journal

async def one(journal, worker):
    for n in range(100_000):
        call_id = f"{worker}-{n}"
        await journal.start("sesn_1", call_id)
        print("started", call_id, flush=True)
        await journal.finish("sesn_1", call_id, call_id.encode())
        print("finished", call_id, flush=True)

async def main():
    journal = Journal(Path(sys.argv[1]))
    await asyncio.gather(*(one(journal, worker) for worker in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 333])
async def test_killed_in_the_middle_everything_answered_is_there(path, lines):
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    answered = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    answered += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    journal = Journal(path)
    for line in answered:
        if not line.endswith("\n"):
            continue
        verb, call_id = line.split()
        row = await journal.fence(S, epoch=1, call_id=call_id)
        assert row is not None and (verb == "started" or row.result == call_id.encode())
    await journal.aclose()


async def test_concurrent_operations_share_their_fsyncs(journal):
    """64 writers must cost far fewer transactions than operations."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    journal._writer._db.set_trace_callback(count)
    await asyncio.gather(*(journal.start(S, f"c{n}") for n in range(64)))
    assert 1 <= commits <= 16


# -- workspaces ---------------------------------------------------------------------------------------


async def test_a_journal_of_the_second_format_goes_on(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in (
            "CREATE TABLE meta (journal_id TEXT NOT NULL)",
            "INSERT INTO meta VALUES ('hjrn_old')",
            "CREATE TABLE epochs (session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, released_at REAL)",
            "CREATE TABLE calls (call_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, result BLOB,"
            " finished_at REAL)",
            "INSERT INTO calls VALUES ('c1', 's1', X'7B7D', 1.0)",
            "PRAGMA user_version = 2",
        ):
            db.execute(statement)
        db.commit()
    journal = Journal(path)
    assert journal.journal_id == "hjrn_old"
    assert await journal.fence("s1", epoch=1, call_id="c1") == Row(result=b"{}")
    assert await journal.held.rows() == []
    await journal.start("s1", "c2")
    [held] = await journal.held.rows()
    assert (held.session_id, held.had, held.changes) == ("s1", True, 1)
    await journal.aclose()


async def test_a_journal_of_the_third_format_goes_on(path):
    journal = Journal(path)
    await journal.finish(S, "c1", b"out")
    await journal.aclose()
    with contextlib.closing(sqlite3.connect(path)) as db:  # what the third did not have
        db.execute("DROP TABLE settled")
        db.execute("PRAGMA user_version = 3")
        db.commit()
    for _ in range(2):
        journal = Journal(path)
        assert await journal.fence(S, epoch=1, call_id="c1") in (Row(result=b"out"), SETTLED)
        journal.settle(["c1"])
        assert await journal.fence(S, epoch=1, call_id="c1") == SETTLED
        await journal.aclose()


async def test_a_workspace_belongs_to_its_placement(journal):
    with pytest.raises(WorkspaceMissing):
        await journal.fence("s1", epoch=1, call_id="c1", placed_at=5)
    await journal.held.hold("s1", placed_at=5, news="")
    assert await journal.fence("s1", epoch=1, call_id="c1", placed_at=5) is None
    for other in (4, 6):
        with pytest.raises(WorkspaceMissing):
            await journal.fence("s1", epoch=1, call_id="c1", placed_at=other)
    await journal.start("s1", "c1")
    assert (
        await journal.fence("s1", epoch=1, call_id="c1", placed_at=6) is not None
    )  # a known call is known


async def test_changes_count_calls_and_a_checkpoint_covers_those_before_it(journal):
    await journal.held.hold("s1", placed_at=5, news="")
    await journal.start("s1", "c1")
    await journal.finish("s1", "c1", b"x")
    [held] = await journal.held.rows("s1")
    assert (held.changes, held.kept) == (2, 0)
    with pytest.raises(Conflict):
        await journal.held.keep("s1", changes=1)
    await journal.held.keep("s1", changes=2, only_check=True)
    assert (await journal.held.rows("s1"))[0].kept == 0
    await journal.held.keep("s1", changes=2)
    assert (await journal.held.rows("s1"))[0].kept == 2
    await journal.held.changed("s1")
    assert (await journal.held.rows("s1"))[0].changes == 3


async def test_no_call_starts_between_an_eviction_and_a_restore(journal):
    await journal.held.hold("s1", placed_at=5, news="")
    await journal.start("s1", "c1")
    for condition in ({"changes": 0}, {"placed_at": 4}):
        with pytest.raises(Conflict):
            await journal.held.evict("s1", **condition)
    for _ in range(2):
        await journal.held.evict("s1", placed_at=5)
    assert await journal.held.rows() == []
    with pytest.raises(WorkspaceMissing):
        await journal.start("s1", "c2")
    assert await journal.fence("s1", epoch=1, call_id="c2") is None  # it has not
    await journal.held.hold("s1", placed_at=6, news="restored")
    assert await journal.start("s1", "c2") is None


async def test_news_are_there_until_they_were_told(path):
    journal = Journal(path)
    await journal.held.hold("s1", placed_at=5, news="restored")
    await journal.start("s1", "c1")
    await journal.aclose()  # before c1 could tell
    journal = Journal(path)
    assert (await journal.held.rows("s1"))[0].news == "restored"
    await journal.start("s1", "c2")
    await journal.finish("s1", "c2", b"x", told=True)
    [held] = await journal.held.rows("s1")
    assert (held.news, held.had) == ("", True)
    await journal.finish("s1", "c1", b"x", told=False)  # it also said that the sandbox is gone
    assert not (await journal.held.rows("s1"))[0].had
    await journal.forget("s1", is_deleted=False)
    assert await journal.held.rows() != []
    await journal.forget("s1", is_deleted=True)
    assert await journal.held.rows() == []
    await journal.aclose()
