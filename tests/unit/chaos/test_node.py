"""What a node of a chaos run is known to have gone through."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from corral.chaos.node import SLACK, Node


def test_trouble_begins_when_it_may_have_begun(tmp_path: Path) -> None:
    """A process that was to die at some point is seen dead seconds later; its calls ended at its death."""
    node = Node("hands1", tmp_path, settings={})
    (tmp_path / "hands" / "private").mkdir(parents=True)
    (tmp_path / "hands" / "private" / "host_id").write_text("host_1")
    now = datetime.now(UTC)
    armed_at = now - timedelta(seconds=5)
    with node.in_trouble(since=armed_at):
        pass
    with node.in_trouble(is_silent=True):
        pass
    first, second = node.troubles
    assert first.host_id == second.host_id == "host_1"
    assert first.begin == armed_at - SLACK
    assert second.begin >= now - SLACK
    assert first.end >= now + SLACK
    assert (first.is_silent, second.is_silent) == (False, True)
