"""A recorded run of a real model, played against real hands.

The model's side of a session is data: its replies, verbatim and in order. The tools it calls are executed
for real, in a real sandbox, and their real output is what everybody sees. It must be labelled as recorded
wherever it is shown; `Recording.label` says what to write.

A recording is a JSON object:

    {"format": 1,
     "label": "qwen2.5-coder-1.5b on 2026-11-20",      who said this, and when
     "model": "local",                                 the model name that was recorded
     "task": "...",                                    the prompt it answered, for the reader
     "replies": [{"content": [block, ...],             as in ModelReply, private blocks included
                  "stop_reason": "tool_use",
                  "stop_details": null,                may be absent
                  "usage": {"input_tokens": 1, ...},   fields of brain.ports.Usage; absent ones are 0
                  "first_seconds": 0.6,                silence before the first block; may be absent
                  "seconds": 2.4}, ...]}               from the first block to the end; may be absent

The reply is chosen by position: with n assistant turns in the conversation, reply n is next. Nothing is
remembered between requests. A conversation that goes on after the recording's end is told so.

`replay` is the bundled demo; `replay:NAME` is NAME.json in the operator's recordings directory. A model
name never is a path: names come from API users, files belong to the operator.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import orjson

from corral.brain.ports import (
    BlockStarted,
    ModelEvent,
    ModelFailed,
    ModelReply,
    ModelRequest,
    TextDelta,
    Usage,
)
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import RECORDING_BYTES_MAX, REPLAY_DELTA_CHARS, REPLAY_SECONDS_MAX
from corral.session.content import Block, Json, text_block

FORMAT = 1
DEMO = "demo"
_NAME = re.compile(r"replay:([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
_USAGE_FIELDS = {field.name for field in fields(Usage)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedReply:
    reply: ModelReply
    first_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    label: str
    model: str
    task: str
    replies: Sequence[RecordedReply]


class ReplayModel:
    """`Model` for `replay`, `replay:NAME`.

    directory: the operator's recordings; None: only the bundled one.
    pace:      1.0 plays at the recorded speed, 0.0 at once. Each reply is bounded anyway.
    """

    def __init__(self, *, directory: Path | None = None, pace: float = 1.0) -> None:
        self._directory = directory
        self._pace = pace
        self._recordings: dict[str, Recording] = {}

    def recording(self, name: str) -> Recording:
        """The recording of a model name. Raises InvalidRequest."""
        if name not in self._recordings:
            self._recordings[name] = load(self._file(name))  # bounded: only names with a file get here
        return self._recordings[name]

    def _file(self, name: str) -> Traversable:
        if name == "replay":
            return files("corral.brain.models").joinpath("recordings", f"{DEMO}.json")
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidRequest(f"{name!r} does not name a recording: use replay or replay:NAME")
        if self._directory is None:
            raise InvalidRequest(f"{name!r}: no directory of recordings is configured")
        return self._directory / f"{match[1].removesuffix('.json')}.json"

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Play the next reply; see `Model.stream`."""
        try:
            recording = await asyncio.to_thread(self.recording, request.model)
        except InvalidRequest as error:
            raise ModelFailed(error.message, failure="request_failed", retryable=False) from error
        turn = sum(message["role"] == "assistant" for message in request.messages)
        recorded = recording.replies[turn] if turn < len(recording.replies) else _over(recording)
        budget = REPLAY_SECONDS_MAX
        first = min(recorded.first_seconds * self._pace, budget)
        pause = min(recorded.seconds * self._pace, budget - first) / (_pieces(recorded.reply) or 1)
        await asyncio.sleep(first)
        for index, block in enumerate(recorded.reply.content):
            yield BlockStarted(index=index, type=block["type"])
            for piece in _deltas(block):
                await asyncio.sleep(pause)
                if block["type"] == "text":
                    yield TextDelta(index=index, text=piece)
        yield recorded.reply

    async def aclose(self) -> None:
        """Nothing is held."""


def load(file: Traversable) -> Recording:
    """Read and check a recording. Raises InvalidRequest naming what is wrong."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"there is no recording {file.name!r}") from error
    if len(data) > RECORDING_BYTES_MAX:
        raise InvalidRequest(f"recording {file.name!r} is larger than {RECORDING_BYTES_MAX} bytes")
    try:
        return _recording(orjson.loads(data))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{file.name!r} is not a recording of format {FORMAT}: {error!r}") from error


def _recording(data: Mapping[str, Json]) -> Recording:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r}")
    return Recording(
        label=data["label"],
        model=data["model"],
        task=data["task"],
        replies=[_recorded(item) for item in data["replies"]],
    )


def _recorded(item: Mapping[str, Json]) -> RecordedReply:
    usage = item.get("usage") or {}
    if unknown := sorted(set(usage) - _USAGE_FIELDS):
        raise ValueError(f"usage field {unknown[0]!r}")
    content: list[Block] = list(item["content"])
    if any(not isinstance(block["type"], str) for block in content):
        raise ValueError("a content block without a type")
    reply = ModelReply(
        content=content,
        stop_reason=item["stop_reason"],
        stop_details=item.get("stop_details"),
        usage=Usage(**usage),
    )
    return RecordedReply(
        reply=reply,
        first_seconds=float(item.get("first_seconds", 0.0)),
        seconds=float(item.get("seconds", 0.0)),
    )


def _over(recording: Recording) -> RecordedReply:
    text = (
        f"This is a recording ({recording.label}), and it ends here: it has only "
        f"{len(recording.replies)} replies, so there is no model to answer you. "
        "Choose another model to go on."
    )
    return RecordedReply(
        reply=ModelReply(content=[text_block(text)], stop_reason="end_turn", usage=Usage())
    )


def _deltas(block: Block) -> list[str]:
    """What was streamed of a block, in pieces: text, thinking, or a tool's input."""
    match block["type"]:
        case "text":
            text = str(block["text"])
        case "thinking":
            text = str(block["thinking"])
        case "tool_use":
            text = orjson.dumps(block["input"]).decode()
        case _:
            return []
    return [text[at : at + REPLAY_DELTA_CHARS] for at in range(0, len(text), REPLAY_DELTA_CHARS)]


def _pieces(reply: ModelReply) -> int:
    return sum(len(_deltas(block)) for block in reply.content)
