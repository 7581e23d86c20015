"""The words between a conversation and a 1.5B model."""

import pytest

from corral.brain.models.local_prompt import (
    GIVE_UP_AFTER,
    chat,
    command_of,
    grammar,
    is_agent,
    last_command,
)
from corral.brain.ports import ModelRequest
from corral.kernel.ids import SessionId
from corral.kernel.limits import LOCAL_RESULT_CHARS_MAX

BASH = {"name": "bash", "description": "", "input_schema": {}}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def text(said):
    return {"type": "text", "text": said}


def call(command):
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t", "name": "bash", "input": {"command": command}}],
    }


def result(said, **more):
    return user({"type": "tool_result", "tool_use_id": "t", "content": [text(said)], **more})


def request(*messages, tools=(BASH,), system=()):
    return ModelRequest(
        model="local",
        session_id=SessionId("s"),
        messages=messages,
        tools=tools,
        system=system,
        max_tokens=9,
    )


def test_a_conversation_in_plain_words():
    turns = chat(request(user(text("Fix it.")), call("ls"), result("a.py"), system=[text("Be brief.")]))
    assert turns[0]["role"] == "system"
    assert turns[0]["content"].endswith("Be brief.")
    assert turns[1:] == [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "```bash\nls\n```"},
        {"role": "user", "content": "Output:\na.py"},
    ]


def test_roles_alternate_and_unknown_blocks_are_left_out():
    turns = chat(
        request(
            user(text("one")),
            {"role": "system", "content": "two"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
            user({"type": "image", "source": {}}),
            tools=(),
        )
    )
    assert turns == [{"role": "user", "content": "one\ntwo\n[an image, which this model cannot see]"}]


def test_long_output_keeps_both_ends():
    said = chat(request(user(text("x")), call("cat"), result("A" + "b" * 10_000 + "Z")))[-1]["content"]
    assert len(said) < LOCAL_RESULT_CHARS_MAX + 100
    assert said.startswith("Output:\nAb")
    assert said.endswith("bZ")
    assert "8502 characters left out" in said


def test_acting_needs_a_bash_tool():
    assert is_agent(request(user(text("x"))))
    assert not is_agent(request(user(text("x")), tools=({"name": "read"},)))


FAILED = [call("cat x"), result("cat: x: No such file or directory")]


@pytest.mark.parametrize(
    ("messages", "may_end"),
    [
        ([user(text("x"))], False),
        ([user(text("x")), call("ls"), result("a.py")], True),
        ([user(text("x")), *FAILED], False),
        ([user(text("x")), call("ls"), result("bad", is_error=True)], False),
        ([user(text("x")), *FAILED, call("ls"), result("a.py")], True),
        ([user(text("x")), *FAILED * GIVE_UP_AFTER], True),
        (
            [
                user(text("x")),
                call("ls"),
                result("a.py"),
                {"role": "assistant", "content": [text("Done.")]},
                user(text("y")),
            ],
            False,
        ),
    ],
)
def test_when_it_may_say_done(messages, may_end):
    assert grammar(messages).startswith("root ::= cmd | done" if may_end else "root ::= cmd\n")


@pytest.mark.parametrize(
    ("said", "command"),
    [("```bash\nls\n```", "ls"), ("```bash\na\nb\n```", "a\nb"), ("```bash\ncut of", "cut of")],
)
def test_the_command_of_a_reply(said, command):
    assert command_of(said) == command


def test_the_last_command():
    assert last_command([user(text("x"))]) is None
    assert last_command([user(text("x")), call("ls "), result("a")]) == "ls"
    assert last_command([call("ls"), result("a"), {"role": "assistant", "content": [text("ok")]}]) is None
