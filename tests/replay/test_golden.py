"""Old logs still fold, to what they folded to when they were recorded."""

from itertools import pairwise
from pathlib import Path

import pytest

from corral.brain.context import build
from corral.brain.decide import decide
from corral.catalog.models import ModelTable
from corral.session import events as ev
from tests.replay.golden import DIRECTORY, folded, read, summary

LOGS = sorted(DIRECTORY.glob("*.json"))


def test_there_are_some() -> None:
    assert len(LOGS) >= 3


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_it_folds_as_it_did(path: Path) -> None:
    session, expected = read(path)
    state = folded(session)
    assert summary(state) == expected


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_brain_can_go_on_with_it(path: Path) -> None:
    """The next request can be built, and a session at rest calls for nothing."""
    session, _ = read(path)
    state = folded(session)
    assert decide(state, epoch=session.record.epoch + 1, in_flight=frozenset()) == frozenset()
    request = build(state.session_id, state.primary, ModelTable.packaged().resolve(state.primary.model))
    roles = [message["role"] for message in request.messages]
    assert roles[0] == "user" and all(a != b for a, b in pairwise(roles))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_its_events_survive_a_round_trip(path: Path) -> None:
    """A stored body that is parsed and written again is the same, to the byte."""
    session, _ = read(path)
    for event in session.events:
        assert ev.parse(event.body).body(processed_at=event.processed_at) == event.body
