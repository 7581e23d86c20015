"""Laws of what the model is shown, however long a session gets and whatever happens meanwhile.

The model's window is small and enforced: what is longer is refused, as the real one does it. Results,
messages and summaries have any size; brains die between any two steps.
"""

import json
import random
from collections import Counter
from typing import Any

from corral.brain.actions import AskModel, Completion, Failed, Ran, Replied, RunTool
from corral.brain.context import build
from corral.brain.ports import ModelFailed, ModelReply, ModelRequest, Usage
from corral.session import events as ev
from corral.session.content import ToolResult
from corral.testing.messages_rules import CACHE_BREAKPOINTS_MAX, broken_rule
from tests.unit.brain.scene import MODELS, Scene, agent, text

HISTORIES = 30
STEPS = 100
WINDOW = 20_000  # tokens
TABLE = MODELS.extended(
    {"model": [{"ids": ["claude-narrow"], "context_window": WINDOW, "max_output": 2_000}]}
)
TASK = "The task: find the words of every file, and never forget the number 7719."


class Model:
    """Counts as the provider does, refuses what is too long, and says what the seed says."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.token_bytes = chance.choice((4, 4, 1.8))  # of JSON; we expect 3 until we know better
        self.asked: list[tuple[str, ModelRequest, bool]] = []  # request's event, what it was, for a summary
        self.refused: list[int] = []  # tokens of requests
        self.made = 0

    def answer(self, scene: Scene, action: AskModel) -> Completion:
        thread, chance = scene.state.primary, self.chance
        request = build(scene.state.session_id, thread, TABLE.resolve(thread.model))
        is_summary = thread.compacts is not None
        self.asked.append((action.request, request, is_summary))
        body = _body(request)
        assert broken_rule(body) is None, broken_rule(body)
        sent = json.dumps([request.system, request.tools, request.messages], ensure_ascii=False)
        tokens = int(len(sent.encode()) / self.token_bytes)
        has_reasons = tokens > WINDOW / 2 and chance.random() < 0.05  # of its own: the body's bytes, say
        if tokens > WINDOW or has_reasons:
            self.refused.append(tokens)
            return Failed(
                action=action,
                error=ModelFailed("too long", failure="context_overflow", retryable=False),
            )
        if is_summary:
            bad = chance.random() < 0.15
            said = [] if bad else [text("Summary: " + "so it went. " * chance.randrange(1, 200))]
            return self._reply(scene, action, said, "end_turn", tokens)
        draw = chance.random()
        if draw < 0.1:
            return self._reply(scene, action, [text("Done.")], "end_turn", tokens)
        if draw < 0.12:
            cut = [text("I was about to")]
            return self._reply(scene, action, cut, "model_context_window_exceeded", tokens)
        calls = []
        for _ in range(chance.choice((1, 1, 1, 1, 1, 1, 2, 5, 20))):
            self.made += 1
            calls.append(
                {"type": "tool_use", "id": f"toolu_{self.made}", "name": "read", "input": {"n": 1}}
            )
        thinking = {"type": "thinking", "thinking": "Hm.", "signature": f"s{self.made}"}
        return self._reply(scene, action, [thinking, *calls], "tool_use", tokens)

    def _reply(
        self, scene: Scene, action: AskModel, blocks: list[Any], stop_reason: str, tokens: int
    ) -> Replied:
        usage = Usage(input_tokens=tokens, output_tokens=len(json.dumps(blocks)) // 4)
        reply = ModelReply(content=blocks, stop_reason=stop_reason, usage=usage)
        return Replied(action=action, reply=reply, placement=scene.placement)


def _body(request: ModelRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "system": list(request.system),
        "tools": list(request.tools),
        "messages": list(request.messages),
    }


def _blocks(request: ModelRequest) -> list[str]:
    """Everything that is sent, in order, cache marks stripped."""
    told = [("tool", tool) for tool in request.tools] + [("system", block) for block in request.system]
    told += [(m["role"], block) for m in request.messages for block in m["content"]]
    return [
        role + json.dumps({key: value for key, value in block.items() if key != "cache_control"})
        for role, block in told
    ]


def _marks(request: ModelRequest) -> int:
    return sum("cache_control" in block for block in (*request.tools, *request.system)) + sum(
        "cache_control" in block for message in request.messages for block in message["content"]
    )


def _result(chance: random.Random) -> ToolResult:
    size = chance.choice((0, 10, 100, 100, 500, 1_000, 1_000, 3_000, 3_000, 30_000))
    words = chance.choice(("word ", "0f3a", "日本語", '"\\\n'))
    return ToolResult.text(words * (size // len(words.encode()) + 1), is_error=chance.random() < 0.1)


def play(seed: int) -> tuple[Scene, Model]:
    chance = random.Random(seed)
    snapshot = agent()
    snapshot["model"]["id"] = "claude-narrow"
    scene, model = Scene(snapshot), Model(chance)
    scene.models = TABLE
    scene.say(TASK)
    said = 0
    for _ in range(STEPS):
        if chance.random() < 0.04:
            scene.restart()
        if chance.random() < 0.05 and not scene.state.blocked_on:
            said += 1
            size = chance.choice((5, 5, 50, 3_000, 40_000))
            scene.say(f"message {said}: " + "please " * size)
        if chance.random() < 0.02:
            scene.send(ev.UserInterrupt)
        if chance.random() < 0.03:
            scene.send(ev.SystemMessage, content=[text("Be brief.")])
        completions: list[Completion] = []
        scene.step()
        scene.decide()
        for action in sorted(scene.in_flight, key=repr):
            if isinstance(action, AskModel):
                completions.append(model.answer(scene, action))
            elif isinstance(action, RunTool):
                completions.append(Ran(action=action, result=_result(chance)))
        scene.step(*completions)
        if scene.state.primary.status == "idle" and not scene.state.inbox:
            said += 1
            scene.say(f"message {said}")
    return scene, model


def check(scene: Scene, model: Model) -> Counter[str]:
    """Prefixes, marks, and what may never be lost."""
    starts = {new.event.id: new for new in scene.events if new.event.type == "span.model_request_start"}
    order = [new.event.id for new in scene.events]
    compacted = {new.event.id for new in scene.events if new.event.type.endswith("compacted")}
    cleared = {event_id for event_id, new in starts.items() if "clears" in (new.private or {})}
    points = [place for place, event_id in enumerate(order) if event_id in compacted | cleared]
    too_long = sum(tokens > WINDOW for tokens in model.refused)
    seen = Counter(refused=len(model.refused), too_long=too_long)
    seen += Counter(compacted=len(compacted), cleared=len(cleared))
    before: tuple[int, list[str]] | None = None
    for event_id, request, is_summary in model.asked:
        place, sent = order.index(event_id), _blocks(request)
        private = starts[event_id].private or {}
        is_shorter = before is not None and any(before[0] < point <= place for point in points)
        assert _marks(request) <= CACHE_BREAKPOINTS_MAX
        if is_summary and private["compacts"]["transcript_bytes"] is not None:
            seen["transcripts"] += 1
            continue
        seen["verbatim"] += is_summary
        if before is not None and not is_shorter:
            assert sent[: len(before[1])] == before[1], "a request begins with all of the one before"
            seen["continued"] += 1
        if not is_summary:
            told = "".join(sent)
            assert json.dumps(TASK)[1:-1] in told, "the task is never lost"
            before = (place, sent)
    return seen


def test_what_the_model_is_shown() -> None:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        try:
            scene, model = play(seed)
            seen += check(scene, model)
            again, now = scene.rebuilt().primary, scene.state.primary
            assert again.entries == now.entries
            assert (again.weight, again.measured_tokens) == (now.weight, now.measured_tokens)
            for new in scene.events:
                if new.event.type == "session.error":
                    seen[new.event.error["type"]] += 1  # type: ignore[attr-defined]
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    for what in ("refused", "compacted", "cleared", "transcripts", "verbatim", "continued"):
        assert seen[what] > HISTORIES / 10, (what, seen)
    assert seen["too_long"] < seen["continued"] / 50, seen
    assert not seen["compaction_limit_reached_error"], seen
