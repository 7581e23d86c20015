"""What is written down survives whoever wrote it, is read once, and stops what it cannot keep up with."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.catalog.audit import Ended
from corral.egress.book import BookFull
from corral.egress.spool import Spool
from corral.egress.target import Target
from corral.kernel.ids import SessionId
from corral.kernel.limits import EGRESS_SPOOL_SEGMENT_BYTES
from corral.testing.clock import ManualClock

HOST = Target("example.com", 443)
SESSION = SessionId("sesn_1")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = opened(tmp_path)
    yield spool
    spool.close()


def opened(folder: Path, **options: Any) -> Spool:
    return Spool(folder / "audit", clock=ManualClock(), **options)


def taken(spool: Spool) -> list[str]:
    """Everything that the store lacks, as it would take it: what each line is about."""
    found = []
    while True:
        lines, position = spool.read(bytes_max=64 * 1024)
        spool.forget(position)
        if not lines:
            return found
        found += [str((line.get("begin") or line["end"])["entry_id"]) for line in lines]  # type: ignore[index]


def test_lines_come_in_order_and_once(spool: Spool) -> None:
    one = spool.begin(SESSION, HOST, "CONNECT", "allowed")
    two = spool.begin(SESSION, HOST, "GET", "denied", reason="no", detail="at 10.0.0.1")
    spool.end(Ended(entry_id=one, sent_bytes=1))
    lines, position = spool.read(bytes_max=4096)
    assert [list(line) for line in lines] == [["begin"], ["begin"], ["end"]]
    assert spool.read(bytes_max=4096)[0] == lines  # until it is said that the store has them
    assert taken(spool) == [one, two, one] and taken(spool) == []
    three = spool.begin(SESSION, HOST, "GET", "allowed")
    spool.forget(position)  # late, of what was forgotten long ago
    assert taken(spool) == [three]


def test_it_outlives_its_process(tmp_path: Path) -> None:
    first = opened(tmp_path)
    ids = [first.begin(SESSION, HOST, "GET", "allowed") for _ in range(3)]
    first.read(bytes_max=4096)  # and said to nobody
    second = opened(tmp_path)  # the first one was killed, and never closed anything
    ids.append(second.begin(SESSION, HOST, "GET", "allowed"))
    assert taken(second) == ids
    assert not list((tmp_path / "audit").iterdir())
    first.close()
    second.close()


def test_many_lines_are_many_files_which_go(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    per_line = 300
    ids = [
        spool.begin(SESSION, HOST, "GET", "allowed", reason="x" * per_line)
        for _ in range(3 * EGRESS_SPOOL_SEGMENT_BYTES // per_line)
    ]
    assert len(list((tmp_path / "audit").iterdir())) >= 3
    assert taken(spool) == ids
    assert not list((tmp_path / "audit").iterdir())
    spool.close()


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    one = spool.begin(SESSION, HOST, "GET", "allowed")
    [path] = (tmp_path / "audit").iterdir()
    with path.open("ab") as file:
        file.write(b'{"begin": {"entr')  # the power went
    again = opened(tmp_path)
    two = again.begin(SESSION, HOST, "GET", "allowed")
    assert taken(again) == [one, two]
    spool.close()
    again.close()


def test_what_nobody_reads_stops_everything(tmp_path: Path) -> None:
    spool = opened(tmp_path, bytes_max=2000)
    ids = []
    with pytest.raises(BookFull, match="full"):
        while len(ids) < 100:
            ids.append(spool.begin(SESSION, HOST, "GET", "allowed"))
    spool.end(Ended(entry_id=ids[0]))  # how it ended is still told
    assert taken(spool) == [*ids, ids[0]]
    spool.begin(SESSION, HOST, "GET", "allowed")
    spool.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """By the bound on the size of a file, which ends a write as a full disk does."""
    spool = opened(tmp_path)
    one = spool.begin(SESSION, HOST, "GET", "allowed")
    [path] = (tmp_path / "audit").iterdir()
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    pid = os.fork()
    if pid == 0:  # the bound is for ever: in a process of its own
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        try:
            spool.begin(SESSION, HOST, "GET", "allowed")
        except BookFull:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert path.stat().st_size == size and taken(spool) == [one]
    spool.close()
