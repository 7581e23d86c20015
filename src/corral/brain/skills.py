"""What a model is told of skills: what each is for and where it is. It reads the rest when it needs it.

Bytes of the system prompt, so they are a function of what is fixed when a session begins.
"""

from collections.abc import Mapping, Sequence

from corral.session.content import Json

__all__ = ["skills_note"]

_NOTE = (
    "You have skills: directories with instructions for certain kinds of tasks, and files that help with"
    " them. When a task fits the description of one, read its SKILL.md with the read tool before you begin,"
    " and follow it. Paths in a skill are relative to its directory. The skills, each with the path of its"
    " SKILL.md:"
)


def skills_note(skills: Sequence[Mapping[str, Json]]) -> str | None:
    """None if there are none. Each has `name`, `description` (one line) and `path`, its directory."""
    if not skills:
        return None
    lines = [f"- {skill['name']} ({skill['path']}/SKILL.md): {skill['description']}" for skill in skills]
    return "\n".join([_NOTE, *lines])
