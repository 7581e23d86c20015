"""Tools as servers list them, made into what a model can be shown."""

from typing import Any

import pytest

from corral.catalog.mcp.tools import listed, model_schema
from corral.kernel import limits


def test_references_are_written_out() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "type": "object",
        "properties": {
            "from": {"$ref": "#/$defs/Point", "description": "where"},
            "many": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        },
        "required": ["from"],
    }
    point = {"type": "object", "properties": {"x": {"type": "integer"}}}
    assert model_schema(schema) == {
        "type": "object",
        "properties": {
            "from": {**point, "description": "where"},
            "many": {"type": "array", "items": point},
        },
        "required": ["from"],
    }


def test_a_schema_that_holds_itself_ends() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert model_schema(tree) == {
        "type": "object",
        "properties": {
            "children": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"children": {"type": "array", "items": {}}},
                },
            }
        },
    }


def test_what_stands_at_the_top_alone_is_left_out() -> None:
    assert model_schema({"anyOf": [{"required": ["a"]}], "properties": {"a": {}}}) == {
        "type": "object",
        "properties": {"a": {}},
    }
    assert model_schema({}) == {"type": "object", "properties": {}}


def _bomb(width: int) -> dict[str, Any]:
    defs = {
        f"d{n}": {
            "type": "object",
            "properties": {f"p{i}": {"$ref": f"#/$defs/d{n + 1}"} for i in range(width)},
        }
        for n in range(12)
    }
    defs["d12"] = {"type": "string"}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs}


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"type": "string"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a b": {}}},
        {"type": "object", "required": "a"},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema"}}},
        {"type": "object", "properties": {"a": {"description": "x" * limits.MCP_SCHEMA_BYTES_MAX}}},
        _bomb(10),
    ],
)
def test_what_no_model_can_be_shown(schema: Any) -> None:
    assert model_schema(schema) is None


def test_order_names_and_descriptions() -> None:
    tools = [
        ("b", "second", {}),
        ("a", "  \x1b[31mfirst ", {}),
        ("b", "a twin", {}),
        ("", "none", {}),
        ("c\n", "none", {}),
        ("d", None, {}),
        ("e", "x" * 10_000, {}),
    ]
    found = listed(tools)
    assert found == listed(tools), "the same tools, the same prompt"
    assert [tool["name"] for tool in found] == ["a", "b", "d", "e"]
    assert [tool["description"] for tool in found[:3]] == ["\ufffd[31mfirst", "second", "d"]
    assert len(found[3]["description"]) < limits.MCP_DESCRIPTION_CHARS_MAX + 10


def test_all_of_them_together_are_bounded() -> None:
    found = listed((f"t{n:04}", "x" * 8_000, {}) for n in range(1_000))
    assert 100 < len(found) < 140
    assert len(listed((f"t{n:04}", "x", {}) for n in range(1_000))) == limits.MCP_TOOLS_MAX
