"""Events to one reply: what is kept, and what is refused."""

import json
from datetime import UTC, datetime

import pytest

from corral.brain.models.anthropic import classify, retry_after
from corral.brain.models.messages_stream import BrokenStream, MessageStream, usage_of
from corral.brain.ports import Usage

START = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
STOP = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


def block(index, opening, *deltas):
    return [
        {"type": "content_block_start", "index": index, "content_block": opening},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def reply(events, stop=STOP):
    stream = MessageStream()
    for event in [START, *events, *stop]:
        stream.feed(event)
    return stream.reply()


def test_unknown_events_deltas_and_fields_survive():
    got = reply(
        [
            {"type": "ping"},
            {"type": "a_later_event", "x": 1},
            *block(
                0,
                {"type": "compaction", "content": None},
                {"type": "compaction_delta", "content": "S", "k": "e"},
            ),
            *block(1, {"type": "text", "text": "", "new_field": [1]}, {"type": "text_delta", "text": "hi"}),
        ]
    )
    assert got.content == [
        {"type": "compaction", "content": "S", "k": "e"},
        {"type": "text", "text": "hi", "new_field": [1]},
    ]


def test_a_block_may_open_with_content():
    opened = {"type": "text", "text": " Hel"}
    assert reply(block(0, opened, {"type": "text_delta", "text": "lo "})).content[0]["text"] == " Hello "


def test_citations_and_totals():
    got = reply(
        block(
            0,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "a"},
            {"type": "citations_delta", "citation": {"n": 1}},
            {"type": "citations_delta", "citation": {"n": 2}},
        )
    )
    assert got.content[0]["citations"] == [{"n": 1}, {"n": 2}]
    assert got.usage == Usage(input_tokens=3, output_tokens=9), "later totals replace earlier ones"


def test_feeding_does_not_change_the_event():
    opening = {"type": "thinking", "thinking": "", "signature": ""}
    events = block(
        0,
        opening,
        {"type": "thinking_delta", "thinking": "x"},
        {"type": "signature_delta", "signature": "s"},
    )
    assert reply(events).content == [{"type": "thinking", "thinking": "x", "signature": "s"}]
    assert opening == {"type": "thinking", "thinking": "", "signature": ""}


TEXT = {"type": "text", "text": ""}
DELTA = {"type": "text_delta", "text": "x"}


@pytest.mark.parametrize(
    "events",
    [
        block(1, TEXT),
        [*block(0, TEXT), *block(0, TEXT)],
        [{"type": "content_block_delta", "index": 0, "delta": DELTA}],
        [*block(0, TEXT), {"type": "content_block_delta", "index": 0, "delta": DELTA}],
        [*block(0, TEXT), {"type": "content_block_stop", "index": 0}],
        [{"type": "content_block_start", "index": 0, "content_block": TEXT}],
        [{"type": "content_block_start", "index": 0}],
        [{"no": "type"}],
        ["text"],
        [[]],
        [None],
    ],
)
def test_broken_streams(events):
    with pytest.raises(BrokenStream):
        reply(events)


def test_a_stop_without_a_reason_is_broken():
    with pytest.raises(BrokenStream):
        reply(
            block(0, TEXT),
            stop=[{"type": "message_delta", "delta": {"stop_reason": None}}, {"type": "message_stop"}],
        )


def test_a_tool_call_must_have_json_input():
    call = {"type": "tool_use", "id": "t", "name": "bash", "input": {}}
    events = block(0, call, {"type": "input_json_delta", "partial_json": '{"a": '})
    stop = [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    with pytest.raises(BrokenStream):
        reply(events, stop)
    assert reply(events).content == [call], "cut off by something else, it is empty and never executed"


NESTED = '{"a":' * 300 + "1" + "}" * 300
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {}}


@pytest.mark.parametrize(
    ("opening", "deltas"),
    [
        (TOOL, [{"type": "input_json_delta", "partial_json": NESTED}]),
        ({"type": "a_later_block", "content": json.loads(NESTED)}, []),
        ({"type": "tool_use", "id": "toolu_1", "input": {}}, []),
        ({**TOOL, "id": None}, []),
        ({**TOOL, "input": [1]}, []),
        ({"type": "text", "text": None}, []),
    ],
)
def test_a_block_that_could_not_be_stored_or_acted_on_is_broken(opening, deltas):
    """Else the session would fail and ask again, for ever."""
    with pytest.raises(BrokenStream):
        reply(block(0, opening, *deltas))


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        ({}, Usage()),
        ({"cache_creation_input_tokens": 5}, Usage(cache_creation_5m_input_tokens=5)),
        (
            {"cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 4}},
            Usage(cache_creation_5m_input_tokens=1, cache_creation_1h_input_tokens=4),
        ),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 2}}, Usage(cache_creation_5m_input_tokens=2)),
        ({"server_tool_use": None, "cache_creation": None, "output_tokens": 1}, Usage(output_tokens=1)),
    ],
)
def test_usage(wire, usage):
    assert usage_of(wire) == usage


@pytest.mark.parametrize(
    ("status", "kind", "text", "expected"),
    [
        (529, "overloaded_error", "", ("overloaded", True)),
        (503, "overloaded_error", "", ("overloaded", True)),
        (503, "", "", ("request_failed", True)),
        (418, "", "", ("request_failed", False)),
        (400, "invalid_request_error", "Prompt is too long: 1 tokens", ("context_overflow", False)),
        (400, "", "This model's maximum context length is 8192 tokens.", ("context_overflow", False)),
        (413, "", "", ("context_overflow", False)),
        (None, "", "", ("request_failed", True)),
        (None, "permission_error", "", ("request_failed", False)),
    ],
)
def test_classify(status, kind, text, expected):
    assert classify(status, kind, text) == expected


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Fri, 20 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers, now=datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)) == seconds
