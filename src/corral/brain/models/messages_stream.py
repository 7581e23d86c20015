"""From the events of a Messages stream to one verbatim reply.

Blocks are rebuilt from the raw JSON of the events, not from an SDK's types: fields and block types that
did not exist when this was written survive, because the block goes back to the provider exactly as it came
(a thinking block with a changed byte is rejected). Only the deltas are interpreted.

Source: platform documentation "Streaming Messages"; `anthropic` 2.10.0 lib/streaming/_messages.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from corral.brain.ports import BlockStarted, ModelReply, TextDelta, Usage
from corral.kernel.limits import MODEL_BLOCK_DEPTH_MAX
from corral.session.content import Block, Json

_APPENDED = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class BrokenStream(Exception):
    """The events do not make a reply: out of order, not JSON, or over before the end."""


class MessageStream:
    """Feed it every event in order; `reply` is there when `is_finished`."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[dict[str, list[str]]] = []
        self._open: set[int] = set()
        self._usage: dict[str, Any] = {}
        self._stop: dict[str, Any] = {}
        self.is_finished = False

    def feed(self, event: Json) -> BlockStarted | TextDelta | None:
        """Take one event, and say what a reader of the stream should see of it. Raises BrokenStream."""
        try:
            return self._feed(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenStream("an event is malformed") from error

    def _feed(self, event: Mapping[str, Json]) -> BlockStarted | TextDelta | None:
        match event["type"]:
            case "content_block_delta":
                return self._delta(event["index"], event["delta"])
            case "content_block_start":
                return self._start(event["index"], event["content_block"])
            case "content_block_stop":
                if event["index"] not in self._open:
                    raise BrokenStream("a content block ended that is not open")
                self._open.discard(event["index"])
            case "message_start":
                self._merge_usage(event["message"].get("usage") or {})
            case "message_delta":
                self._stop |= {k: v for k, v in event["delta"].items() if v is not None}
                self._merge_usage(event.get("usage") or {})
            case "message_stop":
                if self._open or "stop_reason" not in self._stop:
                    raise BrokenStream("the message ended before it was complete")
                self.is_finished = True
            case _:
                pass  # `ping`, and events of a later API: documented to be ignored
        return None

    def _start(self, index: int, block: Mapping[str, Json]) -> BlockStarted:
        if index != len(self._blocks):
            raise BrokenStream("a content block is missing")
        self._blocks.append(dict(block))
        self._pieces.append({})
        self._open.add(index)
        return BlockStarted(index=index, type=block["type"])

    def _delta(self, index: int, delta: Mapping[str, Json]) -> TextDelta | None:
        if index not in self._open:
            raise BrokenStream("a delta arrived for a content block that is not open")
        block, kind = self._blocks[index], delta["type"]
        if (key := _APPENDED.get(kind)) is not None:
            self._pieces[index].setdefault(key, []).append(delta[key])
            return TextDelta(index=index, text=delta["text"]) if kind == "text_delta" else None
        if kind == "input_json_delta":
            self._pieces[index].setdefault("input", []).append(delta["partial_json"])
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        else:  # a delta of a later API: its fields become the block's
            block |= {name: value for name, value in delta.items() if name != "type"}
        return None

    def _merge_usage(self, usage: Mapping[str, Json]) -> None:
        self._usage |= {k: v for k, v in usage.items() if v is not None}  # totals, not increments

    def reply(self) -> ModelReply:
        """The reply of a finished stream. Raises BrokenStream if it could not be acted on, kept and sent
        back: a tool call that is not one, or a block nested beyond MODEL_BLOCK_DEPTH_MAX."""
        assert self.is_finished
        stop_reason = self._stop["stop_reason"]
        try:
            return ModelReply(
                content=[_checked(self._block(index, stop_reason)) for index in range(len(self._blocks))],
                stop_reason=stop_reason,
                stop_details=self._stop.get("stop_details"),
                usage=usage_of(self._usage),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenStream("the reply is malformed") from error

    def _block(self, index: int, stop_reason: str) -> Block:
        block = self._blocks[index]
        for key, pieces in self._pieces[index].items():
            text = "".join(pieces)
            if key != "input":
                block[key] = (block.get(key) or "") + text
            elif text:
                block["input"] = self._input(text, stop_reason)
        return block

    def _input(self, text: str, stop_reason: str) -> Json:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            if stop_reason == "tool_use":
                raise BrokenStream("the input of a tool call is not JSON") from error
            return {}  # cut off, for instance by max_tokens: such a call is never executed
        return value if isinstance(value, dict) else {"value": value}


def _checked(block: Block) -> Block:
    """The block itself. Raises BrokenStream."""
    match block:
        case {"type": "text", "text": str()}:
            pass
        case {"type": "tool_use", "id": str(), "name": str(), "input": dict()}:
            pass
        case {"type": "text" | "tool_use"}:
            raise BrokenStream("a block lacks what its type needs")
    level: list[Json] = [block]
    for _ in range(MODEL_BLOCK_DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
        if not level:
            return block
    raise BrokenStream("a block is nested too deeply")


def _children(node: Json) -> Iterable[Json]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def usage_of(usage: Mapping[str, Json]) -> Usage:
    """Our usage from the wire's. Cache writes without a bucket count as 5-minute ones, the default."""
    buckets = usage.get("cache_creation") or {}
    written_1h = buckets.get("ephemeral_1h_input_tokens") or 0
    written_5m = buckets.get("ephemeral_5m_input_tokens") or 0
    written = max(usage.get("cache_creation_input_tokens") or 0, written_1h + written_5m)
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cache_read_input_tokens=usage.get("cache_read_input_tokens") or 0,
        cache_creation_5m_input_tokens=written - written_1h,
        cache_creation_1h_input_tokens=written_1h,
        web_search_requests=(usage.get("server_tool_use") or {}).get("web_search_requests") or 0,
    )
