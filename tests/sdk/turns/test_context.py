"""Sessions that outgrow their model's window, and an agent that reads its own log back."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from corral.brain.summary import INSTRUCTION
from corral.testing.messages_api import Request
from corral.testing.messages_reply import Answer, HttpError, Reply
from corral.testing.messages_window import TOKEN_BYTES, Window
from tests.served import text
from tests.stage import NARROW, NARROW_TOKENS, Stage, words

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARTS, AT_ONCE, LINES = 156, 3, 180
NEEDED = (1, PARTS // 2, PARTS)
TASK = f"Read part1.txt to part{PARTS}.txt in order. Then tell me the words of FACT {NEEDED}."
PREPARE = f"""python3 -c 'import hashlib
for n in range(1, {PARTS + 1}):
    word = hashlib.sha256(str(n).encode()).hexdigest()[:12]
    text = f"line {{n}} of nothing much\\n" * {LINES} + f"FACT {{n}} {{word}}\\n"
    open(f"part{{n}}.txt", "w").write(text)'
"""


def fact(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:12]


class Reader:
    """Plays a model that knows only what the request holds: the task, and what it read or wrote down."""

    def __init__(self) -> None:
        self.window = Window(tokens=NARROW_TOKENS)
        self.told: set[str] = set()  # every block it was ever sent, or said

    def __call__(self, request: Request) -> Answer:
        too_long = self.window.refusal(request.json)
        return too_long or self.window.counted(request.json, self._answer(request.json))

    def _answer(self, body: Mapping[str, Any]) -> Reply:
        blocks = [block for message in body["messages"] for block in message["content"]]
        self.told |= {
            json.dumps({k: v for k, v in block.items() if k != "cache_control"}) for block in blocks
        }
        told = "\n".join(map(_told, blocks))
        known = {int(n): word for n, word in re.findall(r"FACT (\d+) ([0-9a-f]{12})", told)}
        read = max((int(n) for n in re.findall(r"(?:cat|to) part(\d+)", told.replace(TASK, ""))), default=0)
        noted = "\n".join(f"FACT {n} {known[n]}" for n in NEEDED if n in known)
        if INSTRUCTION in told:
            return Reply.text(f"I have read part1 to part{read}.txt. Noted:\n{noted}")
        if TASK not in told:
            return Reply.text("What was I to do?")
        # What a tool said is cleared some day: as the system prompt advises, what counts is noted at once.
        new = "\n".join(map(_told, body["messages"][-1]["content"]))
        say = "\n".join(f"FACT {n} {known[n]}" for n in NEEDED if f"FACT {n} " in new)
        if read == 0:
            return self._calls("", PREPARE, *(f"cat part{n}.txt" for n in range(1, AT_ONCE)))
        if read < PARTS:
            return self._calls(
                say, *(f"cat part{n}.txt" for n in range(read + 1, min(read + AT_ONCE, PARTS) + 1))
            )
        return Reply.text(noted)

    def _calls(self, say: str, *commands: str) -> Reply:
        base = len(self.told)
        thinking = {"type": "thinking", "thinking": "On it.", "signature": f"sig{base}"}
        calls = [
            {"type": "tool_use", "id": f"toolu_{base}_{n}", "name": "bash", "input": {"command": command}}
            for n, command in enumerate(commands)
        ]
        said = [{"type": "text", "text": f"{say}\n{'This part says nothing of note. ' * 60}".strip()}]
        return Reply(content=[thinking, *said, *calls], stop_reason="tool_use")


def _told(block: Mapping[str, Any]) -> str:
    if block["type"] == "tool_use":
        return str(block["input"].get("command", ""))
    if block["type"] == "tool_result":
        return "\n".join(map(_told, block["content"]))
    return str(block.get("text", ""))


async def test_ten_times_the_window_without_losing_the_task(stage: Stage) -> None:
    reader = Reader()
    stage.script = reader
    session = await stage.session(model=NARROW)
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text(TASK))
        idle = await tail.idle(seconds=280)
    assert idle.stop_reason.type == "end_turn"
    answer = tail.of("agent.message")[-1]
    assert words(answer).split("\n") == [f"FACT {n} {fact(n)}" for n in NEEDED]
    through = sum(map(len, reader.told)) // TOKEN_BYTES
    summaries = len(tail.of("agent.thread_context_compacted"))
    window = reader.window
    print(
        f"{through} tokens through a window of {window.tokens} ({through / window.tokens:.1f} times),"
        f" {len(stage.requests)} requests, {summaries} summaries, {window.refused} refused as too long,"
        f" {window.cached_tokens / window.prompt_tokens:.0%} of the prompts from the cache"
    )
    assert through >= 10 * window.tokens
    assert summaries >= 2
    assert window.refused == 0
    assert window.cached_tokens > 0
    # Summaries are requests like any other: in the log, and counted.
    usage = (await stage.client.beta.sessions.retrieve(session.id)).usage
    counted = usage.input_tokens + usage.cache_read_input_tokens
    counted += usage.cache_creation.ephemeral_5m_input_tokens
    assert counted == window.prompt_tokens
    assert len(tail.of("span.model_request_end")) == len(stage.requests)


async def test_what_the_provider_finds_too_long_is_made_shorter(stage: Stage) -> None:
    stage.play(
        Reply.tools(("toolu_1", "bash", {"command": "yes some words | head -c 60000"})),
        Reply.text("Many words."),
        HttpError.prompt_too_long(),
        Reply.text("They were words."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Look."))
        await tail.idle()
        await stage.send(session.id, text("What were they?"))
        assert (await tail.idle(2)).stop_reason.type == "end_turn"
    assert [words(event) for event in tail.of("agent.message")] == ["Many words.", "They were words."]
    assert not tail.of("session.error")
    assert [event.is_error for event in tail.of("span.model_request_end")] == [False, False, True, False]
    last = json.dumps(stage.requests[-1].json["messages"])
    assert "What were they?" in last and "Look." in last
    assert "was cleared to save room" in last and "some words" not in last.replace("yes some words", "")


async def test_a_conversation_that_never_fits_ends_the_turn(stage: Stage) -> None:
    too_long = HttpError.prompt_too_long()
    stage.script = lambda _: Reply.text("Well. " * 3_000) if len(stage.requests) < 4 else too_long
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        for number in range(1, 5):
            await stage.send(session.id, text("Hello. " * 3_000))
            idle = await tail.idle(number)
    assert idle.stop_reason.type == "retries_exhausted"
    (error,) = tail.of("session.error")
    assert error.error.type == "compaction_limit_reached_error"
    assert error.error.retry_status.type == "exhausted"
    assert "prompt is too long" in error.error.message
    assert len(stage.requests) <= 12


async def test_an_agent_reads_its_own_log(stage: Stage) -> None:
    log = "/mnt/session/log"
    stage.play(
        Reply.tools(("toolu_1", "bash", {"command": "seq 1 9000; echo the end"})),
        Reply.tools(
            ("toolu_2", "read", {"file_path": f"{log}/events.jsonl", "view_range": [3, 8]}),
            ("toolu_3", "read", {"file_path": f"{log}/7.txt", "view_range": [8998, -1]}),
            ("toolu_7", "read", {"file_path": f"{log}/7.txt"}),
            ("toolu_4", "read", {"file_path": f"{log}/../log/999.txt"}),
            ("toolu_5", "read", {"file_path": log}),
            ("toolu_6", "bash", {"command": f"cat {log}/events.jsonl"}),
        ),
        Reply.text("Read."),
    )
    session = await stage.session()
    async with stage.watch(session.id) as tail:
        await stage.send(session.id, text("Look back."))
        await tail.idle()
    results = {event.tool_use_id: words(event) for event in tail.of("agent.tool_result")}
    uses = [event.id for event in tail.of("agent.tool_use")]
    _, lines, event, whole, missing, directory, shell = (results[use] for use in uses)
    rows = [json.loads(line) for line in lines.split("\n")]
    assert [row["line"] for row in rows] == [3, 4, 5, 6, 7, 8]
    history = await stage.history(session.id)
    assert [row["id"] for row in rows] == [event.id for event in history[2:8]]
    assert "private" not in lines and len(lines) < 10_000
    assert event == "8998\n8999\n9000\nthe end"
    *shown, more = whole.split("\n")
    assert shown == [str(n + 1) for n in range(len(shown))] and len(whole) < 31_000
    assert more == f"(read on from line {len(shown) + 1}: view_range [{len(shown) + 1}, -1])"
    assert "no such event" in missing and "events.jsonl" in directory and "No such file" in shell
    assert log in json.dumps(stage.requests[0].json["system"])
