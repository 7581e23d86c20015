"""Admission: which inputs a session takes in which state, and where they go."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest

from corral.kernel.errors import CallerError, Conflict, InvalidRequest, RateLimited
from corral.kernel.ids import EventId, ThreadId
from corral.kernel.limits import INBOX_BYTES_MAX, INBOX_EVENTS_MAX, INBOX_INTERRUPTS_MAX
from corral.session import events as ev
from corral.session.budget import TAKEN_AT_THE_CAP, changed_budget
from corral.session.inbox import View, admit, referenced
from corral.session.log import InboxEntry, StoredEvent
from tests.unit.brain.scene import START, THREAD, agent, record

ASK = ev.AgentToolUse(
    id=EventId("ask"), name="bash", input={}, evaluated_permission="ask", evaluation={"type": "always_ask"}
)
ALLOWED = ev.AgentToolUse(id=EventId("allowed"), name="bash", input={}, evaluated_permission="allow")
CUSTOM = ev.AgentCustomToolUse(id=EventId("custom"), name="lookup", input={})


def stored(event: ev.Event, *, answers: str | None = None) -> StoredEvent:
    return StoredEvent(
        seq=1,
        event_id=event.id,
        type=event.type,
        thread_id=THREAD,
        arrival=None,
        body=event.body(processed_at=START),
        private=None,
        processed_at=START,
        answers=None if answers is None else EventId(answers),
    )


CHANGES = (
    "status",
    "archived_at",
    "stop_reason",
    "budget",
    "requests_cost",
    "runtime_rate",
    "running_since",
)


def view(*, blocked_on: tuple[str, ...] = (), **fields: Any) -> View:
    uses = {event.id: stored(event) for event in (ASK, ALLOWED, CUSTOM)}
    changes = {key: fields.pop(key) for key in CHANGES if key in fields}
    session = replace(record(agent()), blocked_on=blocked_on, **changes)
    now = fields.pop("now", START)
    return View(record=session, inbox=fields.pop("inbox", ()), now=now, tool_uses=uses, **fields)


def queued(event: ev.Event, arrival: int = 1) -> InboxEntry:
    return InboxEntry(
        arrival=arrival,
        event_id=event.id,
        type=event.type,
        thread_id=THREAD,
        body=event.body(processed_at=None),
    )


def message(number: int = 1) -> ev.UserMessage:
    return ev.UserMessage(id=EventId(f"message_{number}"), content=[{"type": "text", "text": "hi"}])


def system() -> ev.SystemMessage:
    return ev.SystemMessage(id=EventId("system"), content=[{"type": "text", "text": "be brief"}])


def interrupt(**fields: Any) -> ev.UserInterrupt:
    return ev.UserInterrupt(id=EventId("interrupt"), **fields)


def confirm(
    tool_use_id: str = "ask", *, says: Literal["allow", "deny"] = "allow"
) -> ev.UserToolConfirmation:
    return ev.UserToolConfirmation(
        id=EventId(f"confirm_{tool_use_id}"), tool_use_id=EventId(tool_use_id), result=says
    )


def result(tool_use_id: str = "custom", number: int = 1) -> ev.UserCustomToolResult:
    return ev.UserCustomToolResult(
        id=EventId(f"result_{number}"), custom_tool_use_id=EventId(tool_use_id), content=[]
    )


def destinations(where: View, *inputs: ev.Event) -> list[str]:
    return [admitted.to for admitted in admit(where, inputs)]


def test_inputs_for_the_brain_are_queued_and_results_go_into_the_log() -> None:
    both = view(blocked_on=("ask", "custom"))
    assert destinations(both, confirm(), result(), message()) == ["inbox", "log", "inbox"]
    assert admit(both, [result()])[0].answers == "custom"
    assert destinations(view(status="running"), message(), message(2)) == ["inbox", "inbox"]


def test_an_interrupt_frees_the_way_for_a_message() -> None:
    assert destinations(view(blocked_on=("ask",)), interrupt(), message()) == ["inbox", "inbox"]
    assert destinations(view(blocked_on=("ask",)), interrupt(), message(), system()) == ["inbox"] * 3
    waiting = view(blocked_on=("ask",), inbox=(queued(interrupt()),))
    assert destinations(waiting, message()) == ["inbox"]


def test_a_queued_confirmation_frees_the_way_for_a_message() -> None:
    waiting = view(blocked_on=("ask",), inbox=(queued(confirm()),), confirmations={EventId("ask"): "allow"})
    assert destinations(waiting, message()) == ["inbox"]


def test_the_first_answer_wins_and_a_second_has_no_effect() -> None:
    first = stored(result(), answers="custom")
    (second,) = admit(view(answers={EventId("custom"): first}), [result(number=2)])
    assert (second.to, second.duplicate_of) == ("nowhere", first)
    same_request = admit(view(), [result(), result(number=2)])
    assert [admitted.answers for admitted in same_request] == ["custom", None]


def test_a_confirmation_said_again_has_no_effect() -> None:
    confirmed = view(confirmations={EventId("ask"): "allow"})
    (again,) = admit(confirmed, [confirm()])
    assert (again.to, again.needs_brain, again.duplicate_of) == ("nowhere", False, None)
    assert destinations(view(), confirm(), confirm()) == ["inbox", "nowhere"]


def test_a_result_after_an_interrupt_is_kept_without_effect() -> None:
    closed = stored(
        ev.AgentToolResult(id=EventId("closed"), tool_use_id=EventId("custom"), is_error=True),
        answers="custom",
    )
    (late,) = admit(view(answers={EventId("custom"): closed}), [result()])
    assert (late.to, late.answers) == ("log", None)


def test_what_changes_nothing_needs_no_brain() -> None:
    """A brain would find nothing to write, and the session would need one for ever."""
    closed = stored(
        ev.AgentToolResult(id=EventId("closed"), tool_use_id=EventId("custom"), is_error=True),
        answers="custom",
    )
    (late,) = admit(view(answers={EventId("custom"): closed}), [result()])
    assert not late.needs_brain
    first = stored(result(), answers="custom")
    blocked = view(blocked_on=("ask",), answers={EventId("custom"): first})
    assert [admitted.needs_brain for admitted in admit(blocked, [result(number=2), system()])] == [
        False
    ] * 2
    both = view(blocked_on=("ask", "custom"))
    assert [admitted.needs_brain for admitted in admit(both, [result(), system()])] == [True, False]


def test_a_system_message_follows_a_message_or_a_result_or_stands_alone() -> None:
    assert destinations(view(), system()) == ["inbox"]
    assert destinations(view(), message(), system()) == ["inbox", "inbox"]
    assert destinations(view(blocked_on=("custom",)), result(), system()) == ["log", "inbox"]


@pytest.mark.parametrize(
    ("where", "inputs", "error", "names"),
    [
        (view(archived_at=START), [message()], Conflict, "archived"),
        (view(status="terminated"), [message()], Conflict, "terminated"),
        (view(blocked_on=("ask",)), [message()], InvalidRequest, "events.0"),
        (view(blocked_on=("ask", "custom")), [confirm(), message()], InvalidRequest, "custom"),
        (view(), [confirm("nothing")], InvalidRequest, "nothing"),
        (view(), [confirm("custom")], InvalidRequest, "agent.tool_use"),
        (view(), [confirm("allowed")], InvalidRequest, "evaluated_permission"),
        (view(confirmations={EventId("ask"): "deny"}), [confirm()], InvalidRequest, "already settled"),
        (view(), [confirm(), confirm(says="deny")], InvalidRequest, "events.1"),
        (view(), [result("nothing")], InvalidRequest, "nothing"),
        (view(), [result("ask")], InvalidRequest, "custom tool use"),
        (view(), [interrupt(session_thread_id=ThreadId("other"))], InvalidRequest, "session_thread_id"),
        (view(), [system(), message()], InvalidRequest, "last"),
        (view(), [system(), system()], InvalidRequest, "at most one"),
        (view(), [interrupt(), system()], InvalidRequest, "directly follow"),
        (view(blocked_on=("ask",)), [system()], InvalidRequest, "tool result"),
        (
            view(inbox=[queued(message(), n) for n in range(INBOX_EVENTS_MAX)]),
            [message()],
            RateLimited,
            str(INBOX_EVENTS_MAX),
        ),
        (view(), [ev.SessionStatusRunning(id=EventId("x"))], InvalidRequest, "status_running"),
    ],
)
def test_refusals_say_what_is_wrong(
    where: View, inputs: list[ev.Event], error: type[CallerError], names: str
) -> None:
    with pytest.raises(error) as refused:
        admit(where, inputs)
    assert names in refused.value.message


def test_the_view_must_cover_what_the_inputs_name() -> None:
    assert referenced([message(), confirm(), result(), interrupt()]) == ["ask", "custom"]


def test_what_waits_is_bounded_in_bytes() -> None:
    """One request more, however large; then it has to be worked off, or interrupted."""
    first = queued(message())
    half = replace(first, body=first.body.ljust(INBOX_BYTES_MAX // 2))
    assert destinations(view(inbox=[half, half]), message()) == ["inbox"]
    over = [half, half, queued(message(), 3)]
    with pytest.raises(RateLimited, match="64 MiB"):
        destinations(view(inbox=over), message())
    assert destinations(view(inbox=over), interrupt()) == ["inbox"]


def test_a_full_inbox_still_takes_an_interrupt() -> None:
    """It is what empties it; but not without end either."""
    full = [queued(message(), number) for number in range(INBOX_EVENTS_MAX)]
    assert destinations(view(inbox=full), interrupt()) == ["inbox"]
    fuller = [*full, *(queued(interrupt(), len(full) + number) for number in range(INBOX_INTERRUPTS_MAX))]
    with pytest.raises(RateLimited):
        destinations(view(inbox=fuller), interrupt())
    with pytest.raises(RateLimited):
        destinations(view(inbox=full), interrupt(), message())


# -- budgets -----------------------------------------------------------------------------------------------

BUDGET = {"type": "limit", "max_list_cost": {"amount": "5", "currency": "USD"}}


def capped(cost: int = 5_000_000, **fields: Any) -> View:
    return view(budget=BUDGET, requests_cost=Decimal(cost), runtime_rate=Decimal(0), **fields)


def test_at_the_cap_only_what_settles_calls_is_taken() -> None:
    for refused in (message(), system()):
        with pytest.raises(InvalidRequest) as error:
            admit(capped(), [refused])
        for taken in TAKEN_AT_THE_CAP:
            assert taken in str(error.value)
    blocked = capped(blocked_on=("ask", "custom"), stop_reason="requires_action")
    assert destinations(blocked, confirm(), result(), interrupt()) == ["inbox", "log", "inbox"]
    with pytest.raises(InvalidRequest, match=r"events\.1\.type"):
        admit(capped(status="running"), [interrupt(), message()])
    assert destinations(capped(4_999_999), message()) == ["inbox"]


def test_the_cap_counts_the_time_that_is_still_running() -> None:
    running = capped(
        4_000_000,
        status="running",
        running_since=START,
        now=START + timedelta(hours=1),
    )
    rated = replace(running, record=replace(running.record, runtime_rate=Decimal(1_000_000)))
    assert destinations(running, message()) == ["inbox"]
    with pytest.raises(InvalidRequest, match="budget"):
        admit(rated, [message()])


def test_an_interrupt_of_a_paused_session_has_no_effect() -> None:
    (ignored,) = admit(capped(stop_reason="budget_reached"), [interrupt()])
    assert (ignored.to, ignored.duplicate_of, ignored.needs_brain) == ("nowhere", None, False)
    raised = capped(4_000_000, stop_reason="budget_reached")
    assert destinations(raised, interrupt()) == ["inbox"], "it goes on: that can be interrupted"
    assert destinations(capped(status="running"), interrupt()) == ["inbox"]


def test_a_budget_is_raised_or_removed_and_never_added() -> None:
    session = capped().record
    changed_budget(session, None, at=START)
    changed_budget(session, {**BUDGET, "max_list_cost": {"amount": "6", "currency": "USD"}}, at=START)
    for wanted, before, code in (
        (BUDGET, session, "budget_not_raised"),
        (BUDGET, replace(session, budget=None), "budget_create_only"),
    ):
        with pytest.raises(InvalidRequest) as error:
            changed_budget(before, wanted, at=START)
        assert error.value.error_code == code
