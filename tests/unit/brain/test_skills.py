"""What a model is told of skills, and when those of repositories are looked for."""

from dataclasses import replace
from typing import Any

from corral.brain.actions import Aborted, Seek, Sought, Stop
from corral.brain.context import build
from corral.brain.skills import skills_note
from corral.session import events as ev
from corral.session.resources import Resource
from corral.session.state import begin
from tests.unit.brain.scene import MODELS, THREAD, Scene, agent, text

ATTACHED = {
    "name": "a",
    "description": "Does A.",
    "path": "/workspace/skills/a",
    "version": "v",
    "sha256": "0",
}
FOUND = {"name": "a", "description": "Does B.", "path": "/workspace/repo/.claude/skills/a"}
SEEK = Seek(thread_id=THREAD, waits=True)
SEEK_AGAIN = Seek(thread_id=THREAD, waits=False)


def scene(*, tools: list[dict[str, Any]] | None = None) -> Scene:
    """A session with an attached skill and a repository."""
    snapshot = agent()
    if tools is not None:
        snapshot["tools"] = tools
    made = Scene(snapshot)
    resource = Resource(
        body={"type": "github_repository", "id": "sesrsc_1", "mount_path": "/workspace/repo"}
    )
    made.record = replace(made.record, skills=(ATTACHED,), resources=(resource,))
    made.state = begin(made.record)
    return made


def system(made: Scene) -> str:
    thread = made.state.primary
    request = build(made.state.session_id, thread, MODELS.resolve(thread.model))
    return "\n".join(block["text"] for block in request.system)


def test_nothing_without_skills() -> None:
    assert skills_note(()) is None


def test_a_line_for_each_and_the_same_bytes_each_time() -> None:
    skills = [
        {"name": "a", "description": "Does A.", "path": "/workspace/skills/a"},
        {"name": "a", "description": "Does B.", "path": "/workspace/repo/.claude/skills/a"},
    ]
    note = skills_note(skills)
    assert note is not None and note == skills_note(tuple(skills))
    assert note.splitlines()[1:] == [
        "- a (/workspace/skills/a/SKILL.md): Does A.",
        "- a (/workspace/repo/.claude/skills/a/SKILL.md): Does B.",
    ], "of one name, both are there"


def test_repositories_are_looked_at_before_the_first_request() -> None:
    made = scene()
    made.say("hello")
    assert made.step() == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
    ], "it runs, and asks nothing yet"
    assert made.decide() == {SEEK}
    assert made.step() == []
    assert made.step(Sought(action=SEEK, skills=(FOUND,))) == ["span.model_request_start"]
    made.asked()
    first = system(made)
    assert "/workspace/skills/a/SKILL.md" in first and "/workspace/repo/.claude/skills/a/SKILL.md" in first
    made.step(made.reply(text("Hi.")))
    made.say("again")
    assert "span.model_request_start" in made.step()
    assert system(made) == first
    assert made.rebuilt().primary.skills == made.state.primary.skills == (ATTACHED, FOUND)


def test_what_was_found_is_the_same_for_every_later_brain() -> None:
    made = scene()
    made.say("hello")
    made.step()
    made.decide()
    made.step(Sought(action=SEEK, skills=(FOUND,)))
    first = system(made)
    made.restart()
    assert SEEK not in made.decide()
    made.step()
    made.asked()
    assert system(made) == first


def test_nothing_found_is_settled_too() -> None:
    made = scene()
    made.say("hello")
    made.step()
    made.decide()
    made.step(Sought(action=SEEK, skills=()))
    made.asked()
    made.step(made.reply(text("Hi.")))
    made.say("again")
    made.step()
    assert SEEK not in made.decide()
    assert "/workspace/repo" not in system(made)


def test_a_clone_that_takes_long_holds_up_the_first_request_no_longer_than_others() -> None:
    made = scene()
    made.say("hello")
    made.step()
    assert made.decide() == {SEEK}
    assert made.step(Sought(action=SEEK, skills=None)) == ["span.model_request_start"]
    made.asked()
    first = system(made)
    assert "/workspace/repo" not in first and made.rebuilt().primary.seeks_skills
    made.step(made.reply(text("Hi.")))
    made.say("again")
    assert "span.model_request_start" not in made.step()
    assert made.decide() == {SEEK_AGAIN}
    made.step(Sought(action=SEEK_AGAIN, skills=None))
    made.asked()
    assert system(made) == first, "not yet"
    made.step(made.reply(text("Hi.")))
    assert made.state.primary.measured_tokens
    made.say("and again")
    made.step()
    made.restart()
    made.step()
    assert made.decide() == {SEEK_AGAIN}
    made.step(Sought(action=SEEK_AGAIN, skills=(FOUND,)))
    made.asked()
    assert made.state.primary.measured_tokens == 0, "what was counted was without"
    told = system(made)
    assert told != first and "/workspace/repo/.claude/skills/a/SKILL.md" in told
    made.step(made.reply(text("Hi.")))
    made.say("once more")
    assert "span.model_request_start" in made.step()
    assert system(made) == told
    assert made.rebuilt().primary.skills == made.state.primary.skills == (ATTACHED, FOUND)


def test_a_brain_that_dies_while_it_looks_leaves_that_to_the_next() -> None:
    made = scene()
    made.say("hello")
    made.step()
    assert made.decide() == {SEEK}
    made.restart()
    made.step()
    assert made.decide() == {SEEK}


def test_an_interrupt_ends_the_look() -> None:
    made = scene()
    made.say("hello")
    made.step()
    made.decide()
    made.send(ev.UserInterrupt)
    assert made.step() == []
    assert made.decide() == {Stop(action=SEEK)}
    assert "session.status_idle" in made.step(Aborted(action=SEEK))
    made.say("go on")
    made.step()
    assert made.decide() == {SEEK}


def test_nobody_looks_for_an_agent_that_cannot_read() -> None:
    made = scene(tools=[])
    made.say("hello")
    assert "span.model_request_start" in made.step()
