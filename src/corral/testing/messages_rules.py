"""The rules a Messages request must obey, as the API itself enforces them.

A context that breaks one would fail in production only, so the fake refuses it too, in the API's words.
Source: platform documentation "Handle tool calls", "Prompt caching"; the error texts are the API's.
"""

from collections.abc import Iterator, Mapping, Sequence

from corral.session.content import Block, Json

CACHE_BREAKPOINTS_MAX = 4


def broken_rule(body: Mapping[str, Json]) -> str | None:
    """The message of the 400 this request deserves; None if it is fine."""
    for name in ("model", "max_tokens", "messages"):
        if not body.get(name):
            return f"{name}: Field required"
    messages: Sequence[Mapping[str, Json]] = body["messages"]
    if messages[0]["role"] != "user":
        return 'messages: first message must use the "user" role'
    names = [tool["name"] for tool in body.get("tools", ()) if "name" in tool]
    if len(set(names)) < len(names):
        return "tools: Tool names must be unique."
    marks = sum("cache_control" in block for block in _cacheable(body))
    if marks > CACHE_BREAKPOINTS_MAX:
        limit = CACHE_BREAKPOINTS_MAX
        return f"A maximum of {limit} blocks with cache_control may be provided. Found {marks}."
    asked: set[str] = set()
    seen: set[str] = set()
    turns = _turns(messages)
    for number, (role, blocks) in enumerate(turns):
        broken = _broken_turn(number, role, blocks, asked, is_last=number == len(turns) - 1)
        if broken is not None:
            return broken
        uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if seen & set(uses) or len(set(uses)) < len(uses):
            return "messages: `tool_use` ids must be unique"
        seen |= set(uses)
        asked = set(uses)
    if asked:
        return _unanswered(len(turns) - 1, asked)
    return None


def _turns(messages: Sequence[Mapping[str, Json]]) -> list[tuple[str, list[Block]]]:
    """Consecutive messages of one role are one turn, as the API combines them."""
    turns: list[tuple[str, list[Block]]] = []
    for message in messages:
        if not turns or turns[-1][0] != message["role"]:
            turns.append((message["role"], []))
        turns[-1][1].extend(_blocks(message))
    return turns


def _broken_turn(
    number: int, role: str, blocks: Sequence[Block], asked: set[str], *, is_last: bool
) -> str | None:
    if not blocks and not (is_last and role == "assistant"):
        return f"messages.{number}: all messages must have non-empty content"
    if any(block["type"] == "text" and not block["text"] for block in blocks):
        return "messages: text content blocks must be non-empty"
    if any(block["type"] == "text" and block["text"].isspace() for block in blocks):
        return "messages: text content blocks must contain non-whitespace text"
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if unknown := sorted(set(results) - asked):
        return (
            f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks: {unknown[0]}. "
            "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
        )
    if missing := asked - set(results):
        return _unanswered(number - 1, missing)
    if len(set(results)) < len(results):
        return f"messages.{number}: each tool_use must have a single result"
    if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
        return f"messages.{number}: `tool_result` blocks must come before other content"
    return None


def _unanswered(number: int, ids: set[str]) -> str:
    return (
        f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(ids))}. Each `tool_use` block must have a corresponding `tool_result` block in "
        "the next message."
    )


def _blocks(message: Mapping[str, Json]) -> Sequence[Block]:
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def _cacheable(body: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    yield from body.get("tools", ())
    if not isinstance(body.get("system", ""), str):
        yield from body["system"]
    for message in body["messages"]:
        yield from _blocks(message)
