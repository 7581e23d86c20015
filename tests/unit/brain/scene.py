"""A session played by hand: inputs and completions in, events out. No store, no loop."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from corral.brain.actions import Action, AskModel, Backoff, Completion, Ran, Replied, RunTool, Stop
from corral.brain.decide import decide
from corral.brain.draft import Draft
from corral.brain.ending import TurnLimits, out_of_time
from corral.brain.ports import ModelReply, Usage
from corral.brain.turn import Terms, advance
from corral.catalog.models import ModelTable
from corral.kernel.ids import EnvironmentId, EventId, Ids, SessionId, ThreadId
from corral.session import events as ev
from corral.session.call import Placement
from corral.session.content import ToolResult
from corral.session.fold import fold, fold_stored, receive
from corral.session.log import InboxEntry, NewEvent, StoredEvent
from corral.session.record import SessionRecord
from corral.session.state import State, begin

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
THREAD = ThreadId("sthr_1")
PLACEMENT = Placement(host_id="host", journal_id="journal")
MODELS = ModelTable.packaged()


class Ticking:
    """A clock that moves 10 ms at each look, and further when it is told to."""

    def __init__(self) -> None:
        self._looks = count(1)
        self.skipped = timedelta()

    def now(self) -> datetime:
        return START + timedelta(milliseconds=10 * next(self._looks)) + self.skipped

    def monotonic(self) -> float:
        return self.now().timestamp()


def agent(*, policy: str = "always_allow", tools: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    toolset = {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": True, "permission_policy": {"type": policy}},
        "configs": [],
    }
    return {
        "type": "agent",
        "id": "agent_1",
        "version": 1,
        "name": "Tester",
        "model": {"id": "claude-sonnet-4-5", "speed": "standard", "effort": None, "inference_geo": None},
        "system": None,
        "tools": [toolset, *(tools or [])],
    }


CUSTOM = {
    "type": "custom",
    "name": "lookup",
    "description": "Look something up.",
    "input_schema": {"type": "object", "properties": {}},
}


def record(agent_snapshot: dict[str, Any]) -> SessionRecord:
    return SessionRecord(
        session_id=SessionId("sesn_1"),
        primary_thread_id=THREAD,
        title=None,
        metadata={},
        agent=agent_snapshot,
        environment_id=EnvironmentId("env_1"),
        environment={"type": "cloud"},
        status="idle",
        usage={},
        active_seconds=0.0,
        running_since=None,
        blocked_on=(),
        last_seq=0,
        last_arrival=0,
        epoch=0,
        created_at=START,
        updated_at=START,
        archived_at=None,
        terminated_at=None,
    )


class Scene:
    """`events` is the log so far; `types()` what the last step added."""

    def __init__(
        self, snapshot: dict[str, Any] | None = None, *, epoch: int = 1, environment: str = "cloud"
    ) -> None:
        self.record = replace(record(snapshot or agent()), environment={"type": environment})
        self.state: State = begin(self.record)
        self.epoch = epoch
        self.placement: Placement | None = PLACEMENT
        self.events: list[NewEvent] = []
        self.in_flight: set[Action] = set()
        self.limits = TurnLimits()
        self.models = MODELS
        self.failures = 0
        self._ids = Ids(now_ms=lambda: 0, random_bytes=self._bytes)
        self._random = count(1)
        self._arrivals = count(1)
        self._clock = Ticking()
        self.sent: set[EventId] = set()

    def _bytes(self, length: int) -> bytes:
        return next(self._random).to_bytes(length)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._clock.skipped += timedelta(seconds=seconds)

    def kill(self, reason: str) -> EventId:
        """An operator's kill, as it comes through the inbox."""
        return self.send(ev.UserInterrupt, private={"kill": {"reason": reason}})

    def send(
        self, kind: type[ev.Event], *, private: dict[str, Any] | None = None, **fields: Any
    ) -> EventId:
        """An input that waits in the inbox."""
        arrival = next(self._arrivals)
        event = kind(id=EventId(f"in_{arrival}"), **fields)
        self._receive(event, arrival, private)
        self.sent.add(event.id)
        return event.id

    def _receive(self, event: ev.Event, arrival: int, private: Mapping[str, Any] | None = None) -> None:
        receive(
            self.state,
            InboxEntry(
                arrival=arrival,
                event_id=event.id,
                type=event.type,
                thread_id=THREAD,
                body=event.body(processed_at=None),
                private=private,
            ),
        )

    def say(self, text: str) -> EventId:
        return self.send(ev.UserMessage, content=[{"type": "text", "text": text}])

    def answer_custom(self, call_id: EventId, text: str = "42") -> None:
        """A custom tool's result, logged by the API on receipt."""
        content = [{"type": "text", "text": text}]
        self._answer(
            ev.UserCustomToolResult(
                id=EventId(f"custom_{call_id}"), custom_tool_use_id=call_id, content=content
            ),
            call_id,
        )

    def answer_remote(self, call_id: EventId, text: str = "ok") -> None:
        """A worker's result, logged by the API on receipt."""
        result_id, content = EventId(f"remote_{call_id}"), [{"type": "text", "text": text}]
        self._answer(ev.UserToolResult(id=result_id, tool_use_id=call_id, content=content), call_id)

    def _answer(self, event: ev.Event, call_id: EventId) -> None:
        at = self._clock.now()
        new = NewEvent(event=event, thread_id=THREAD, processed_at=at, answers=call_id)
        self.events.append(new)
        fold(self.state, event, thread_id=THREAD, at=at, answers=call_id)

    def step(self, *completions: Completion, starts_requests: bool = True) -> list[str]:
        """Advance once; returns the types that were written."""
        self.in_flight -= {done.action for done in completions}
        draft = Draft(self.state, clock=self._clock, ids=self._ids)
        terms = Terms(
            epoch=self.epoch,
            placement=self.placement,
            models=self.models,
            limits=self.limits,
            failures=self.failures,
            starts_requests=starts_requests,
        )
        advance(draft, terms, completions=completions, in_flight=frozenset(self.in_flight))
        self.state = draft.state
        self.events += draft.events
        return [new.event.type for new in draft.events]

    def decide(self) -> set[Action | Stop]:
        """What is to be started or stopped now; started actions are in flight from here on."""
        late = out_of_time(self.state, self.limits, now=self._clock.now())
        actions = decide(self.state, epoch=self.epoch, in_flight=frozenset(self.in_flight), ending=late)
        self.in_flight |= {action for action in actions if not isinstance(action, Stop)}
        return set(actions)

    def asked(self) -> AskModel:
        (action,) = self.decide()
        assert isinstance(action, AskModel)
        return action

    def reply(self, *blocks: dict[str, Any], stop_reason: str | None = None, **fields: Any) -> Replied:
        """The model's answer to the request in flight."""
        action = next(action for action in self.in_flight if isinstance(action, AskModel))
        has_calls = any(block["type"] == "tool_use" for block in blocks)
        return Replied(
            action=action,
            placement=self.placement,
            reply=ModelReply(
                content=blocks,
                stop_reason=stop_reason or ("tool_use" if has_calls else "end_turn"),
                usage=Usage(input_tokens=10, output_tokens=5),
                **fields,
            ),
        )

    def ran(self, text: str = "ok", *, is_error: bool = False) -> Ran:
        action = next(action for action in self.in_flight if isinstance(action, RunTool))
        return Ran(action=action, result=ToolResult.text(text, is_error=is_error))

    def backing_off(self) -> Backoff:
        return next(action for action in self.in_flight if isinstance(action, Backoff))

    def restart(self) -> None:
        """Kill the brain: the next one has a new epoch, and knows what log and inbox say."""
        inbox, self.state = self.state.inbox.values(), begin(self.record)
        for seq, new in enumerate(self.events, start=1):
            fold_stored(
                self.state,
                StoredEvent(
                    seq=seq,
                    event_id=new.event.id,
                    type=new.event.type,
                    thread_id=new.thread_id,
                    arrival=new.arrival,
                    body=new.event.body(processed_at=new.processed_at),
                    private=new.private,
                    processed_at=new.processed_at,
                    answers=new.answers,
                ),
            )
        for waiting in inbox:
            self._receive(waiting.event, waiting.arrival, waiting.private)
        self.epoch += 1
        self.in_flight = set()

    def last(self, kind: str) -> Any:
        """The newest event of a type."""
        return next(new.event for new in reversed(self.events) if new.event.type == kind)

    def rebuilt(self) -> State:
        """The state, folded again from the log alone."""
        state = begin(self.record)
        for new in self.events:
            fold(
                state,
                ev.parse(new.event.body(processed_at=new.processed_at)),
                thread_id=new.thread_id,
                at=new.processed_at,
                private=new.private,
                answers=new.answers,
            )
        return state


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(number: int = 1, name: str = "bash", **arguments: Any) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{number}",
        "name": name,
        "input": arguments or {"command": "ls"},
    }
