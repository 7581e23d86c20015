"""Content: what messages and tool results are made of.

Blocks are Anthropic content blocks, kept as plain JSON objects: `text`, `image`, `document`,
`search_result` on the wire; `thinking`, `tool_use`, ... only in a model's private payload. They are
checked once, at the HTTP edge or by the hands that made them, and never reshaped afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any  # a JSON value; shapes are given by the docstring of whoever produces it
Block = Mapping[str, Json]


def text_block(text: str) -> Block:
    return {"type": "text", "text": text}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """What a hand answers: content blocks for the model, and whether the tool failed.

    trouble: what the session's user is told besides, as a `session.error` without `retry_status`.
    """

    content: Sequence[Block]
    is_error: bool = False
    trouble: Mapping[str, Json] | None = None

    @classmethod
    def text(cls, text: str, *, is_error: bool = False) -> "ToolResult":
        return cls(content=(text_block(text),), is_error=is_error)
