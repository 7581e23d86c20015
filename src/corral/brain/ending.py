"""Why a turn is ended before the model ends it: a bound, an operator, or brains that die at it. Pure.

What is in flight is stopped first, as for an interrupt (`decide` takes the threads of `out_of_time`); then
`turn` writes a `session.error` that says what happened and what to do, and the session is idle with
`retries_exhausted`. Source: docs/DIVERGENCES.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from corral.catalog.toolset import check_web_settings
from corral.catalog.web.settings import WEB_TOOLS
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import ThreadId
from corral.kernel.limits import (
    MOUNT_FAILURES_MAX,
    SESSION_FAILURES_MAX,
    TOOL_ROUNDS_PER_TURN_MAX,
    TURN_SECONDS_MAX,
    TURN_TOKENS_MAX,
)
from corral.session import events as ev
from corral.session.closing import LEFT_BEHIND as LEFT_BEHIND
from corral.session.state import State, Thread

NEVER_RAN = "This tool call was not run: the turn was ended before."


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnLimits:
    """What one turn may take at most, per thread. Waiting for the client is no part of a turn's time.

    rounds_max: model replies. seconds_max: from its begin, also while backed off. tokens_max: read,
    written and cached, of all its requests.
    """

    rounds_max: int = TOOL_ROUNDS_PER_TURN_MAX
    seconds_max: float = TURN_SECONDS_MAX
    tokens_max: int = TURN_TOKENS_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The `session.error` that ends a turn; `message` is for the session's user."""

    error_type: str
    message: str


def of_time(thread: Thread, limits: TurnLimits, *, now: datetime) -> Ending | None:
    """The turn has taken too long: it is stopped, whatever it is doing."""
    if thread.working_since is None or thread.turn_seconds(now) < limits.seconds_max:
        return None
    return _bound(f"worked for {thread.turn_seconds(now):.0f} s", limits.seconds_max, "turn_seconds_max")


def of_size(thread: Thread, limits: TurnLimits) -> Ending | None:
    """The turn may not make another model request."""
    if thread.rounds >= limits.rounds_max:
        return Ending(
            error_type="tool_use_limit_reached_error",
            message=f"The turn made {thread.rounds} model requests, the most that one turn may make"
            " (turn_rounds_max). Send a message to go on.",
        )
    if thread.turn_tokens >= limits.tokens_max:
        return _bound(f"used {thread.turn_tokens} tokens", limits.tokens_max, "turn_tokens_max")
    return None


def of_window(thread: Thread) -> Ending:
    """The conversation was made as short as it can be, and the provider still finds it too long."""
    summed_up = f" It was summarised {thread.compactions} times in a row." if thread.compactions else ""
    return Ending(
        error_type="compaction_limit_reached_error" if thread.compactions else "model_request_failed_error",
        message=f"{thread.overflow} The conversation cannot be made shorter.{summed_up} Send a shorter"
        " message, or shorten the agent's system prompt or tools.",
    )


def _bound(what: str, bound: float, setting: str) -> Ending:
    return Ending(
        error_type="unknown_error",
        message=f"The turn {what}, and one turn may take {bound:.0f} ({setting}). Send a message to go on.",
    )


def of_poison(state: State, thread: Thread, *, failures: int) -> Ending | None:
    """Brain after brain has died at this session: nothing of it is tried again."""
    has_inputs = any(
        (waiting.thread_id or state.primary_thread_id) == thread.thread_id
        for waiting in state.inbox.values()
    )
    has_work = thread.status in ("running", "rescheduling") or bool(thread.calls) or has_inputs
    if failures < SESSION_FAILURES_MAX or not has_work:
        return None
    return Ending(error_type="unknown_error", message=poisoned(failures))


def poisoned(failures: int) -> str:
    """What the user of a session is told that kills its brains."""
    return (
        f"The brain failed {failures} times in a row at this session, so its turn was ended. Inputs that"
        " waited were dropped. Send a message to try again; if it fails again, start a new session, and"
        " look into the server's log for why."
    )


def of_settings(state: State, thread: Thread) -> Ending | None:
    """The model calls a web tool whose settings are valid no more. Source: API docs, tools."""
    for name in {call.name for call in thread.calls.values()}.intersection(WEB_TOOLS):
        try:
            check_web_settings(thread.agent["tools"], state.environment, name)
        except InvalidRequest as error:
            return Ending(
                error_type="unknown_error",
                message=f"The settings of {name} are no longer valid: {error.message}. Update the session's"
                " agent, and send a message to go on.",
            )
    return None


def lacks(state: State) -> bool:
    """A mount that the session needs could not be had, again and again: its turn ends, as has been said."""
    return state.needed_failures >= MOUNT_FAILURES_MAX


def of_kill(state: State, thread_id: ThreadId) -> Ending | None:
    """An operator stops the session; the reason came with the interrupt that waits."""
    for waiting in state.inbox.values():
        kill = (waiting.private or {}).get("kill")
        if kill is not None and isinstance(waiting.event, ev.UserInterrupt):
            reason = kill.get("reason") or "no reason was given"
            return Ending(error_type="unknown_error", message=f"Stopped by an operator: {reason}")
    return None


def out_of_time(state: State, limits: TurnLimits, *, now: datetime) -> frozenset[ThreadId]:
    """The threads whose time is up: whatever they have in flight is to be stopped."""
    return frozenset(
        thread.thread_id
        for thread in state.threads.values()
        if of_time(thread, limits, now=now) is not None
    )


def seconds_left(state: State, limits: TurnLimits, *, now: datetime) -> float:
    """Until the first working thread is out of time; infinite if none works."""
    return min(_left(state, limits, now), default=float("inf"))


def _left(state: State, limits: TurnLimits, now: datetime) -> Iterator[float]:
    for thread in state.threads.values():
        if thread.working_since is not None:
            yield max(0.0, limits.seconds_max - thread.turn_seconds(now))
