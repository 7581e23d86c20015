"""Which brain answers a wake: the same one for everybody who asks, fairly, and without much moving."""

import random
from collections import Counter

import pytest

from corral.kernel.ids import SessionId
from corral.orchestrator.routing import Routing, chosen

SESSIONS = [SessionId(f"sesn_{number}") for number in range(4000)]


def test_the_first_choices_stay_what_they_are() -> None:
    """Nodes of two versions must choose alike."""
    brains = ["node_a", "node_b", "node_c"]
    assert [chosen(session_id, brains) for session_id in SESSIONS[:8]] == [
        "node_a",
        "node_b",
        "node_c",
        "node_b",
        "node_a",
        "node_a",
        "node_b",
        "node_b",
    ]


def test_one_brain_answers_everything_and_none_nothing() -> None:
    assert chosen(SESSIONS[0], ["node_a"]) == "node_a"
    assert chosen(SESSIONS[0], []) is None


def test_the_order_of_the_list_does_not_matter() -> None:
    brains = [f"node_{number}" for number in range(7)]
    dice = random.Random(20)
    for session_id in SESSIONS[:200]:
        shuffled = dice.sample(brains, len(brains))
        assert chosen(session_id, brains) == chosen(session_id, shuffled)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_sessions_are_spread_evenly(count: int) -> None:
    brains = [f"node_{number}" for number in range(count)]
    shares = Counter(chosen(session_id, brains) for session_id in SESSIONS)
    fair = len(SESSIONS) / count
    assert set(shares) == set(brains)
    assert all(0.8 * fair < share < 1.2 * fair for share in shares.values()), shares


@pytest.mark.parametrize("count", [2, 3, 10])
def test_only_the_sessions_of_the_brain_that_goes_move(count: int) -> None:
    brains = [f"node_{number}" for number in range(count)]
    for session_id in SESSIONS:
        before, after = chosen(session_id, brains), chosen(session_id, brains[1:])
        assert after == before or before == brains[0]


def test_a_wake_is_ours_when_we_are_chosen_or_nobody_is() -> None:
    brains: list[str] = []
    routing = Routing("node_a", lambda: brains)
    assert routing.is_ours(SESSIONS[0]), "before anybody has said that it lives"
    assert Routing("node_a", lambda: ["node_a"]).is_ours(SESSIONS[0])
    assert not Routing("node_a", lambda: ["node_b"]).is_ours(SESSIONS[0])
    both = ["node_a", "node_b"]
    here, there = Routing("node_a", lambda: both), Routing("node_b", lambda: both)
    assert all(here.is_ours(session_id) != there.is_ours(session_id) for session_id in SESSIONS)
