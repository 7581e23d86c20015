"""The built-in tools' inputs, checked before a sandbox sees them.

Lenient where the SDK's reference toolset is (it parses with pydantic's lax mode: "5" is the integer 5),
strict where it is, and the message names the field instead of showing a Python exception.
Source: API docs, tools; `anthropic.lib.tools.agent_toolset`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from corral.kernel.limits import TOOL_TIMEOUT_SECONDS_MAX
from corral.session.content import Json

__all__ = ["SANDBOX_TOOLS", "BadInput", "checked_input"]


class BadInput(Exception):
    """The model's mistake; the message is the tool's error result."""


def _string(value: Json) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("a string")


def _boolean(value: Json) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise ValueError("true or false")


def _integer(value: Json) -> int:
    try:
        if isinstance(value, str) or (isinstance(value, (int, float)) and value == int(value)):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError("an integer")


def _integers(value: Json) -> list[int]:
    if isinstance(value, list):
        return [_integer(item) for item in value]
    raise ValueError("a list of integers")


_Parse = Callable[[Json], Json]
_FIELDS: Final[Mapping[str, tuple[Mapping[str, _Parse], Mapping[str, _Parse]]]] = {  # required, optional
    "bash": ({}, {"command": _string, "restart": _boolean, "timeout_ms": _integer}),
    "read": ({"file_path": _string}, {"view_range": _integers}),
    "write": ({"file_path": _string, "content": _string}, {}),
    "edit": (
        {"file_path": _string, "old_string": _string, "new_string": _string},
        {"replace_all": _boolean},
    ),
    "glob": ({"pattern": _string}, {"path": _string}),
    "grep": ({"pattern": _string}, {"path": _string}),
}
SANDBOX_TOOLS: Final = frozenset(_FIELDS)


def checked_input(name: str, fields: Mapping[str, Json]) -> dict[str, Json]:
    """The fields with their exact types; null optional ones are left out. Raises BadInput."""
    if name not in _FIELDS:
        raise BadInput(f"{name}: no such tool; there are {', '.join(sorted(_FIELDS))}")
    required, optional = _FIELDS[name]
    if unknown := sorted(set(fields) - set(required) - set(optional)):
        raise BadInput(f"{name}: unknown field {unknown[0]!r}")
    checked: dict[str, Json] = {}
    for field, parse in {**required, **optional}.items():
        value = fields.get(field)
        if value is None and field in required:
            raise BadInput(f"{name}: {field} is required")
        if value is not None:
            try:
                checked[field] = parse(value)
            except ValueError as e:
                raise BadInput(f"{name}: {field} must be {e}") from e
    if name == "bash":
        _check_bash(checked)
    return checked


def _check_bash(fields: Mapping[str, Json]) -> None:
    if not fields.get("restart") and not fields.get("command"):
        raise BadInput("bash: command is required")
    if (fields.get("timeout_ms") or 0) > TOOL_TIMEOUT_SECONDS_MAX * 1000:
        raise BadInput(f"bash: timeout_ms must be at most {TOOL_TIMEOUT_SECONDS_MAX * 1000:.0f}")
