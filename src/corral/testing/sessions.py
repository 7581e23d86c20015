"""Small, valid sessions, inputs and appends for tests of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from corral.kernel.ids import SESSION, THREAD, EnvironmentId, EventId, Ids, SessionId, ThreadId
from corral.session.content import Json
from corral.session.events import (
    AgentCustomToolUse,
    AgentMessage,
    Event,
    UserCustomToolResult,
    UserMessage,
    parse,
)
from corral.session.lease import Claim, Lease
from corral.session.log import Append, Derived, InboxEntry, NewEvent, Snapshot
from corral.session.record import SessionRecord, Status, ThreadRecord


def new_session(ids: Ids, now: datetime, *, environment_id: str = "env_test") -> SessionRecord:
    """An idle session with its primary thread, not stored yet."""
    thread_id = ThreadId(ids.mint(THREAD))
    agent = {"id": "agent_test", "version": 3, "name": "tester", "tools": [], "mcp_servers": []}
    return SessionRecord(
        session_id=SessionId(ids.mint(SESSION)),
        primary_thread_id=thread_id,
        title=None,
        metadata={"team": "corral"},
        agent=agent,
        environment_id=EnvironmentId(environment_id),
        environment={"type": "cloud"},
        status="idle",
        usage={"input_tokens": 0},
        active_seconds=0.0,
        running_since=None,
        blocked_on=[],
        last_seq=0,
        last_arrival=0,
        epoch=0,
        created_at=now,
        updated_at=now,
        archived_at=None,
        terminated_at=None,
        threads=(ThreadRecord(thread_id=thread_id, agent=agent, created_at=now, updated_at=now),),
    )


def user_message(ids: Ids, text: str = "hi") -> UserMessage:
    return UserMessage(id=ids.event(), type=UserMessage.TYPE, content=[{"type": "text", "text": text}])


def agent_message(ids: Ids, text: str = "hello") -> AgentMessage:
    return AgentMessage(id=ids.event(), type=AgentMessage.TYPE, content=[{"type": "text", "text": text}])


def custom_tool_use(ids: Ids) -> AgentCustomToolUse:
    return AgentCustomToolUse(id=ids.event(), type=AgentCustomToolUse.TYPE, name="ask", input={"q": "?"})


def custom_tool_result(ids: Ids, use_id: EventId) -> UserCustomToolResult:
    return UserCustomToolResult(
        id=ids.event(), type=UserCustomToolResult.TYPE, custom_tool_use_id=use_id, content=[]
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What a brain would append next, from what it has seen. `answers`: event id to call id."""

    seen: Snapshot
    lease: Lease | Claim
    now: datetime

    def append(
        self,
        events: Sequence[Event] = (),
        *,
        takes: Sequence[InboxEntry] = (),
        answers: dict[EventId, EventId] | None = None,
        status: Status = "running",
        needs_brain: bool = True,
        releases: bool = False,
        gets_on: bool = False,
        private: Mapping[str, Json] | None = None,
        blocked_on: Sequence[EventId] = (),
        work_for: EnvironmentId | None = None,
    ) -> Append:
        record = self.seen.record
        last = self.seen.events[-1].processed_at if self.seen.events else record.created_at
        new: list[NewEvent] = []
        inputs = [(parse(entry.body), entry.arrival) for entry in takes]
        for event, arrival in [*inputs, *((event, None) for event in events)]:
            last = max(self.now, last + timedelta(microseconds=1))
            new.append(
                NewEvent(
                    event=event,
                    thread_id=record.primary_thread_id,
                    processed_at=last,
                    private={"raw": event.id, **(private or {})} if arrival is None else None,
                    answers=(answers or {}).get(event.id),
                    arrival=arrival,
                )
            )
        return Append(
            session_id=record.session_id,
            lease=self.lease,
            seen_seq=record.last_seq,
            seen_arrival=record.last_arrival,
            events=new,
            consumes=[entry.event_id for entry in takes],
            derived=Derived(
                status=status,
                usage={"input_tokens": record.last_seq + len(new)},
                active_seconds=float(len(new)),
                running_since=last if status == "running" else None,
                blocked_on=blocked_on,
                needs_brain=needs_brain,
                threads=[replace(thread, status=status, updated_at=last) for thread in record.threads],
            ),
            releases=releases,
            gets_on=gets_on,
            work_for=work_for,
        )
