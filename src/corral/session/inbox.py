"""What a session accepts from its clients, and when: a pure function over the state under the row lock.

Queued for a brain:   user.message, user.interrupt, user.tool_confirmation, system.message.
Processed on receipt: user.custom_tool_result, user.tool_result; each settles its call at once, the first
                      answer wins. And user.interrupt where all it does is to offer failed work anew.

A rejected request stores nothing. Source: API docs, events "Queueing", "Requires action", "Interrupts".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from corral.kernel.errors import Conflict, InvalidRequest, RateLimited
from corral.kernel.ids import EventId, ThreadId
from corral.kernel.limits import INBOX_BYTES_MAX, INBOX_EVENTS_MAX, INBOX_INTERRUPTS_MAX
from corral.session.budget import TAKEN_AT_THE_CAP, is_at_cap, is_paused
from corral.session.content import Json
from corral.session.events import (
    AgentCustomToolUse,
    AgentToolUse,
    Event,
    SystemMessage,
    UserCustomToolResult,
    UserInterrupt,
    UserMessage,
    UserToolConfirmation,
    UserToolResult,
    parse,
)
from corral.session.log import InboxEntry, StoredEvent
from corral.session.record import SessionRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What admission looks at, all read under the session's row lock.

    inbox:         the whole inbox.
    tool_uses:     the logged events whose ids the inputs name (`referenced`), by id; absent if unknown.
                   In a self-hosted environment also those that the session waits for.
    answers:       the logged results of those, by the id of the tool use.
    now:           what it has cost is counted up to then.
    confirmations: ids among those that a logged or queued user.tool_confirmation names, and what it says.
    work_failed:   its worker gave up with calls of the session left to run; see `session.work`.
    """

    record: SessionRecord
    inbox: Sequence[InboxEntry]
    now: datetime
    tool_uses: Mapping[EventId, StoredEvent] = field(default_factory=dict)
    answers: Mapping[EventId, StoredEvent] = field(default_factory=dict)
    confirmations: Mapping[EventId, Literal["allow", "deny"]] = field(default_factory=dict)
    work_failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """Where one input goes; nowhere: it has no effect. `duplicate_of` is the stored event to return
    instead of storing it, if there is one.

    needs_brain: False for what changes nothing by itself: a brain would find nothing to write, and so
                 could not say that it has looked.
    """

    event: Event
    thread_id: ThreadId
    to: Literal["inbox", "log", "nowhere"]
    needs_brain: bool = True
    answers: EventId | None = None
    duplicate_of: StoredEvent | None = None
    wants_worker: bool = False
    """Of a session in a self-hosted environment: there is a work item for it after this."""


def referenced(inputs: Sequence[Event]) -> list[EventId]:
    """The tool-use ids that `View` must cover."""
    ids = []
    for event in inputs:
        if isinstance(event, UserToolConfirmation | UserToolResult):
            ids.append(event.tool_use_id)
        elif isinstance(event, UserCustomToolResult):
            ids.append(event.custom_tool_use_id)
    return ids


def admit(view: View, inputs: Sequence[Event]) -> list[Admitted]:
    """Decide for each input, in order; later ones see the effect of earlier ones of the same request.

    Raises: Conflict (archived or terminated), InvalidRequest (names the input by `events.N`),
    RateLimited (the inbox is full).
    """
    record = view.record
    if record.archived_at is not None or record.status == "terminated":
        raise Conflict(
            f"Session {record.session_id} is {'archived' if record.archived_at else 'terminated'} and takes"
            " no more events. Create a new session to go on."
        )
    _check_room(view.inbox, inputs)
    request = _Request(view, retries=view.work_failed and all(isinstance(e, UserInterrupt) for e in inputs))
    _check_system_messages(inputs)
    if is_at_cap(record, at=view.now):
        _check_at_cap(inputs)
    return [request.admit(number, event) for number, event in enumerate(inputs)]


