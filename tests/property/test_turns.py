"""Laws of every turn, whatever happens in whatever order: inputs, replies, failures, answers, crashes."""

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

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
from corral.brain.derive import cost
from corral.brain.judge import UNDECIDED, Judgement
from corral.brain.ports import ModelFailed
from corral.catalog.models import MICROCENTS_PER_CENT
from corral.session import events as ev
from corral.session.budget import cap
from corral.session.content import ToolResult
from corral.session.fold import fold
from corral.session.state import PendingCall, begin
from tests.unit.brain.scene import CUSTOM, MODELS, PLACEMENT, Scene, agent, call, text
from tests.unit.brain.test_budget import budget, change

HISTORIES = 400
TICK_COST = 20_000  # what 20 ms of running cost here: the clock moves between the gate and the event

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

JUDGEMENTS = [  # of policy `auto`; the others need none
    UNDECIDED,
    Judgement(permission="allow"),
    Judgement(permission="deny", reason_code="high_risk"),
]


class World:
    """Plays moves against a scene, as loop, hands, model and clients would."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def play(self, chance: random.Random) -> None:
        """One move out of those that are possible now."""
        scene, completions = self.scene, list[Completion]()
        asks = [c for c in self._waiting() if c.awaits_confirmation and not self._is_confirmed(c)]
        customs = [call for call in self._waiting() if call.is_custom]
        remotes = [call for call in self._waiting() if call.awaits_worker]
        ending = self._flying(RunTool, Backoff)
        moves = ["system", "interrupt", "crash", "placement"]
        moves += [] if scene.state.blocked_on else ["say"] * 4
        moves += ["confirm", "confirm", "deny"] if asks else []
        moves += ["custom"] * 2 if customs else []
        moves += ["remote"] * 4 if remotes else []
        moves += ["reply"] * 8 + ["fail"] if self._flying(AskModel) else []
        moves += ["end"] * 6 if ending else []
        moves += ["budget"] if scene.state.budget else []
        match chance.choice(moves):
            case "say":
                scene.say("words")
            case "system":
                scene.send(ev.SystemMessage, content=[text("be brief")])
            case "interrupt":
                scene.send(ev.UserInterrupt)
            case "crash":
                scene.restart()
            case "placement":
                scene.placement = None if scene.placement else PLACEMENT
            case "confirm":
                self._confirm(chance.choice(asks), "allow")
            case "deny":
                self._confirm(chance.choice(asks), "deny")
            case "custom":
                scene.answer_custom(chance.choice(customs).call_id)
            case "remote":
                scene.answer_remote(chance.choice(remotes).call_id)
            case "reply":
                blocks, stop_reason = REPLIES[chance.choice(sorted(REPLIES))]
                judgements = {block["id"]: chance.choice(JUDGEMENTS) for block in blocks if "id" in block}
                reply = scene.reply(*blocks, stop_reason=stop_reason)
                completions.append(replace(reply, judgements=judgements))
            case "fail":
                error = ModelFailed("no", failure="overloaded", retryable=chance.random() < 0.8)
                completions.append(Failed(action=self._flying(AskModel)[0], error=error))
            case "end":
                completions.append(self._end(chance.choice(ending)))
            case "budget":
                self._change_budget(chance.choice((None, 2, 3)))
        self._advance(completions)

    def settle(self) -> None:
        """Let everything come to rest: tools end, the model has nothing more to say, clients answer."""
        for _ in range(200):
            self._advance([])
            pending_calls = self._waiting()
            for pending in pending_calls:
                if pending.is_custom:
                    self.scene.answer_custom(pending.call_id)
                elif pending.awaits_worker:
                    self.scene.answer_remote(pending.call_id)
                elif not self._is_confirmed(pending):
                    self._confirm(pending, "allow")
            if self._flying(AskModel):
                self._advance([self.scene.reply(text("done"))])
            elif ending := self._flying(RunTool, Backoff):
                self._advance([self._end(ending[0])])
            elif not pending_calls and not self.scene.state.inbox:
                if not self.scene.state.primary.awaits_budget:
                    return  # what was answered just now is looked at once more
                self._change_budget(None)
        raise AssertionError("the session never came to rest")

    def _change_budget(self, times: int | None) -> None:
        """To so many times what it has cost, or to none; see `session.budget.changed_budget`."""
        scene = self.scene
        spent = cost(scene.state, MODELS, at=scene.state.last_at)
        change(scene, None if times is None else budget(int(spent / MICROCENTS_PER_CENT) * times + 1))

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

    def _confirm(self, pending: PendingCall, result: str) -> None:
        self.scene.send(ev.UserToolConfirmation, tool_use_id=pending.call_id, result=result)

    def _is_confirmed(self, pending: PendingCall) -> bool:
        """A confirmation waits in the inbox: another one would be refused."""
        waiting = self.scene.state.inbox.values()
        return any(getattr(entry.event, "tool_use_id", None) == pending.call_id for entry in waiting)

    def _waiting(self) -> list[Any]:
        return [c for c in self.scene.state.primary.calls.values() if c.awaits_client]


def check_laws(seed: int) -> Counter[str]:
    """Play one random history to its rest; returns how often each type was written."""
    chance = random.Random(seed)
    scene = Scene(
        agent(policy=chance.choice(["always_allow", "always_ask", "auto"]), tools=[CUSTOM]),
        environment="self_hosted" if chance.random() < 0.3 else "cloud",
    )
    if chance.random() < 0.4:
        # a reply of the scene costs a hundredth of a cent: its running time makes the most of it
        scene.record = replace(
            scene.record, budget=budget(chance.choice((1, 3, 9))), runtime_rate=Decimal(3_600_000_000)
        )
        scene.state = begin(scene.record)
    world = World(scene)
    for _ in range(chance.randrange(60)):
        world.play(chance)
    world.settle()
    events = [new.event for new in scene.events]

    # every call is answered exactly once, and after it was made
    uses = [e.id for e in events if isinstance(e, ev.AgentToolUse | ev.AgentCustomToolUse)]
    answers = [new.answers for new in scene.events if new.answers is not None]
    assert sorted(answers) == sorted(uses)
    # no hands are asked for what workers do; and only an answer of their kind keeps them from it
    remote = {new.event.id for new in scene.events if (new.private or {}).get("remote")}
    kept_off = {e.id for e in events if getattr(e, "evaluated_permission", None) == "deny"}
    for event in events:
        if isinstance(event, ev.AgentToolResult):
            assert event.tool_use_id not in remote - kept_off
        elif isinstance(event, ev.UserToolResult):
            assert event.tool_use_id in remote
    # every request is closed exactly once
    starts = [e.id for e in events if isinstance(e, ev.SpanModelRequestStart)]
    ends = [e.model_request_start_id for e in events if isinstance(e, ev.SpanModelRequestEnd)]
    assert starts == ends
    # every input is processed exactly once
    taken = [new.event.id for new in scene.events if new.arrival is not None]
    assert len(taken) == len(set(taken)) and set(taken) == scene.sent
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
    requests_are_within_the_budget(scene)
    stops = [f"stopped: {e.stop_reason['type']}" for e in events if isinstance(e, ev.SessionStatusIdle)]
    return Counter([*kinds, *stops])


def requests_are_within_the_budget(scene: Scene) -> None:
    """None begins once the budget of that moment is used up."""
    state = begin(scene.record)
    for new in scene.events:
        if isinstance(new.event, ev.SpanModelRequestStart) and state.budget is not None:
            assert cost(state, MODELS, at=new.processed_at) < cap(state.budget) + TICK_COST
        fold(
            state,
            new.event,
            thread_id=new.thread_id,
            at=new.processed_at,
            private=new.private,
            answers=new.answers,
        )


BRAIN_WRITES = {
    "session.status_running",
    "session.status_rescheduled",
    "session.status_idle",
    "session.error",
    "agent.message",
    "agent.thinking",
    "agent.tool_use",
    "agent.custom_tool_use",
    "agent.tool_result",
    "user.tool_result",
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "system.message",
    "stopped: end_turn",
    "stopped: requires_action",
    "stopped: budget_reached",
}


def test_every_history_keeps_the_laws() -> None:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        try:
            seen += check_laws(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert min(seen[kind] for kind in BRAIN_WRITES) > 20, seen  # a law nobody reaches proves nothing


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
