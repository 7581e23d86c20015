"""How a conversation is made shorter, and what stays."""

import pytest

from corral.session.content import text_block
from corral.session.conversation import (
    CLEARED,
    IMAGE_BYTES,
    Entry,
    clear,
    compact,
    cut,
    entry_weight,
    even_cut,
    leave_out,
    newest,
    shortened,
    weight,
)


def said(role: str, words: str, seq: int) -> Entry:
    return Entry(role, (text_block(words),), seq)  # type: ignore[arg-type]


def asks(seq: int) -> Entry:
    return Entry("assistant", ({"type": "tool_use", "id": f"t{seq}", "name": "bash", "input": {}},), seq)


def result(words: str, seq: int) -> Entry:
    block = {"type": "tool_result", "tool_use_id": f"t{seq - 1}", "content": [text_block(words)]}
    return Entry("user", (block,), seq)


LONG = "word " * 1_000
TALK = [
    said("system", "Be brief.", 1),
    said("user", "The task.", 2),
    asks(3),
    result(LONG, 4),
    said("assistant", "Found.", 5),
    said("user", "And now this.", 6),
    asks(7),
    result(LONG, 8),
]


def test_weight_is_bytes_of_text_and_what_pictures_cost() -> None:
    assert weight("abc") == 3
    assert weight("日本") == 6
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "x" * 10**6},
    }
    assert weight(picture) == IMAGE_BYTES
    assert weight("\ud800") == 3, "half a character, as a model may write it"


def test_old_results_become_notes_and_nothing_else_changes() -> None:
    cleared = clear(TALK, through=4, block_bytes=None)
    assert cleared[3].content[0]["content"] == [text_block(CLEARED.format(seq=4))]
    assert cleared[3].content[0]["tool_use_id"] == "t3"
    assert [*cleared[:3], *cleared[4:]] == [*TALK[:3], *TALK[4:]]
    assert clear(cleared, through=4, block_bytes=None) == cleared


def test_a_cut_keeps_head_and_tail_and_is_made_once() -> None:
    entry = result("head " + LONG + " tail", 4)
    shorter = cut(entry, 600)
    text = shorter.content[0]["content"][0]["text"]
    assert text.startswith("head") and text.endswith("tail") and "line 4 of the session's log" in text
    assert entry_weight(shorter) < 700
    assert cut(said("assistant", LONG, 5), 100) == said("assistant", LONG, 5), "it is never edited"
    assert shortened("short", 600, 1) == "short"


@pytest.mark.parametrize(
    ("weights", "total", "each"),
    [([10, 20, 30], 100, 30), ([10, 100, 100], 110, 50), ([100] * 4, 40, 10), ([], 10, 0), ([5], -1, 0)],
)
def test_the_largest_parts_pay_first(weights: list[int], total: int, each: int) -> None:
    assert even_cut(weights, total) == each
    assert sum(min(part, each) for part in weights) <= max(total, 0)


def test_what_a_summary_leaves() -> None:
    shorter = compact(TALK, summary="We looked.", through=6, task_bytes=2_000, block_bytes=300)
    assert [(entry.role, entry.kept) for entry in shorter] == [
        ("system", None),
        ("user", "task"),
        ("user", "summary"),
        ("user", "request"),
        ("assistant", None),
        ("user", None),
    ]
    assert shorter[1].content == TALK[1].content and shorter[3].content == TALK[5].content
    assert "We looked." in shorter[2].content[0]["text"]
    assert entry_weight(shorter[5]) < 400, "what is new to the model is cut if it has to be"


def test_a_second_summary_takes_the_place_of_the_first() -> None:
    first = compact(TALK, summary="One.", through=6, task_bytes=2_000, block_bytes=9_000)
    more = [*first, said("assistant", "On it.", 9), said("user", "Hurry.", 10), asks(11), result("ok", 12)]
    second = compact(more, summary="Two.", through=10, task_bytes=2_000, block_bytes=9_000)
    told = str([entry.content for entry in second])
    assert "Two." in told and "One." not in told
    assert [entry.kept for entry in second[:4]] == [None, "task", "summary", "request"]
    assert "The task." in told and "Hurry." in told and "And now this." not in told


def test_what_is_new_to_the_model() -> None:
    assert newest(TALK) == 6, "a result comes with its call"
    assert newest(TALK[:6]) == 5
    assert newest(compact(TALK[:4], summary="One.", through=4, task_bytes=9, block_bytes=9)) == 3


def test_what_a_compaction_kept_is_not_left_out() -> None:
    shorter = compact(TALK[:6], summary="We looked.", through=6, task_bytes=2_000, block_bytes=300)
    left = leave_out([*shorter, said("user", "Bad words.", 7)], is_repeated=False)
    assert left == shorter
