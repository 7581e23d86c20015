import pytest

from corral.hands.toolset import BadInput, checked_input


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("bash", {"command": "ls"}, {"command": "ls"}),
        ("bash", {"command": "ls", "timeout_ms": "5000"}, {"command": "ls", "timeout_ms": 5000}),
        ("bash", {"command": "ls", "timeout_ms": 5.0, "restart": None}, {"command": "ls", "timeout_ms": 5}),
        ("bash", {"restart": "true"}, {"restart": True}),
        ("read", {"file_path": "a", "view_range": ["1", 2]}, {"file_path": "a", "view_range": [1, 2]}),
        (
            "edit",
            {"file_path": "a", "old_string": "", "new_string": "", "replace_all": 0},
            {"file_path": "a", "old_string": "", "new_string": "", "replace_all": False},
        ),
    ],
)
def test_lenient_where_the_sdk_is(name: str, given: dict[str, object], expected: dict[str, object]) -> None:
    assert checked_input(name, given) == expected


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("bash", {}, "bash: command is required"),
        ("bash", {"command": ""}, "bash: command is required"),
        ("bash", {"command": 1}, "bash: command must be a string"),
        ("bash", {"command": "a", "timeout_ms": 1.5}, "bash: timeout_ms must be an integer"),
        ("bash", {"command": "a", "timeout_ms": float("inf")}, "bash: timeout_ms must be an integer"),
        ("bash", {"command": "a", "timeout_ms": 3_600_001}, "bash: timeout_ms must be at most 3600000"),
        ("bash", {"restart": "maybe"}, "bash: restart must be true or false"),
        ("read", {"file_path": "a", "view_range": 3}, "read: view_range must be a list of integers"),
        ("glob", {"pattern": "*", "limit": 3}, "glob: unknown field 'limit'"),
        ("grep", {"path": "."}, "grep: pattern is required"),
        ("rm", {}, "rm: no such tool; there are bash, edit, glob, grep, read, write"),
    ],
)
def test_bad_input_names_the_field(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        checked_input(name, given)
    assert str(caught.value) == message
