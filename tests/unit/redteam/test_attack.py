"""What is made of what attempts say: a wall that holds was seen to hold."""

import ast
from pathlib import Path

import pytest

import corral.redteam.inside as inside
from corral.hands.ports import WALLS, Capabilities
from corral.redteam.attack import Finding, judged
from corral.redteam.inside.attempt import Attempt
from corral.redteam.inside.attempts import by_name, groups
from corral.redteam.report import Report
from corral.redteam.run import chosen
from corral.redteam.scenarios import SCENARIOS

SHARED = Capabilities(isolation="test", gaps={"kernel": "shared", "processes": "can be listed"})
OWN = Capabilities(isolation="test")


def verdict(
    said: dict[str, object] | None,
    *,
    capabilities: Capabilities = SHARED,
    trips: dict[str, str] | None = None,
    **fields: object,
) -> str:
    attempt = Attempt("a", "tries", lambda box: None, **fields)  # type: ignore[arg-type]
    return judged(capabilities, "g.a", attempt, said, trips=trips or {}).verdict


def said(end: str) -> dict[str, object]:
    return {"attempt": "g.a", "end": end, "why": "because"}


def test_only_what_was_tried_and_stopped_is_held() -> None:
    assert verdict(said("held")) == "held"
    assert verdict(said("untried")) == "untried"
    assert verdict(None) == "untried"
    assert verdict(None, dies=True) == "held"
    assert verdict(said("won")) == "escaped"


def test_a_gap_excuses_what_stands_behind_that_wall_alone() -> None:
    assert verdict(said("won"), wall="processes") == "gap"
    assert verdict(said("won"), wall="files") == "escaped"
    assert verdict(said("won"), wall="processes", capabilities=OWN) == "escaped"


def test_a_kernel_of_its_own_keeps_to_itself_what_it_gives() -> None:
    assert verdict(said("won"), is_of_kernel=True) == "escaped"
    assert verdict(said("won"), is_of_kernel=True, capabilities=OWN) == "held"
    reached = {"victim": "it ended"}
    assert (
        verdict(said("held"), is_of_kernel=True, capabilities=OWN, watches=("victim",), trips=reached)
        == "escaped"
    )


def test_what_shows_outside_counts_whatever_was_said_inside() -> None:
    reached = {"forbidden": "it took a connection"}
    for end in ("held", "untried", "won"):
        assert verdict(said(end), watches=("forbidden",), trips=reached) == "escaped"
    assert verdict(said("held"), watches=("names",), trips=reached) == "held"


def test_a_run_without_an_attempt_has_not_held() -> None:
    held = Finding(name="g.a", title="tries", verdict="held", why="")
    assert Report(kind="bwrap", findings=[held]).has_held
    assert not Report(kind="bwrap").has_held
    assert not Report(kind="bwrap", findings=[held], hits=[("a secret", "a log")]).has_held
    assert not Report(kind="bwrap", findings=[held], problem="no bwrap here").has_held


def test_attempts_are_many_and_have_walls_that_there_are() -> None:
    known = by_name()
    assert len(known) == sum(map(len, groups().values())) > 400
    assert {attempt.wall for attempt in known.values()} - {""} <= WALLS.keys()
    assert {attempt.networking for attempt in known.values()} == {"limited", "unrestricted"}
    assert all(attempt.title for attempt in known.values())


def test_every_kind_of_attack_has_its_group() -> None:
    named = {name.partition(".")[0] for name in chosen(None)}
    assert named >= {
        "environments", "proc", "descriptors", "ptrace", "keyrings", "mounts", "races", "setuid", "devices",
        "namespaces", "unix-sockets", "abstract-sockets", "neighbours", "journal", "store",
        "metadata", "dns",
        "smuggling", "reflection", "redirects", "tls", "timing", "git", "archives",
    }  # fmt: skip


def test_one_group_or_one_attempt_is_chosen() -> None:
    assert chosen("races") == [name for name in SCENARIOS if name.startswith("races.")]
    assert chosen("proc.kcore") == ["proc.kcore"]
    with pytest.raises(ValueError, match="smuggling"):
        chosen("nonsense")


def test_what_goes_into_a_sandbox_needs_nothing_of_ours() -> None:
    """Any Python from 3.9 on runs it."""
    for path in Path(inside.__path__[0]).rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corral"):
                assert (node.module or "").startswith("corral.redteam.inside"), path
