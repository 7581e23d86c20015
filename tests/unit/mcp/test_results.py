"""What a model is shown of a result, made of the official SDK's own types."""

import json
from typing import Any

import pytest
from mcp_types import CallToolResult, ImageContent, TextContent

from corral.kernel.limits import MCP_BLOCKS_MAX, TOOL_OUTPUT_CHARS_MAX
from corral.mcp.results import tool_result
from tests.mcp_host import PNG

LARGE = 2**80  # larger than the faster JSON libraries write


def shown(structured: Any, *texts: str, is_error: bool = False) -> list[str]:
    content = [TextContent(type="text", text=text) for text in texts]
    called = CallToolResult(content=content, structured_content=structured, is_error=is_error)
    return [block["text"] for block in tool_result(called).content]


@pytest.mark.parametrize(
    ("structured", "texts"),
    [
        ({"a": 1, "b": [True, None]}, ['{"a":1,"b":[true,null]}']),
        ({"a": 1, "b": 2}, ['\n{\n  "b": 2,\n  "a": 1\n}\n']),
        ({"a": 1}, ["Here it is:", '{"a": 1}']),
        ({"a": "\u00e9"}, ['{"a": "\\u00e9"}']),
        ({"n": LARGE}, [f'{{"n": {LARGE}}}']),
        ([1, 2], ["[1, 2]"]),
        ({"result": "hello"}, ["hello"]),
        ({"result": 1.5}, ["1.5"]),
        ({"result": True}, ["true"]),
        ({"result": ["one", {"two": 2}, 3]}, ["one", '{"two": 2}', "3"]),
        ({"result": {"a": 1}}, ['{"a": 1}']),
    ],
)
def test_what_a_server_wrote_as_text_is_not_shown_twice(structured: Any, texts: list[str]) -> None:
    assert shown(structured, *texts) == texts


@pytest.mark.parametrize(
    ("structured", "texts"),
    [
        ({"degrees": 21}, ["It is warm."]),
        ({"a": 1}, ['{"a": 2}']),
        ({"a": 1}, ['{"a": true}']),
        ({"a": 1}, ['{"a": 1, "b": 2}']),
        ({"a": 1}, ['{"a": 1']),
        ({"a": [1, 2]}, ['{"a": [2, 1]}']),
        ({"a": 1}, ["{" * 20_000]),
        ({"a": 1}, ['{"a":' * 10_000]),
        ({"result": "hello"}, ["Hello."]),
        ({"result": ["one", "two"]}, ["one"]),
        ({"result": ["one", "two"]}, ["two", "one"]),
        ({"result": "hello", "cursor": "more"}, ["hello"]),
        ({"n": LARGE}, ["a large number"]),
        ([], ["nothing found"]),
        ({"result": []}, []),
        ({"a": 1}, []),
        (0, []),
    ],
)
def test_what_only_stands_in_structured_content_is_shown_behind_the_text(
    structured: Any, texts: list[str]
) -> None:
    *before, last = shown(structured, *texts)
    assert before == texts
    assert json.loads(last) == structured
    assert shown(structured, *texts, is_error=True) == [*before, last]


def test_without_any_text_it_stands_behind_what_else_there_is() -> None:
    image = ImageContent(type="image", data=PNG, mime_type="image/png")
    result = tool_result(CallToolResult(content=[image], structured_content={"width": 1}))
    assert [block["type"] for block in result.content] == ["image", "text"]
    assert result.content[1]["text"] == '{"width":1}'
    assert shown(None) == ["(no output)"]


def test_parts_that_are_mirrored_in_it_are_not_shown_as_json() -> None:
    """The official SDK's servers do so, nulls and all: megabytes of base64 would be text."""
    parts = [
        TextContent(type="text", text="a picture:"),
        ImageContent(type="image", data=PNG, mime_type="image/png"),
    ]
    mirrored = [part.model_dump(mode="json", by_alias=True) for part in parts]
    result = tool_result(CallToolResult(content=parts, structured_content={"result": mirrored}))
    assert [block["type"] for block in result.content] == ["text", "image"]
    other = [mirrored[0], {**mirrored[1], "data": "AAAA"}]
    result = tool_result(CallToolResult(content=parts, structured_content={"result": other}))
    assert [block["type"] for block in result.content] == ["text", "image", "text"]


def test_nothing_in_it_is_obeyed_by_a_terminal() -> None:
    assert shown({"a": "\x7f\x1b[31mred"}, "prose") == ["prose", '{"a":"\\u001b[31mred"}']


def test_it_has_the_bounds_of_text() -> None:
    """Together with the text it is one, which goes to one file. A part that is not shown is not it."""
    long = "x" * (TOOL_OUTPUT_CHARS_MAX - 10)
    (joined,) = shown({"a": "long enough"}, long)
    assert joined == f'{long}\n{{"a":"long enough"}}'
    many = [str(number) for number in range(MCP_BLOCKS_MAX)]
    assert shown({"a": 1}, *many, '{"a": 1}')[-2:] == ["[1 more parts are not shown]", '{"a":1}']