def _check_room(waiting: Sequence[InboxEntry], inputs: Sequence[Event]) -> None:
    """For one more request, however large it is. Raises RateLimited."""
    room = INBOX_EVENTS_MAX
    # An interrupt is what makes room again.
    is_interrupt = all(isinstance(event, UserInterrupt) for event in inputs)
    if is_interrupt:
        room += INBOX_INTERRUPTS_MAX
    if len(waiting) + len(inputs) > room:
        raise RateLimited(
            f"The session already has {len(waiting)} unprocessed events; at most {INBOX_EVENTS_MAX} may"
            " wait. Let it work, or send a user.interrupt."
        )
    size = sum(len(entry.body) for entry in waiting)
    if size > INBOX_BYTES_MAX and not is_interrupt:
        raise RateLimited(
            f"The session already has {size >> 20} MiB of unprocessed events; the next one is taken when"
            f" there are at most {INBOX_BYTES_MAX >> 20}. Let it work, or send a user.interrupt."
        )


class _Request:
    """One request being admitted: what is still blocked on, as if its earlier inputs were applied.

    retries: its interrupts only offer the failed work anew. Source: API docs, self-hosted "Worker failing".
    """

    def __init__(self, view: View, *, retries: bool = False) -> None:
        self._view = view
        self._is_paused = is_paused(view.record) and is_at_cap(view.record, at=view.now)
        self._retries = retries
        self._primary = view.record.primary_thread_id
        self._confirmed = dict(view.confirmations)
        self._answered: set[EventId] = set()
        self._after_result = False
        self._was_blocked = bool(view.record.blocked_on)
        self._blocked_on = set(view.record.blocked_on) - set(view.answers)
        for tool_use_id, result in view.confirmations.items():
            self._confirm(tool_use_id, result)
        for entry in view.inbox:
            waiting = parse(entry.body)
            if isinstance(waiting, UserInterrupt):
                self._interrupt()
            elif isinstance(waiting, UserToolConfirmation):
                self._confirm(waiting.tool_use_id, waiting.result)

    def admit(self, number: int, event: Event) -> Admitted:
        match event:
            case UserToolConfirmation():
                return self._confirmation(number, event)
            case UserCustomToolResult():
                return self._custom_tool_result(number, event)
            case UserToolResult():
                return self._tool_result(number, event)
            case UserInterrupt(session_thread_id=thread_id):
                known = {thread.thread_id for thread in self._view.record.threads}
                if thread_id is not None and thread_id not in known:
                    raise InvalidRequest(
                        f"events.{number}.session_thread_id: this session has no thread {thread_id!r}"
                    )
                if self._is_paused:  # there is nothing to interrupt: it stays as it is
                    return Admitted(
                        event=event, thread_id=thread_id or self._primary, to="nowhere", needs_brain=False
                    )
                if self._retries:
                    to_thread = thread_id or self._primary
                    return Admitted(
                        event=event, thread_id=to_thread, to="log", needs_brain=False, wants_worker=True
                    )
                self._interrupt()
                return self._queued(event, thread_id or self._primary)
            case UserMessage() if self._blocked_on:
                raise InvalidRequest(
                    f"events.{number}: the session waits for answers to {sorted(self._blocked_on)}"
                    " (stop_reason requires_action). Answer them with user.tool_confirmation,"
                    " user.custom_tool_result or user.tool_result, or send a user.interrupt first."
                )
            case SystemMessage() if self._was_blocked and not self._after_result:
                raise InvalidRequest(
                    f"events.{number}: while the session waits for answers (stop_reason requires_action), a"
                    " system.message must directly follow a tool result in the same request."
                )
            case UserMessage() | SystemMessage():
                return self._queued(event, self._primary)
            case _:
                raise InvalidRequest(f"events.{number}.type: {event.type!r} cannot be sent to this session")

    def _interrupt(self) -> None:
        """An interrupt is applied before what follows it: nothing is waited for any more."""
        self._was_blocked = False
        self._blocked_on.clear()

    def _queued(self, event: Event, thread_id: ThreadId) -> Admitted:
        self._after_result = False
        # What is said to the model while calls are open waits for their answers.
        needs_brain = not (isinstance(event, SystemMessage) and self._blocked_on)
        return Admitted(
            event=event,
            thread_id=thread_id,
            to="inbox",
            needs_brain=needs_brain,
            # So that a worker can prepare while the model thinks.
            wants_worker=isinstance(event, UserMessage) and is_self_hosted(self._view.record.environment),
        )

    def _confirmation(self, number: int, event: UserToolConfirmation) -> Admitted:
        where, tool_use_id = f"events.{number}.tool_use_id", event.tool_use_id
        use = self._view.tool_uses.get(tool_use_id)
        call = parse(use.body) if use else None
        if use is None or not isinstance(call, AgentToolUse):
            raise InvalidRequest(
                f"{where}: this session has no tool use {tool_use_id!r} (give the id of an agent.tool_use)"
            )
        if call.evaluated_permission != "ask":
            raise InvalidRequest(
                f"{where}: {tool_use_id!r} needs no confirmation;"
                f" its evaluated_permission is {call.evaluated_permission!r}"
            )
        if self._confirmed.get(tool_use_id) == event.result:  # said again, perhaps after a lost answer
            return Admitted(event=event, thread_id=use.thread_id, to="nowhere", needs_brain=False)
        if tool_use_id in self._confirmed or tool_use_id in self._view.answers:
            raise InvalidRequest(f"{where}: {tool_use_id!r} is already settled")
        self._confirmed[tool_use_id] = event.result
        self._confirm(tool_use_id, event.result)
        return self._queued(event, use.thread_id)

    def _custom_tool_result(self, number: int, event: UserCustomToolResult) -> Admitted:
        tool_use_id = event.custom_tool_use_id
        use = self._view.tool_uses.get(tool_use_id)
        if use is None or use.type != AgentCustomToolUse.TYPE:
            raise InvalidRequest(
                f"events.{number}.custom_tool_use_id: this session has no custom tool use {tool_use_id!r}"
                " (give the id of an agent.custom_tool_use)"
            )
        self._after_result = True
        earlier = self._view.answers.get(tool_use_id)
        if earlier is not None and earlier.type == UserCustomToolResult.TYPE:
            return Admitted(
                event=event, thread_id=use.thread_id, to="nowhere", needs_brain=False, duplicate_of=earlier
            )
        if earlier is not None or tool_use_id in self._answered:
            # Too late: an interrupt closed the call, or an earlier input of this request answered it.
            # It is kept in the log, without effect.
            return Admitted(event=event, thread_id=use.thread_id, to="log", needs_brain=False)
        self._answered.add(tool_use_id)
        self._blocked_on.discard(tool_use_id)
        return Admitted(event=event, thread_id=use.thread_id, to="log", answers=tool_use_id)

    def _confirm(self, tool_use_id: EventId, result: Literal["allow", "deny"]) -> None:
        """Nobody waits for the client any more; but for the worker's result, if it may run there now."""
        use = self._view.tool_uses.get(tool_use_id)
        if result == "deny" or use is None or not is_remote(use):
            self._blocked_on.discard(tool_use_id)

    def _tool_result(self, number: int, event: UserToolResult) -> Admitted:
        where, tool_use_id = f"events.{number}", event.tool_use_id
        if not is_self_hosted(self._view.record.environment):
            raise InvalidRequest(
                f"{where}.type: 'user.tool_result' is only for sessions in self-hosted environments; answer"
                " custom tools with 'user.custom_tool_result'"
            )
        use = self._view.tool_uses.get(tool_use_id)
        call = parse(use.body) if use else None
        if use is None or not isinstance(call, AgentToolUse):
            raise InvalidRequest(
                f"{where}.tool_use_id: this session has no tool use {tool_use_id!r} (give the id of an"
                " agent.tool_use)"
            )
        if not is_remote(use):
            raise InvalidRequest(
                f"{where}.tool_use_id: {tool_use_id!r} ({call.name}) runs on the server, not at a worker"
            )
        earlier = self._view.answers.get(tool_use_id)
        if earlier is not None and _is_same_result(parse(earlier.body), event):
            self._after_result = True
            return Admitted(
                event=event, thread_id=use.thread_id, to="nowhere", needs_brain=False, duplicate_of=earlier
            )
        if earlier is not None or tool_use_id in self._answered:
            raise InvalidRequest(
                f"{where}.tool_use_id: {tool_use_id!r} is already settled, by another result or because its"
                " turn was ended"
            )
        confirmed = self._confirmed.get(tool_use_id)
        if call.evaluated_permission == "deny" or confirmed == "deny":
            raise InvalidRequest(f"{where}.tool_use_id: {tool_use_id!r} was denied; it takes no result")
        if call.evaluated_permission == "ask" and confirmed is None:
            raise InvalidRequest(
                f"{where}.tool_use_id: {tool_use_id!r} awaits a user.tool_confirmation; it may not run"
                " before that"
            )
        self._after_result = True
        self._answered.add(tool_use_id)
        self._blocked_on.discard(tool_use_id)
        return Admitted(event=event, thread_id=use.thread_id, to="log", answers=tool_use_id)


