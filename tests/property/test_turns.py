"""Laws of every turn, whatever happens in whatever order: inputs, replies, failures, answers, crashes."""

from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.brain.scene import CUSTOM, Scene, agent, call, text

from corral.brain.actions import (
    Aborted,
    Action,
    AskModel,
    Backoff,
    Completion,
    Failed,
    Ran,
    RunTool,
    Stop,
    Waited,
)
from corral.brain.ports import ModelFailed
from corral.session import events as ev
from corral.session.content import ToolResult

REPLIES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "text": ([text("hi")], "end_turn"),
    "thinking": ([{"type": "thinking", "thinking": "", "signature": "s"}, text("hi")], "end_turn"),
    "call": ([call(1)], "tool_use"),
    "calls": ([text("a"), call(1), call(2), call(3, name="lookup")], "tool_use"),
    "custom": ([call(1, name="lookup")], "tool_use"),
    "unknown": ([call(1, name="teleport")], "tool_use"),
    "cut": ([text("so"), call(1)], "max_tokens"),
    "pause": ([text("searching")], "pause_turn"),
    "refusal": ([], "refusal"),
    "empty": ([], "end_turn"),
}

INPUTS = ["say", "system", "interrupt", "crash", "placement", "confirm", "deny", "custom"]
WORLD = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                ["say", "system", "interrupt", "crash", "placement", "confirm", "deny", "custom"]
            ),
            st.integers(0, 3),
        ),
        st.tuples(st.sampled_from(["reply"]), st.sampled_from(sorted(REPLIES))),
        st.tuples(st.sampled_from(["fail", "end"]), st.integers(0, 3)),
    ),
    max_size=40,
)


