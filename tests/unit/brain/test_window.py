"""When a conversation is made shorter, and how."""

from typing import Any

import pytest

from corral.brain.window import TooLong, output_tokens, plan
from corral.kernel.limits import COMPACTIONS_MAX
from corral.session.content import text_block
from corral.session.conversation import Entry
from corral.session.state import Thread
from tests.unit.brain.scene import MODELS, START, THREAD, agent

INFO = MODELS.extended(
    {"model": [{"ids": ["claude-narrow"], "context_window": 12_000, "max_output": 2_000}]}
).resolve("claude-narrow")
LOCAL = MODELS.resolve("local")


def thread(*entries: Entry, measured: int = 0) -> Thread:
    made = Thread(thread_id=THREAD, parent_thread_id=None, agent=agent(), created_at=START)
    for entry in entries:
        made.add(entry)
    made.measured_tokens, made.measured_weight = measured, made.weight if measured else 0
    return made


def rounds(count: int, result_bytes: int, words: int = 0) -> list[Entry]:
    """A task, and rounds of a call and its result."""
    entries = [Entry("user", (text_block("The task."),), 1)]
    for seq in range(2, 2 + 2 * count, 2):
        call = {"type": "tool_use", "id": f"t{seq}", "name": "bash", "input": {}}
        entries.append(Entry("assistant", (text_block("w" * words), call), seq))
        content = [text_block("r" * result_bytes)]
        answer = {"type": "tool_result", "tool_use_id": f"t{seq}", "content": content}
        entries.append(Entry("user", (answer,), seq + 1))
    return entries


def planned(made: Thread, info: Any = INFO) -> Any:
    return plan(made, info, lambda: 3_000)


def test_a_short_conversation_is_left_alone() -> None:
    assert planned(thread(*rounds(3, 1_000))) == {}
    assert planned(thread(*rounds(3, 1_000), measured=5_000)) == {}


def test_old_results_are_cleared_once_that_makes_room() -> None:
    made = planned(thread(*rounds(20, 1_000)))
    assert set(made) == {"clears"} and made["clears"]["block_bytes"] is None
    assert 2 < made["clears"]["through"] < 39, "the newest stay"
    assert planned(thread(*rounds(20, 10, words=900))) == {}, "there is nothing to clear"


def test_a_summary_is_asked_for_of_the_conversation_as_it_stands() -> None:
    made = planned(thread(*rounds(20, 10, words=1_250)))
    assert made["compacts"]["transcript_bytes"] is None
    assert 30 < made["compacts"]["through"] < 39, "the newest steps stay"


def test_a_model_that_only_acts_is_given_a_transcript() -> None:
    assert output_tokens(LOCAL) == 1_024
    made = planned(thread(*rounds(20, 10, words=900)), LOCAL)
    assert made["compacts"]["transcript_bytes"] > 5_000


def test_what_is_new_and_too_large_is_cut() -> None:
    made = planned(thread(*rounds(1, 200_000)))
    assert set(made) == {"clears"}
    assert 10_000 < made["clears"]["block_bytes"] < 24_000


def test_after_an_overflow_half_as_much_is_aimed_at() -> None:
    long = thread(*rounds(4, 20, words=900), measured=3_000)
    assert planned(long) == {}
    long.overflow, long.overflows = "prompt is too long", 1
    first = planned(long)["compacts"]
    assert first["transcript_bytes"] is not None
    long.overflows = 2
    assert planned(long)["compacts"]["transcript_bytes"] < first["transcript_bytes"]


def test_there_is_an_end_to_it() -> None:
    long = thread(*rounds(4, 20, words=900))
    long.overflow, long.overflows, long.compactions = "prompt is too long", 3, COMPACTIONS_MAX
    with pytest.raises(TooLong):
        planned(long)
    short = thread(*rounds(0, 0))
    short.overflow, short.overflows = "prompt is too long", 1
    with pytest.raises(TooLong):
        planned(short)


def test_nothing_comes_behind_a_paused_reply() -> None:
    paused = thread(*rounds(20, 1_000), Entry("assistant", (text_block("Searching."),), 50))
    paused.wants_model = True
    assert paused.is_paused
    made = planned(paused)
    assert made == {} or made["compacts"]["through"] == 50


def test_a_summary_that_was_too_long_is_summarised() -> None:
    summary = Entry("user", (text_block("s" * 20_000),), 9, kept="summary")
    task = Entry("user", (text_block("The task."),), 1, kept="task")
    latest = Entry("user", (text_block("Go on."),), 5, kept="request")
    long = thread(task, summary, latest)
    assert planned(long) == {}
    long.overflow, long.overflows, long.compactions = "prompt is too long", 1, 1
    made = planned(long)["compacts"]
    assert made["through"] == 9 and made["summary_bytes"] < 10_000