def left_to_run(view: View) -> bool:
    """Whether the session waits for calls that a worker may run now."""
    confirmed = dict(view.confirmations)
    for entry in view.inbox:
        waiting = parse(entry.body)
        if isinstance(waiting, UserToolConfirmation):
            confirmed[waiting.tool_use_id] = waiting.result
    for tool_use_id in view.record.blocked_on:
        use = view.tool_uses.get(EventId(tool_use_id))
        if use is None or not is_remote(use) or use.event_id in view.answers:
            continue
        call = parse(use.body)
        assert isinstance(call, AgentToolUse)
        if call.evaluated_permission != "ask" or confirmed.get(use.event_id) == "allow":
            return True
    return False


def is_self_hosted(environment: Mapping[str, Json]) -> bool:
    """Of a session's environment config."""
    return environment.get("type") == "self_hosted"


def is_remote(use: StoredEvent) -> bool:
    """Whether this tool use is for a worker; see `fold.PendingCall`."""
    return use.private is not None and bool(use.private.get("remote"))


def _is_same_result(earlier: Event, event: UserToolResult) -> bool:
    return (
        isinstance(earlier, UserToolResult)
        and list(earlier.content or ()) == list(event.content or ())
        and bool(earlier.is_error) == bool(event.is_error)
    )


def _check_at_cap(inputs: Sequence[Event]) -> None:
    for number, event in enumerate(inputs):
        if event.type not in TAKEN_AT_THE_CAP:
            raise InvalidRequest(
                f"events.{number}.type: the session has reached its budget: it takes no {event.type}, only"
                f" {', '.join(TAKEN_AT_THE_CAP)}. Raise the budget or remove it to go on."
            )


def _check_system_messages(inputs: Sequence[Event]) -> None:
    positions = [number for number, event in enumerate(inputs) if isinstance(event, SystemMessage)]
    if not positions:
        return
    if len(positions) > 1:
        raise InvalidRequest(f"events.{positions[1]}: at most one system.message may be sent per request")
    position = positions[0]
    if position != len(inputs) - 1:
        raise InvalidRequest(f"events.{position}: a system.message must be the last event of a request")
    if position and not isinstance(
        inputs[position - 1], UserMessage | UserCustomToolResult | UserToolResult
    ):
        raise InvalidRequest(
            f"events.{position}: a system.message must directly follow a user.message or a tool result"
        )
