"""What a person sees of events, and what an agent cannot make them see."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from corral.cli.render import Renderer, cost, diff_text, print_table, safe, shortened
from corral.kernel.limits import CLI_OUTPUT_LINES_MAX
from corral.session.events import EVENT_TYPES


def shown(*events: Mapping[str, object]) -> str:
    out = io.StringIO()
    renderer = Renderer(Console(file=out, width=200, highlight=False))
    for number, event in enumerate(events):
        renderer.show({"id": f"sevt_{number}", "processed_at": "2026-11-20T10:00:00Z", **event})
    return out.getvalue()


def text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "user.message", "content": text("hello")}, "   you  hello\n"),
        ({"type": "agent.thinking"}, " think  …\n"),
        ({"type": "agent.message", "content": text("one\ntwo")}, " agent  one\n        two\n"),
        ({"type": "agent.tool_use", "name": "bash", "input": {"command": "ls"}}, "  bash  ls\n"),
        ({"type": "agent.tool_use", "name": "read", "input": {"file_path": "/a"}}, "  read  /a\n"),
        (
            {"type": "agent.tool_use", "name": "edit",
             "input": {"file_path": "/a", "old_string": "x", "new_string": "y"}},
            "  edit  /a\n        - x\n        + y\n",
        ),
        ({"type": "agent.custom_tool_use", "name": "ask", "input": {"q": 1}}, '   ask  {"q": 1}\n'),
        ({"type": "agent.tool_result", "content": text("out")}, "        out\n"),
        ({"type": "agent.tool_result"}, "        (no output)\n"),
        ({"type": "session.status_idle", "stop_reason": {"type": "end_turn"}}, "status  idle (end turn)\n"),
        (
            {"type": "session.error", "error": {"type": "overloaded", "message": "later"}},
            " error  overloaded: later\n",
        ),
        (
            {"type": "session.usage",
             "usage": {"input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 7,
                       "list_cost": {"amount": "3.5", "currency": "USD"}}},
            " usage  1,500 tokens in (500 cached), 7 out, $0.035\n",
        ),
        (
            {"type": "user.tool_confirmation", "result": "deny", "deny_message": "no"},
            "   you  denied: no\n",
        ),
        ({"type": "span.model_request_start"}, ""),
        ({"type": "from.the.future"}, ""),
        ({"type": "line"}, ""),
    ],
)  # fmt: skip
def test_events(event: dict[str, object], expected: str) -> None:
    assert shown(event) == expected


def test_no_known_event_breaks_the_screen() -> None:
    for kind in EVENT_TYPES:
        shown({"type": kind})


def test_an_event_is_shown_once() -> None:
    event: dict[str, object] = {"id": "sevt_x", "type": "user.message", "content": text("hello")}
    assert shown({**event, "processed_at": None}, event) == "   you  hello\n"


def test_json_shows_queued_and_taken_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    renderer = Renderer(Console(), as_json=True)
    event = {"id": "sevt_x", "type": "user.message", "content": text("hello")}
    for processed_at in (None, None, "2026-11-20T10:00:00Z"):
        renderer.show({**event, "processed_at": processed_at})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["processed_at"] for line in lines] == [None, "2026-11-20T10:00:00Z"]


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J", "\x1b]0;title\x07", "\r", "\x9b31m", "\x08\x08", "\u202eevil", "\u2066", "\x00", "\x7f"],
)
def test_nobody_steers_the_terminal(hostile: str) -> None:
    event = {"type": "agent.tool_result", "content": text(f"a{hostile}b [bold]c[/bold]")}
    said = shown(event, {"type": "agent.tool_use", "name": hostile, "input": {hostile: hostile}})
    assert not [c for c in said if not c.isprintable() and c != "\n"]
    assert "[bold]c[/bold]" in said
    assert hostile not in str(diff_text([f"+{hostile}"]))


def test_output_is_bounded() -> None:
    lines = shortened("\n".join(map(str, range(1000))))
    assert len(lines) == CLI_OUTPUT_LINES_MAX + 1
    assert (lines[0], lines[-1]) == ("0", "999")
    assert len(shortened("x" * 100_000)[0]) < 1000
    assert safe("a\tb") == "a    b"


@pytest.mark.parametrize(
    ("wire", "expected"),
    [(None, "no list price"), ({"amount": None}, "no list price"), ({"amount": "0"}, "$0"),
     ({"amount": "123"}, "$1.23"), ({"amount": "250000"}, "$2500")],
)  # fmt: skip
def test_cost(wire: dict[str, object] | None, expected: str) -> None:
    assert cost(wire) == expected


def test_tables_cut_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "title"), [("sesn_" + "x" * 100, "a\nb\x1b[31m")])
    assert capsys.readouterr().out.splitlines()[1] == "sesn_" + "x" * 100 + "  a b[31m"


def start(event_id: str, kind: str = "agent.message") -> dict[str, Any]:
    return {"type": "event_start", "event": {"type": kind, "id": event_id}}


def delta(event_id: str, text: str, index: int = 0) -> dict[str, Any]:
    content = {"type": "text", "text": text}
    return {
        "type": "event_delta",
        "event_id": event_id,
        "delta": {"type": "content_delta", "index": index, "content": content},
    }


def test_previews_print_finished_lines_at_once_and_the_final_event_adds_the_rest() -> None:
    out = io.StringIO()
    renderer = Renderer(Console(file=out, width=200, highlight=False))
    renderer.show(start("sevt_1"))
    renderer.show(delta("sevt_1", "one\ntw"))
    assert out.getvalue().split() == ["agent", "one"]
    renderer.show(delta("sevt_1", "o\nthr"))
    renderer.show(delta("sevt_1", "ee", index=1))
    blocks = [{"type": "text", "text": "one\ntwo\nthr"}, {"type": "text", "text": "ee\x1b[2J"}]
    renderer.show({"type": "agent.message", "id": "sevt_1", "processed_at": "now", "content": blocks})
    assert out.getvalue().split() == ["agent", "one", "two", "thr", "ee[2J"]


def test_an_announced_thought_is_shown_once() -> None:
    out = io.StringIO()
    renderer = Renderer(Console(file=out, width=200, highlight=False))
    renderer.show(start("sevt_1", "agent.thinking"))
    renderer.show({"type": "agent.thinking", "id": "sevt_1", "processed_at": "now"})
    assert out.getvalue().split() == ["think", "…"]