class World:
    """Plays moves against a scene, as loop, hands, model and clients would."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def play(self, move: str, detail: Any) -> None:
        scene = self.scene
        completions: list[Completion] = []
        asks = [call for call in self._waiting() if not call.is_custom]
        customs = [call for call in self._waiting() if call.is_custom]
        match move:
            case "say" if not scene.state.blocked_on:
                scene.say("words")
            case "system":
                scene.send(ev.SystemMessage, content=[text("be brief")])
            case "interrupt":
                scene.send(ev.UserInterrupt)
            case "crash":
                scene.epoch += 1
                scene.in_flight = set()
            case "placement":
                scene.placement = None if scene.placement else Scene().placement
            case "confirm" | "deny" if asks:
                scene.send(
                    ev.UserToolConfirmation,
                    tool_use_id=asks[detail % len(asks)].call_id,
                    result="allow" if move == "confirm" else "deny",
                )
            case "custom" if customs:
                scene.answer_custom(customs[detail % len(customs)].call_id)
            case "reply" if self._flying(AskModel):
                blocks, stop_reason = REPLIES[detail]
                completions.append(scene.reply(*blocks, stop_reason=stop_reason))
            case "fail" if self._flying(AskModel):
                error = ModelFailed("no", failure="overloaded", retryable=detail > 0)
                completions.append(Failed(action=self._flying(AskModel)[0], error=error))
            case "end":
                ending = self._flying(RunTool, Backoff)
                if ending:
                    completions.append(self._end(ending[detail % len(ending)]))
        self._advance(completions)

    def settle(self) -> None:
        """Let everything come to rest: tools end, the model has nothing more to say, clients answer."""
        for _ in range(200):
            self._advance([])
            for pending in self._waiting():
                if pending.is_custom:
                    self.scene.answer_custom(pending.call_id)
                elif not any(
                    getattr(waiting.event, "tool_use_id", None) == pending.call_id
                    for waiting in self.scene.state.inbox.values()
                ):
                    self.scene.send(ev.UserToolConfirmation, tool_use_id=pending.call_id, result="allow")
            if self._flying(AskModel):
                self._advance([self.scene.reply(text("done"))])
            elif ending := self._flying(RunTool, Backoff):
                self._advance([self._end(ending[0])])
            elif not self._waiting() and not self.scene.state.inbox:
                return
        raise AssertionError("the session never came to rest")

    def _advance(self, completions: list[Completion]) -> None:
        """As the loop does it: write, then start and stop; a stopped action ends at once."""
        self.scene.step(*completions)
        stopped = [action.action for action in self.scene.decide() if isinstance(action, Stop)]
        if stopped:
            self._advance([self._stopped(action) for action in stopped])

    def _stopped(self, action: Action) -> Completion:
        return self._end(action) if isinstance(action, RunTool) else Aborted(action=action)

    def _end(self, action: Action) -> Completion:
        if isinstance(action, RunTool):
            return Ran(action=action, result=ToolResult.text("ok"))
        assert isinstance(action, Backoff)
        return Waited(action=action)

    def _flying(self, *kinds: type[Action]) -> list[Any]:
        return sorted((a for a in self.scene.in_flight if isinstance(a, kinds)), key=repr)

    def _waiting(self) -> list[Any]:
        return [c for c in self.scene.state.primary.calls.values() if c.awaits_client]


seen: Counter[str] = Counter()  # types written over all examples: a law nobody reaches proves nothing


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["always_allow", "always_ask"]), WORLD)
def check_laws(policy: str, moves: list[tuple[str, Any]]) -> None:
    scene = Scene(agent(policy=policy, tools=[CUSTOM]))
    world = World(scene)
    for move, detail in moves:
        world.play(move, detail)
    world.settle()
    events = [new.event for new in scene.events]

    # every call is answered exactly once, and after it was made
    uses = [e.id for e in events if isinstance(e, ev.AgentToolUse | ev.AgentCustomToolUse)]
    answers = [new.answers for new in scene.events if new.answers is not None]
    assert sorted(answers) == sorted(uses)
    # every request is closed exactly once
    starts = [e.id for e in events if isinstance(e, ev.SpanModelRequestStart)]
    ends = [e.model_request_start_id for e in events if isinstance(e, ev.SpanModelRequestEnd)]
    assert starts == ends
    # every input is processed exactly once
    taken = [new.event.id for new in scene.events if new.arrival is not None]
    assert len(taken) == len(set(taken)) and sorted(taken) == sorted(scene.consumed)
    # usage comes directly before every session idle; running and idle alternate
    kinds = [e.type for e in events]
    for place, kind in enumerate(kinds):
        if kind == "session.status_idle":
            assert kinds[place - 2 : place] == ["session.thread_status_idle", "session.usage"]
    assert scene.state.status == "idle" and scene.state.running_since is None
    assert not scene.in_flight
    # stamps increase strictly
    stamps = [new.processed_at for new in scene.events]
    assert all(earlier < later for earlier, later in pairwise(stamps))
    # folding the log again gives the same conversation and the same sums
    again, now = scene.rebuilt().primary, scene.state.primary
    assert again.entries == now.entries
    assert (again.tokens, again.active_seconds, again.status) == (
        now.tokens,
        now.active_seconds,
        now.status,
    )
    conversation_is_valid(now.entries)
    seen.update(kinds)


def test_every_history_keeps_the_laws() -> None:
    check_laws()
    brain_writes = {
        *("session.status_running", "session.status_rescheduled", "session.status_idle", "session.error"),
        *(
            "agent.message",
            "agent.thinking",
            "agent.tool_use",
            "agent.custom_tool_use",
            "agent.tool_result",
        ),
        *("user.message", "user.interrupt", "user.tool_confirmation", "system.message"),
    }
    assert brain_writes <= seen.keys(), f"never happened: {brain_writes - seen.keys()}"


def conversation_is_valid(entries: list[Any]) -> None:
    """What every provider insists on: each tool use is answered before the assistant speaks again."""
    open_calls: set[str] = set()
    for entry in entries:
        if entry.role == "assistant":
            assert not open_calls
        for block in entry.content:
            if block["type"] == "tool_use":
                open_calls.add(block["id"])
            elif block["type"] == "tool_result":
                open_calls.remove(block["tool_use_id"])
    assert not open_calls
