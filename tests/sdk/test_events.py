"""Events through the official SDK: send, list, page. No brain runs: inputs stay queued."""

import anthropic
import pytest


def message(text: str) -> dict[str, object]:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


def test_queued_events_are_answered_without_processed_at(client, session_id) -> None:
    raw = client.beta.sessions.events.with_raw_response.send(
        session_id, events=[message("a"), {"type": "user.interrupt"}, message("b")]
    )
    data = raw.http_response.json()["data"]
    assert [set(event) for event in data] == [
        {"id", "type", "content"},
        {"id", "type"},
        {"id", "type", "content"},
    ]
    assert raw.parse().data[0].content[0].text == "a"
    listed = client.beta.sessions.events.with_raw_response.list(session_id).http_response.json()
    assert listed["next_page"] is None
    assert [event["id"] for event in listed["data"]] == [event["id"] for event in data]
    assert {event["processed_at"] for event in listed["data"]} == {None}


def test_a_refused_request_stores_nothing(client, session_id) -> None:
    for events, named in (
        (
            [message("a"), {"type": "user.define_outcome", "description": "d", "rubric": {}}],
            "events.1.type",
        ),
        ([message("a"), {"type": "user.tool_result", "tool_use_id": "sevt_1"}], "events.1.type"),
        ([message("a"), {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_1"}], "events.1"),
        (
            [
                {
                    "type": "user.tool_confirmation",
                    "tool_use_id": "s",
                    "result": "allow",
                    "deny_message": "no",
                }
            ],
            "events.0.deny_message",
        ),
        (
            [{"type": "system.message", "content": [{"type": "text", "text": "s"}]}, message("a")],
            "events.0",
        ),
        ([message("")], "events.0.content.0.text"),
    ):
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.beta.sessions.events.send(session_id, events=events)
        assert refused.value.body["error"]["message"].startswith(named)
    assert list(client.beta.sessions.events.list(session_id)) == []
    with pytest.raises(anthropic.NotFoundError):
        client.beta.sessions.events.send("sesn_none", events=[message("a")])


def test_pages_in_both_orders(client, session_id) -> None:
    events = client.beta.sessions.events
    sent = [events.send(session_id, events=[message(str(n))]).data[0].id for n in range(7)]
    assert [event.id for event in events.list(session_id, limit=2)] == sent
    assert [event.id for event in events.list(session_id, limit=2, order="desc")] == sent[::-1]
    page = events.list(session_id, limit=3)
    with pytest.raises(anthropic.BadRequestError, match="order"):
        events.list(session_id, page=page.next_page, order="desc")
    with pytest.raises(anthropic.BadRequestError, match="page"):
        events.list(session_id, page="bm9uc2Vuc2U")


def test_cursor_of_another_session(client, session_id, agent_id, environment_id) -> None:
    events = client.beta.sessions.events
    events.send(session_id, events=[message("a"), message("b")])
    cursor = events.list(session_id, limit=1).next_page
    other = client.beta.sessions.create(agent=agent_id, environment_id=environment_id).id
    with pytest.raises(anthropic.BadRequestError, match="page"):
        events.list(other, page=cursor)


def test_filters(client, session_id) -> None:
    events = client.beta.sessions.events
    client.beta.sessions.update(session_id, title="x")
    events.send(session_id, events=[message("a"), {"type": "user.interrupt"}])
    assert [event.type for event in events.list(session_id, types=["user.message", "user.interrupt"])] == [
        "user.message",
        "user.interrupt",
    ]
    (updated,) = events.list(session_id, types=["session.updated"])
    at = updated.processed_at
    assert [event.id for event in events.list(session_id, created_at_gte=at)] == [updated.id]
    assert list(events.list(session_id, created_at_gt=at)) == []
    with pytest.raises(anthropic.BadRequestError, match="types"):
        events.list(session_id, types=["session.deleted"])
