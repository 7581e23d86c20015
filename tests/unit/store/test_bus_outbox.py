"""What a node still has to tell the others: in order, whole, and bounded."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.kernel.limits import (
    BUS_ENTRIES_BYTES_MAX,
    BUS_HINTS_MAX,
    BUS_PAYLOAD_BYTES_MAX,
    BUS_PAYLOADS_PER_FLUSH_MAX,
    BUS_PREVIEWS_BYTES_MAX,
)
from corral.session.bus import Committed, Deleted, Message, Preview
from corral.session.log import InboxEntry, StoredEvent
from corral.store.bus_outbox import Outbox, Wake, read
from corral.testing.contract_bus import DELTA, ONE, TWO


def taken(outbox: Outbox) -> list[Message | Wake]:
    """All that it holds, flush by flush."""
    hints: list[Message | Wake] = []
    while payloads := outbox.take():
        assert len(payloads) <= BUS_PAYLOADS_PER_FLUSH_MAX
        for payload in payloads:
            assert len(payload.encode()) <= BUS_PAYLOAD_BYTES_MAX
            node_id, found = read(payload)
            assert node_id == "node_1"
            hints += found
    assert len(outbox) == 0
    return hints


def test_hints_come_out_as_they_went_in() -> None:
    outbox = Outbox("node_1")
    hints: list[Message | Wake] = [DELTA, Wake(ONE), Deleted(session_id=TWO), replace(DELTA, n=2, text="")]
    for hint in hints:
        outbox.put(hint)
    assert taken(outbox) == hints
    assert outbox.take() == []


def test_a_session_is_told_once_and_after_its_previews() -> None:
    outbox = Outbox("node_1")
    outbox.put(Committed(session_id=ONE))
    outbox.put(Wake(ONE))
    outbox.put(DELTA)
    outbox.put(Committed(session_id=ONE))
    outbox.put(Wake(ONE))
    assert taken(outbox) == [DELTA, Committed(session_id=ONE), Wake(ONE)]
    outbox.put(Committed(session_id=ONE))
    assert taken(outbox) == [Committed(session_id=ONE)], "taken is forgotten"


WAITING = InboxEntry(
    arrival=4,
    event_id=EventId("sevt_4"),
    type="user.message",
    thread_id=ThreadId("sthr_1"),
    body='{"content":"\\u0000 \\"ä\\""}'.encode(),
)
STORED = StoredEvent(
    seq=9,
    event_id=EventId("sevt_4"),
    type="user.message",
    thread_id=ThreadId("sthr_1"),
    arrival=4,
    body=WAITING.body,
    private={"only": "for brains"},
    processed_at=datetime(2026, 11, 20, 10, 0, 0, 262_700, tzinfo=UTC),
    answers=EventId("sevt_1"),
)


def test_what_was_committed_is_told_as_it_is_shown() -> None:
    outbox = Outbox("node_1")
    outbox.put(Committed(session_id=ONE, entries=(WAITING,)))
    outbox.put(DELTA)
    outbox.put(Committed(session_id=ONE, entries=(STORED, STORED._replace(seq=10, arrival=None))))
    [payload] = outbox.take()
    assert "for brains" not in payload
    shown = STORED._replace(private=None, answers=None)
    assert list(read(payload)[1]) == [
        Committed(session_id=ONE, entries=(WAITING,)),
        DELTA,
        Committed(session_id=ONE, entries=(shown, shown._replace(seq=10, arrival=None))),
    ]
    assert outbox.take() == []


def test_what_is_too_long_to_be_told_is_to_be_looked_at() -> None:
    outbox = Outbox("node_1")
    long = STORED._replace(body=b"x" * (BUS_ENTRIES_BYTES_MAX + 1))
    quoted = STORED._replace(body=b'"' * BUS_ENTRIES_BYTES_MAX)  # escaped, it does not fit into a payload
    for entry in (long, quoted, STORED):
        outbox.put(Committed(session_id=ONE, entries=(entry,)))
    assert taken(outbox) == [Committed(session_id=ONE)], "who has to look sees all of it"
    for _ in range(2 * BUS_PREVIEWS_BYTES_MAX // 1000):
        outbox.put(replace(DELTA, text="x" * 1000))
    outbox.put(Committed(session_id=ONE, entries=(STORED._replace(body=b"x" * 3000),)))
    assert taken(outbox)[-1] == Committed(session_id=ONE), "there was no room"


def test_entries_that_come_late_are_to_be_looked_at() -> None:
    outbox = Outbox("node_1")
    outbox.put(Committed(session_id=ONE, entries=(STORED,)))
    outbox.put(DELTA)
    outbox.put(Committed(session_id=TWO, entries=(WAITING,)))
    outbox.shed_previews()
    assert taken(outbox) == [Committed(session_id=ONE), Committed(session_id=TWO)]


@pytest.mark.parametrize(
    "row",
    [
        '[1,2,"sevt_1","user.message","sthr_1",3,"{}","what?"]',
        '[1,2,"sevt_1","user.message","sthr_1",1795168800000000000,"{}"]',  # no microseconds
    ],
)
def test_entries_of_a_newer_node_are_to_be_looked_at(row: str) -> None:
    assert list(read(f'["node_2",["f","{ONE}",{row}]]')[1]) == [Committed(session_id=ONE)]


def test_many_hints_take_many_payloads_and_flushes() -> None:
    outbox = Outbox("node_1")
    deltas = [replace(DELTA, n=n, text="é" * (n % 500)) for n in range(1500)]
    for delta in deltas:
        outbox.put(delta)
    first = outbox.take()
    assert len(first) == BUS_PAYLOADS_PER_FLUSH_MAX
    left = len(outbox)
    assert 0 < left < len(deltas)
    assert taken(outbox) == deltas[-left:]


def test_previews_are_shed_first() -> None:
    outbox = Outbox("node_1")
    text = "x" * 1000
    for n in range(2 * BUS_PREVIEWS_BYTES_MAX // 1000):
        outbox.put(replace(DELTA, n=n, text=text))
    shed = len(outbox)
    outbox.put(replace(DELTA, text=text))
    assert len(outbox) == shed, "there is no room for more"
    sessions = [SessionId(f"sesn_{number}") for number in range(BUS_HINTS_MAX)]
    for session_id in sessions:
        outbox.put(Committed(session_id=session_id))
    outbox.put(Wake(ONE))
    hints = taken(outbox)
    previews = [hint for hint in hints if isinstance(hint, Preview)]
    assert [preview.n for preview in previews] == list(range(len(previews))), "the first, without a gap"
    assert 900_000 < sum(len(preview.text) for preview in previews) <= BUS_PREVIEWS_BYTES_MAX
    told = [hint.session_id for hint in hints if isinstance(hint, Committed)]
    assert told == sessions
    assert Wake(ONE) not in hints, "beyond the bound"
    outbox.put(DELTA)
    assert taken(outbox) == [DELTA], "there is room again"


def test_old_previews_can_be_dropped() -> None:
    outbox = Outbox("node_1")
    for hint in (DELTA, Wake(ONE), replace(DELTA, n=2)):
        outbox.put(hint)
    outbox.shed_previews()
    assert taken(outbox) == [Wake(ONE)]


@pytest.mark.parametrize("text", ["x" * BUS_PAYLOAD_BYTES_MAX, "\0" * 1500, "half \ud83d"])
def test_a_delta_that_cannot_be_sent_is_not(text: str) -> None:
    outbox = Outbox("node_1")
    outbox.put(replace(DELTA, text=text))
    assert taken(outbox) == []


def test_the_longest_delta_that_fits_is_sent() -> None:
    outbox = Outbox("node_1")
    long = 0
    while True:
        outbox.put(replace(DELTA, text="x" * (BUS_PAYLOAD_BYTES_MAX - long)))
        if len(outbox):
            break
        long += 1
    [payload] = outbox.take()
    assert len(payload) == BUS_PAYLOAD_BYTES_MAX


@pytest.mark.parametrize("payload", ["", "nothing", "{}", "[]", "[1]", "null", '"node_1"'])
def test_what_no_node_says_is_refused(payload: str) -> None:
    with pytest.raises(ValueError):
        read(payload)


def test_what_a_newer_node_says_is_skipped() -> None:
    payload = (
        '["node_2", ["n", "new"], ["w"], ["w", "sesn_1"], ["w", "sesn_1", 1], {}, 7, ["p", "sesn_1", "t"]]'
    )
    assert list(read(payload)[1]) == [Wake(SessionId("sesn_1"))]
