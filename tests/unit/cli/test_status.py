"""What `corral status` says of what a server told it."""

from corral.cli.status import _row, _sentence

BACKLOG = {
    "needing": 1, "waiting": 1, "held_back": 0, "oldest_wait_seconds": 2.04, "inbox": 1, "leases": 1,
    "leases_ended": 0,
}  # fmt: skip
NODE = {
    "node_id": "node_01", "url": "http://10.0.0.5:8420", "roles": ["hands"], "is_lost": False,
    "is_draining": False, "version": "1", "beat_age_seconds": 0.4, "sessions": 0, "leases": 0,
    "host": {"host_id": "host_01", "sandboxes": 1, "capacity": 100},
}  # fmt: skip


def test_one_is_one() -> None:
    assert _sentence(BACKLOG) == (
        "1 session needs a brain; 1 waits for one (the oldest has needed one for 2.0 s), 0 held back after"
        " failures. 1 input not taken. 1 lease, 0 past their time."
    )
    many = {**BACKLOG, "needing": 2, "waiting": 0, "inbox": 0, "leases": 2}
    assert _sentence(many) == (
        "2 sessions need a brain; 0 wait for one, 0 held back after failures. 0 inputs not taken."
        " 2 leases, 0 past their time."
    )


def test_a_node_says_where_it_is_and_which_host_is_its() -> None:
    row = _row(NODE)
    assert "http://10.0.0.5:8420" in row
    assert row[-1] == "host_01"
