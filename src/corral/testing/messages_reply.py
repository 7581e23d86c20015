"""What the fake Messages API can answer: a streamed reply, with or without faults, or an HTTP error.

The bytes are those of the documented stream (message_start, then content_block_start, deltas and
content_block_stop per block, message_delta, message_stop; `ping` in between). They are encoded once per
`Reply` object, so a script that returns the same object again costs no JSON at all.

Source: platform documentation "Streaming Messages" and "Errors"; the event types of `anthropic` 2.10.0.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from corral.session.content import Block, Json, text_block

TEXT_DELTA_CHARS, THINKING_DELTA_CHARS, INPUT_DELTA_CHARS = 12, 24, 5  # medians of recorded streams
USAGE: Mapping[str, Json] = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 12,
    "service_tier": "standard",
    "inference_geo": "global",
}

_SPLIT = {"tool_use", "server_tool_use", "mcp_tool_use"}  # blocks whose input arrives in pieces


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One streamed reply (or one JSON message, when the request did not ask for a stream).

    content:          blocks in their final form; unknown types are sent whole in content_block_start.
    usage:            replaces fields of USAGE.
    delta_chars:      size of every delta; None for what real models send.
    error_after:      `error` event (type, message) in place of the event with this index.
    cut_after_bytes:  the stream stops after this many bytes of the event stream; `cut` says how:
                      "reset" drops the connection, "end" ends the HTTP body properly.
    hang_after_bytes: silence after this many bytes, until the client leaves.
    drip_bytes:       write this many bytes at a time, `drip_seconds` apart.
    first_seconds:    silence before the response headers (the time to first token of a busy model).
    held_until:       likewise, until this is set: for what a test does meanwhile, however long it takes.
    """

    content: Sequence[Block] = (text_block("Done."),)
    stop_reason: str = "end_turn"
    stop_sequence: str | None = None
    stop_details: Mapping[str, Json] | None = None
    usage: Mapping[str, Json] = field(default_factory=dict)
    model: str = "claude-sonnet-5-5"
    message_id: str = "msg_01CorralFakeReply000000"
    delta_chars: int | None = None
    error_after: tuple[int, str, str] | None = None
    cut_after_bytes: int | None = None
    cut: Literal["reset", "end"] = "reset"
    hang_after_bytes: int | None = None
    drip_bytes: int | None = None
    drip_seconds: float = 0.0
    first_seconds: float = 0.0
    held_until: asyncio.Event | None = None

    @classmethod
    def text(cls, text: str) -> "Reply":
        return cls(content=(text_block(text),))

    @classmethod
    def tools(cls, *calls: tuple[str, str, Mapping[str, Json]], say: str = "") -> "Reply":
        """Tool uses side by side: each `(id, name, input)`, after an optional text block."""
        uses = [{"type": "tool_use", "id": i, "name": name, "input": input} for i, name, input in calls]
        return cls(content=[*([text_block(say)] if say else []), *uses], stop_reason="tool_use")

    @property
    def is_plain(self) -> bool:
        """No fault and no delay: it can be written in one piece."""
        return (
            self.cut_after_bytes is None
            and self.hang_after_bytes is None
            and self.drip_bytes is None
            and not self.first_seconds
            and self.held_until is None
        )

    @cached_property
    def stream(self) -> bytes:
        """The whole event stream."""
        return b"".join(self.events)

    @cached_property
    def events(self) -> Sequence[bytes]:
        """The event stream, one item per event: cut between them at will."""
        encoded = []
        for index, (name, data) in enumerate(self._events()):
            if self.error_after is not None and index == self.error_after[0]:
                _, error, message = self.error_after
                body = {"type": "error", "error": {"type": error, "message": message}}
                encoded.append(_sse("error", body))
                break
            encoded.append(_sse(name, data))
        return encoded

    @cached_property
    def message(self) -> bytes:
        """The JSON message of a request without `stream`."""
        return json.dumps(self._message(list(self.content), finished=True)).encode()

    def _message(self, content: list[Block], *, finished: bool) -> dict[str, Json]:
        usage = {**USAGE, **self.usage}
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": self.stop_reason if finished else None,
            "stop_sequence": self.stop_sequence if finished else None,
            **({"stop_details": self.stop_details} if finished else {}),
            "usage": usage if finished else {**usage, "output_tokens": 1},
        }

    def _events(self) -> Iterator[tuple[str, dict[str, Json]]]:
        yield "message_start", {"message": self._message([], finished=False)}
        for index, block in enumerate(self.content):
            opening, deltas = self._split(block)
            yield "content_block_start", {"index": index, "content_block": opening}
            if index == 0:
                yield "ping", {}
            for delta in deltas:
                yield "content_block_delta", {"index": index, "delta": delta}
            yield "content_block_stop", {"index": index}
        usage = {**USAGE, **self.usage}
        cumulative = {
            name: usage[name]
            for name in (
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
                "server_tool_use",
            )
            if name in usage
        }
        stop: dict[str, Json] = {"stop_reason": self.stop_reason, "stop_sequence": self.stop_sequence}
        if self.stop_details is not None:
            stop["stop_details"] = self.stop_details
        yield "message_delta", {"delta": stop, "usage": cumulative}
        yield "message_stop", {}

    def _split(self, block: Block) -> tuple[Block, list[Mapping[str, Json]]]:
        """The block as it opens, and the deltas that complete it."""
        kind = block["type"]
        if kind == "text":
            opening = {**block, "text": ""}
            deltas = self._deltas("text_delta", "text", block["text"], TEXT_DELTA_CHARS)
            if "citations" in block:
                opening["citations"] = []
                deltas += [{"type": "citations_delta", "citation": c} for c in block["citations"]]
            return opening, deltas
        if kind == "thinking":
            deltas = self._deltas("thinking_delta", "thinking", block["thinking"], THINKING_DELTA_CHARS)
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        if kind in _SPLIT:
            text = json.dumps(block["input"], ensure_ascii=False)
            pieces = self._deltas("input_json_delta", "partial_json", text, INPUT_DELTA_CHARS)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": ""}, *pieces]
        return block, []

    def _deltas(self, kind: str, key: str, text: str, chars: int) -> list[Mapping[str, Json]]:
        step = self.delta_chars or chars
        return [{"type": kind, key: text[at : at + step]} for at in range(0, len(text), step)]


