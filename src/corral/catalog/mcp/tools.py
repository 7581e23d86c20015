"""A tool as its server lists it, made into one that a model can be shown. Pure.

Providers refuse a whole request for one schema that they do not take, and then a session is dead: so what
cannot be made right is left out. The order is that of the names, whatever the server says, so that the same
tools give the same prompt.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from corral.catalog.toolset import PROPERTY_NAME
from corral.kernel.limits import (
    INPUT_SCHEMA_DEPTH_MAX,
    MCP_DESCRIPTION_CHARS_MAX,
    MCP_LISTING_BYTES_MAX,
    MCP_SCHEMA_BYTES_MAX,
    MCP_TOOL_NAME_CHARS_MAX,
    MCP_TOOLS_MAX,
)

__all__ = ["listed", "model_schema"]

_COMPOSED: Final = ("oneOf", "anyOf", "allOf")
_NOTES: Final = ("$defs", "definitions", "$schema", "$id", "$anchor", "$dynamicAnchor", "$comment")


class _Unfit(Exception):
    """No model can be shown this."""


def listed(tools: Iterable[tuple[str, str | None, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The tools (name, description, input schema) that are shown, in their order. Of two of one name the
    first one counts."""
    known: dict[str, tuple[str | None, Any]] = {}
    for name, description, schema in tools:
        if 0 < len(name) <= MCP_TOOL_NAME_CHARS_MAX and name.isprintable():
            known.setdefault(name, (description, schema))
    shown: list[Mapping[str, Any]] = []
    room = MCP_LISTING_BYTES_MAX
    for name, (description, schema) in sorted(known.items()):
        fitted = model_schema(schema)
        if fitted is None:
            continue
        tool = {"name": name, "description": _described(description, name), "input_schema": fitted}
        room -= len(orjson.dumps(tool))
        if room < 0 or len(shown) == MCP_TOOLS_MAX:
            break
        shown.append(tool)
    return tuple(shown)


def model_schema(schema: Any) -> dict[str, Any] | None:
    """The schema with its references written out and without what providers refuse; None if nothing is
    left that describes the input: too large, too deep, or with names of properties that are not allowed."""
    try:
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            return None
        fitted = _Fitting(schema).fitted(schema, depth=0, within=())
        assert isinstance(fitted, dict)
        for keyword in _COMPOSED:  # not taken at the top; the server checks its input itself
            fitted.pop(keyword, None)
        fitted["type"] = "object"
        properties = fitted.setdefault("properties", {})
        if not isinstance(properties, dict) or not all(map(PROPERTY_NAME.fullmatch, properties)):
            return None
        required = fitted.get("required")
        if required is not None and not (
            isinstance(required, list) and all(isinstance(name, str) for name in required)
        ):
            return None
        orjson.dumps(fitted)
    except (_Unfit, TypeError, ValueError):
        return None
    return fitted


class _Fitting:
    """Writes one schema out. Every node that is written takes from the same room: references can stand for
    any size."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._whole = whole
        self._room = MCP_SCHEMA_BYTES_MAX

    def fitted(self, node: Any, *, depth: int, within: tuple[str, ...]) -> Any:
        """within: the references that are being written out around it."""
        if depth > INPUT_SCHEMA_DEPTH_MAX:
            raise _Unfit
        if isinstance(node, Mapping):
            reference = node.get("$ref")
            if isinstance(reference, str):
                beside = {key: value for key, value in node.items() if key != "$ref"}
                if reference in within:  # it holds itself: anything may stand there
                    return self.fitted(beside, depth=depth + 1, within=within)
                target = self._target(reference)
                meant = {**target, **beside} if isinstance(target, Mapping) else beside
                return self.fitted(meant, depth=depth + 1, within=(*within, reference))
            made: dict[str, Any] = {}
            for key, value in node.items():
                if not isinstance(key, str):
                    raise _Unfit
                if key in _NOTES and not (depth and isinstance(value, Mapping) and "type" in value):
                    continue
                self._take(len(key) + 4)
                made[key] = self.fitted(value, depth=depth + 1, within=within)
            return made
        if isinstance(node, list):
            return [self.fitted(item, depth=depth + 1, within=within) for item in node]
        self._take(len(node) + 3 if isinstance(node, str) else 8)
        return node

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise _Unfit

    def _target(self, reference: str) -> Any:
        """What a reference within the document leads to; nothing is ever fetched. Raises _Unfit."""
        if not reference.startswith("#"):
            raise _Unfit
        node: Any = self._whole
        for part in reference[1:].strip("/").split("/") if reference != "#" else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, Mapping) or name not in node:
                raise _Unfit
            node = node[name]
        return node


def _described(description: str | None, name: str) -> str:
    text = (description or "").strip() or name
    text = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
    if len(text) <= MCP_DESCRIPTION_CHARS_MAX:
        return text
    return text[:MCP_DESCRIPTION_CHARS_MAX] + " [...]"
