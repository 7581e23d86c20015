"""Event streams over a real socket: framing, echo pairs, resume, previews, endings."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from corral.api import sse
from corral.kernel.errors import StoreUnavailable
from corral.kernel.ids import EventId, SessionId, ThreadId
from corral.session.bus import Preview
from corral.session.events import AgentMessage, AgentThinking, SpanModelRequestEnd, UserInterrupt
from corral.store.bus import LocalBus
from corral.store.log import Log
from corral.store.sessions import Sessions
from tests.sdk.conftest import Server, eventually, frames, take_inbox
from tests.served import WAIT_SECONDS


def message(text: str = "hello") -> dict[str, object]:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


@pytest.fixture
def path(session_id: str) -> str:
    return f"/v1/sessions/{session_id}/events/stream"


def agent_message(server: Server, text: str = "hi") -> AgentMessage:
    return AgentMessage(
        type=AgentMessage.TYPE, id=server.deps.ids.event(), content=[{"type": "text", "text": text}]
    )


def test_echo_then_processed_form(server, client, http, session_id, path) -> None:
    client.beta.sessions.events.send(session_id, events=[message("before")])
    with frames(http, path) as tail:
        sent = client.beta.sessions.events.send(session_id, events=[message("a")]).data[0]
        (cursor, echo), *_ = tail.take(1)
        assert (echo["id"], echo["processed_at"], cursor) == (sent.id, None, "0.2")
        server.run(take_inbox(server.deps, session_id, agent_message(server)))
        processed = tail.take(3)
        assert [event["type"] for _, event in processed] == [
            "user.message",
            "user.message",
            "agent.message",
        ]
        assert processed[1][1]["id"] == sent.id
        assert all(event["processed_at"] for _, event in processed)
        assert [cursor for cursor, _ in processed] == ["1.2", "2.2", "3.2"]


def test_resume_from_every_cursor(server, client, http, session_id, path) -> None:
    send = client.beta.sessions.events.send
    with frames(http, path) as tail:
        send(session_id, events=[message("1"), message("2")])
        server.run(take_inbox(server.deps, session_id, agent_message(server)))
        send(session_id, events=[message("3")])
        client.beta.sessions.update(session_id, title="T")
        send(session_id, events=[{"type": "user.interrupt"}])
        server.run(take_inbox(server.deps, session_id))
        send(session_id, events=[message("queued")])
        seen = tail.take(2 + 3 + 1 + 1 + 1 + 2 + 1)
    for number in range(len(seen)):
        cursor = "0.0" if number == 0 else seen[number - 1][0]
        with frames(http, path, after=cursor) as resumed:
            missed = resumed.take(len(seen) - number)
            # After a while away, an echo may come later than it first did, but before its processed form.
            assert sorted(event["id"] for _, event in missed) == sorted(e["id"] for _, e in seen[number:])
            assert [e for _, e in missed if e["processed_at"]] == [
                e for _, e in seen[number:] if e["processed_at"]
            ]
            assert [e for _, e in missed if not e["processed_at"]] == [
                e for _, e in seen[number:] if not e["processed_at"]
            ]
            keys = [(event["id"], bool(event["processed_at"])) for _, event in missed]
            assert all(
                keys.index((event_id, False)) < place
                for place, (event_id, done) in enumerate(keys)
                if done and (event_id, False) in keys
            )


def test_resume_while_events_keep_coming(server, client, session_id, path) -> None:
    """Inputs arrive and are processed while a reader reconnects again and again: nothing twice, nothing
    missing, an echo before its processed form, processed events in the order of the log."""
    total = 100

    def produce() -> None:
        with server.client() as own:
            for number in range(1, total + 1):
                own.beta.sessions.events.send(session_id, events=[message(str(number))])
                if number % 7 == 0 or number == total:
                    server.run(take_inbox(server.deps, session_id))

    producer = threading.Thread(target=produce)
    producer.start()
    received: list[dict[str, object]] = []
    cursor = "0.0"
    with server.http() as own:
        while len(received) < 2 * total:
            with frames(own, path, after=cursor) as tail:
                taken = tail.take(min(7, 2 * total - len(received)))
            cursor = taken[-1][0]
            received += [event for _, event in taken]
    producer.join()
    echoed = [event["id"] for event in received if event["processed_at"] is None]
    processed = [event["id"] for event in received if event["processed_at"] is not None]
    assert echoed == processed == [event.id for event in client.beta.sessions.events.list(session_id)]
    first_seen = {}
    for event in received:
        first_seen.setdefault(event["id"], event["processed_at"])
    assert set(first_seen.values()) == {None}


class Meanwhile:
    """A real port, around one of whose calls something else happens first, and afterwards."""

    def __init__(self, port, name, *, before=None, after=None) -> None:
        self._port, self._name, self._before, self._after = port, name, before, after

    def __getattr__(self, name):
        method = getattr(self._port, name)
        if name != self._name:
            return method

        async def call(*args, **kwargs):
            before, after, self._before, self._after = self._before, self._after, None, None
            if before is not None:
                await before()
            result = await method(*args, **kwargs)
            if after is not None:
                await after()
            return result

        return call


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("port", "name"), [("sessions", "read"), ("log", "tail")])
def test_a_commit_while_the_stream_opens(
    server, client, http, session_id, path, monkeypatch, port, name, moment
) -> None:
    """Between subscription and the first read, and between that and the first message."""
    streams = server.api.state.streams
    client.beta.sessions.events.send(session_id, events=[message("a")])
    early, late = agent_message(server, "early"), agent_message(server, "late")

    is_committed = threading.Event()

    async def commit() -> None:
        await take_inbox(server.deps, session_id, early)
        queued = UserInterrupt(type=UserInterrupt.TYPE, id=server.deps.ids.event())
        await server.deps.log.accept(SessionId(session_id), [queued], now=server.deps.clock.now())
        is_committed.set()

    meanwhile = Meanwhile(getattr(server.deps, port), name, **{moment: commit})
    monkeypatch.setattr(streams, "_dependencies", replace(server.deps, **{port: meanwhile}))
    is_resuming = port == "log"
    expected = ["0.1"] if is_resuming else []
    expected += ["1.1", "2.1", "2.2"] if is_resuming or moment == "after" else []
    with frames(http, path, after="0.0" if is_resuming else None) as tail:
        assert [cursor for cursor, _ in tail.take(len(expected))] == expected
        assert is_committed.wait(WAIT_SECONDS)
        server.run(take_inbox(server.deps, session_id, late))
        assert [cursor for cursor, _ in tail.take(2)] == ["3.2", "4.2"]
        client.beta.sessions.update(session_id, title="end")
        assert next(tail)[0] == "5.2"


@pytest.mark.parametrize("cursor", ["x", "1", "1.2.3", "-1.0", "99.0", "0.99"])
def test_wrong_cursors(http, path, cursor) -> None:
    answer = http.get(path, headers={"last-event-id": cursor})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("Last-Event-ID")


def test_refusals_before_the_stream_begins(http, path, session_id) -> None:
    assert http.get("/v1/sessions/sesn_none/events/stream").status_code == 404
    assert http.get(f"/v1/sessions/{session_id}/threads/sthr_none/stream").status_code == 404
    assert http.get(f"{path}?event_deltas[]=agent.tool_use").status_code == 400
    assert http.get(f"{path}?types[]=agent.message").status_code == 400


def test_the_sdk_reads_it(server, client, session_id) -> None:
    with client.beta.sessions.events.stream(session_id) as stream:
        client.beta.sessions.events.send(session_id, events=[message("a")])
        server.run(take_inbox(server.deps, session_id, agent_message(server, "hi")))
        events = [next(stream) for _ in range(3)]
    assert [event.type for event in events] == ["user.message", "user.message", "agent.message"]
    assert events[2].content[0].text == "hi"


async def test_the_async_sdk_reads_it(server, session_id) -> None:
    async with (
        server.async_client() as client,
        await client.beta.sessions.events.stream(session_id) as stream,
    ):
        await client.beta.sessions.events.send(session_id, events=[message("a")])
        async for event in stream:
            assert (event.type, event.processed_at) == ("user.message", None)
            break


def test_thread_stream(server, client, http, session_id) -> None:
    thread_id = server.run(server.deps.sessions.read(SessionId(session_id))).primary_thread_id
    with client.beta.sessions.threads.events.stream(thread_id, session_id=session_id) as stream:
        client.beta.sessions.events.send(session_id, events=[message("a")])
        assert next(stream).type == "user.message"


# -- previews -----------------------------------------------------------------------------------------


class Publisher:
    def __init__(self, server: Server, session_id: str) -> None:
        self._server = server
        self._session_id = SessionId(session_id)
        self.thread_id = server.run(server.deps.sessions.read(self._session_id)).primary_thread_id

    def preview(
        self,
        event_id: str,
        n: int,
        text: str = "",
        *,
        type: str = "agent.message",
        thread: str | None = None,
    ) -> None:
        preview = self._made(event_id, n, text=text, event_type=type)
        if thread is not None:
            preview = replace(preview, thread_id=ThreadId(thread))
        self._server.call(self._server.deps.bus.publish, preview)

    def _made(self, event_id: str, n: int, *, text: str = "", event_type: str = "agent.message") -> Preview:
        return Preview(
            session_id=self._session_id,
            thread_id=self.thread_id,
            event_id=EventId(event_id),
            event_type=event_type,
            n=n,
            text=text,
        )

    def flood(self, count: int) -> None:
        """More messages than a reader can take before it runs."""

        def publish() -> None:
            for n in range(count):
                self._server.deps.bus.publish(self._made("sevt_flood", n))

        self._server.call(publish)

    def store(self, *events) -> None:
        self._server.run(take_inbox(self._server.deps, self._session_id, *events))


@pytest.fixture
def publisher(server: Server, session_id: str) -> Publisher:
    return Publisher(server, session_id)


BOTH = "?event_deltas[]=agent.message&event_deltas[]=agent.thinking"


def span_end(server: Server) -> SpanModelRequestEnd:
    return SpanModelRequestEnd(
        type=SpanModelRequestEnd.TYPE,
        id=server.deps.ids.event(),
        model_request_start_id=server.deps.ids.event(),
        model_usage={},
    )


def test_previews_of_a_text(server, http, publisher, path) -> None:
    final = agent_message(server, "Hello")
    with frames(http, path + BOTH) as tail:
        publisher.preview(final.id, 0)
        publisher.preview(final.id, 1, "Hel")
        publisher.preview(final.id, 2, "lo")
        publisher.store(final)
        publisher.preview(final.id, 3, "never")
        publisher.preview(final.id, 0)
        publisher.store(agent_message(server, "next"))
        seen = tail.take(5)
    content = {"type": "text", "text": "Hel"}
    assert seen[0] == (None, {"type": "event_start", "event": {"type": "agent.message", "id": final.id}})
    assert seen[1][1] == {
        "type": "event_delta",
        "event_id": final.id,
        "delta": {"type": "content_delta", "index": 0, "content": content},
    }
    assert [event["type"] for _, event in seen[2:]] == ["event_delta", "agent.message", "agent.message"]


def test_previews_need_opting_in_the_right_thread_a_start_and_no_gap(server, http, publisher, path) -> None:
    with frames(http, path + "?event_deltas[]=agent.message") as tail, frames(http, path) as plain:
        publisher.preview("sevt_thinking", 0, type="agent.thinking")
        publisher.preview("sevt_other", 0, thread="sthr_other")
        publisher.preview("sevt_late", 4, "opened in the middle")
        publisher.preview("sevt_gap", 0)
        publisher.preview("sevt_gap", 1, "a")
        publisher.preview("sevt_gap", 3, "c")
        publisher.preview("sevt_gap", 4, "d")
        publisher.preview("sevt_open", 0)
        publisher.store(span_end(server))
        publisher.preview("sevt_open", 1, "after the request ended")
        publisher.store(agent_message(server))
        seen = [
            event.get("event", {}).get("id") or event.get("event_id") or event["type"]
            for _, event in tail.take(5)
        ]
        assert seen == ["sevt_gap", "sevt_gap", "sevt_open", "span.model_request_end", "agent.message"]
        assert [event["type"] for _, event in plain.take(2)] == ["span.model_request_end", "agent.message"]


def test_thinking_previews_are_start_only(server, http, publisher, path) -> None:
    with frames(http, path + BOTH) as tail:
        publisher.preview("sevt_t", 0, type="agent.thinking")
        publisher.preview("sevt_t", 1, "secret", type="agent.thinking")
        publisher.store(AgentThinking(type=AgentThinking.TYPE, id=EventId("sevt_t")))
        assert [event["type"] for _, event in tail.take(2)] == ["event_start", "agent.thinking"]


def test_the_sdk_accumulates_previews(server, client, publisher, session_id) -> None:
    final = agent_message(server, "Hello")
    with client.beta.sessions.events.stream(session_id, event_deltas=["agent.message"]) as stream:
        publisher.preview(final.id, 0)
        publisher.preview(final.id, 1, "Hello")
        publisher.store(final)
        types = [next(stream).type for _ in range(3)]
    assert types == ["event_start", "event_delta", "agent.message"]


# -- endings and losses -------------------------------------------------------------------------------


def test_deletion_ends_streams(client, http, session_id, path) -> None:
    with frames(http, path) as first, client.beta.sessions.events.stream(session_id) as second:
        client.beta.sessions.delete(session_id)
        ((_, event),) = list(first)
        assert (event["type"], bool(event["processed_at"])) == ("session.deleted", True)
        assert [each.id for each in second] == [event["id"]]


def test_archiving_does_not_end_them(client, http, session_id, path) -> None:
    with frames(http, path) as tail:
        client.beta.sessions.archive(session_id)
        types = [event["type"] for _, event in tail.take(2)]
        assert types == ["session.thread_status_terminated", "session.status_terminated"]
        client.beta.sessions.delete(session_id)
        assert next(tail)[1]["type"] == "session.deleted"


def test_disconnects_free_everything(server, client, http, session_id, path) -> None:
    streams, bus = server.api.state.streams, server.deps.bus
    eventually(lambda: streams.open_count == 0)
    for _ in range(3):
        with frames(http, path):
            eventually(lambda: streams.open_count == 1)
    eventually(lambda: streams.open_count == 0 and bus._subscribers == {})


def test_streams_at_once_are_bounded(server, http, session_id, path, monkeypatch) -> None:
    streams = server.api.state.streams
    eventually(lambda: streams.open_count == 0)
    monkeypatch.setattr(sse, "STREAMS_OPEN_MAX", 1, raising=False)
    with frames(http, path):
        eventually(lambda: streams.open_count == 1)
        refused = http.get(path)
        assert (refused.status_code, refused.headers["retry-after"]) == (529, "1")
        assert refused.json()["error"]["type"] == "overloaded_error"
        assert http.get(f"/v1/sessions/{session_id}").status_code == 200
    eventually(lambda: streams.open_count == 0)
    with frames(http, path):
        eventually(lambda: streams.open_count == 1)


def test_lost_notifications_cost_latency_only(
    server, client, http, session_id, path, agent_id, environment_id
) -> None:
    """The next look at the store finds the streams that are behind, and leaves the others alone."""
    silent = LocalBus()
    other = client.beta.sessions.create(agent=agent_id, environment_id=environment_id).id
    streams = server.api.state.streams
    eventually(lambda: streams.open_count == 0)
    with frames(http, path) as tail, frames(http, f"/v1/sessions/{other}/events/stream") as others:
        event = agent_message(server)
        server.run(take_inbox(replace_log(server, Log(server.database, silent)), session_id, event))
        server.run(streams.look())
        assert next(tail)[1]["id"] == event.id
        server.run(Sessions(server.database, silent, server.deps.clock).delete(SessionId(session_id)))
        server.run(streams.look())
        assert next(tail)[1]["type"] == "session.deleted"
        assert list(tail) == []
        event = agent_message(server)
        server.run(take_inbox(server.deps, other, event))
        assert next(others)[1]["id"] == event.id


def test_streams_outlive_a_store_that_is_away(server, http, session_id, path, publisher) -> None:
    streams = server.api.state.streams
    with frames(http, path) as tail:
        event = agent_message(server)
        server.run(take_inbox(replace_log(server, Log(server.database, LocalBus())), session_id, event))
        rename(server, "sessions", "away")
        try:
            with pytest.raises(StoreUnavailable):
                server.run(streams.look())
            server.call(server.deps.bus.look_again, SessionId(session_id))
            publisher.flood(3)
        finally:
            rename(server, "away", "sessions")
        server.run(streams.look())
        assert next(tail)[1]["id"] == event.id


def rename(server: Server, name: str, new_name: str) -> None:
    """A table that is not there: every read fails, as when the database cannot be reached."""

    def body(connection: Connection) -> None:
        connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {new_name}")

    server.run(server.database.write(body))


def test_overflow_is_repaired_from_the_store(
    server, http, session_id, path, publisher, monkeypatch
) -> None:
    monkeypatch.setattr(sse, "SSE_BUFFER_EVENTS_MAX", 4)
    silent = Log(server.database, LocalBus())
    with frames(http, path) as tail:
        event = agent_message(server)
        server.run(take_inbox(replace_log(server, silent), session_id, event))

        publisher.flood(9)
        assert next(tail)[1]["id"] == event.id


def test_a_reader_too_far_behind_is_closed_and_resumes(
    server, http, session_id, path, publisher, monkeypatch
):
    monkeypatch.setattr(sse, "SSE_BUFFER_EVENTS_MAX", 4)
    silent = Log(server.database, LocalBus())
    with frames(http, path) as tail:
        events = [agent_message(server) for _ in range(6)]
        server.run(take_inbox(replace_log(server, silent), session_id, *events))

        publisher.flood(9)
        assert list(tail) == []
    with frames(http, path, after="0.0") as resumed:
        assert [event["id"] for _, event in resumed.take(6)] == [event.id for event in events]


def replace_log(server: Server, log: Log):
    """The server's ports with another log: its commits reach no subscriber."""
    return replace(server.deps, log=log)


def test_shutdown_ends_streams(tmp_path) -> None:
    running = Server(tmp_path)
    running.start()
    with running.client() as client, running.http() as http:
        agent = client.beta.agents.create(name="a", model="replay").id
        environment = client.beta.environments.create(name="e").id
        session = client.beta.sessions.create(agent=agent, environment_id=environment).id
        with frames(http, f"/v1/sessions/{session}/events/stream") as tail:
            running.stop()
            assert list(tail) == []
