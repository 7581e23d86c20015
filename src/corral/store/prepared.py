"""An append as it will be stored if it is granted."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from corral.kernel.limits import EVENTS_PER_APPEND_MAX
from corral.session.log import Append, StoredEvent

__all__ = ["Prepared", "prepare"]


class Prepared(NamedTuple):
    append: Append
    stored: Sequence[StoredEvent]


def prepare(append: Append) -> Prepared:
    """Serialise, outside the writer's thread. Raises AssertionError: no writer may ask for this."""
    new = append.events
    assert 1 <= len(new) <= EVENTS_PER_APPEND_MAX, f"{len(new)} events in one append"
    arrived = {each.event.id for each in new if each.arrival is not None}
    assert arrived == set(append.consumes), "what is consumed is what is appended with an arrival"
    assert all(one.processed_at < two.processed_at for one, two in pairwise(new)), "processed_at increases"
    stored = [
        StoredEvent(
            seq,
            each.event.id,
            each.event.type,
            each.thread_id,
            each.arrival,
            each.event.body(processed_at=each.processed_at),
            each.private,
            each.processed_at,
            each.answers,
        )
        for seq, each in enumerate(new, start=append.seen_seq + 1)
    ]
    return Prepared(append, tuple(stored))