def _sse(name: str, data: Mapping[str, Json]) -> bytes:
    body = json.dumps({"type": name, **data}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {body}\n\n".encode()


_ERRORS = {
    400: ("invalid_request_error", "messages: at least one message is required"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: no-such-model"),
    408: ("timeout_error", "The request timed out."),
    409: ("conflict_error", "The request conflicts with another one."),
    413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    502: ("api_error", "Bad gateway"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "The request timed out while processing."),
    529: ("overloaded_error", "Overloaded"),
}


@dataclass(frozen=True, kw_only=True)
class HttpError:
    """An HTTP error in the documented envelope.

    type, message: the documented ones of `status` unless given.
    headers:       added to the response, for instance `{"retry-after": "7"}`.
    raw_body:      sent instead of the envelope: what a proxy in front of the API answers.
    """

    status: int
    type: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw_body: bytes | None = None

    @classmethod
    def prompt_too_long(cls, tokens: int = 208_310, maximum: int = 200_000) -> "HttpError":
        """The 400 of a conversation that no longer fits the context window."""
        return cls(status=400, message=f"prompt is too long: {tokens} tokens > {maximum} maximum")

    def body(self, request_id: str) -> bytes:
        if self.raw_body is not None:
            return self.raw_body
        kind, message = _ERRORS.get(self.status, ("api_error", "Error"))
        error = {"type": self.type or kind, "message": self.message or message}
        return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The answer of `/v1/messages/count_tokens`."""

    input_tokens: int

    @property
    def message(self) -> bytes:
        return json.dumps({"input_tokens": self.input_tokens, "context_management": None}).encode()


Answer = Reply | HttpError | Counted
