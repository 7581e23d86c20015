"""SKILL.md: its front matter says what the skill is called and when to use it.

    ---
    name: release-notes
    description: Writes release notes from a git log. Use when asked for a changelog.
    ---
    (instructions, for the agent)

The YAML is read as a row of events and never constructed: tags mean nothing, aliases are not followed, and
`name: 123` is text. How much a text may cost is bounded before it is parsed (bytes) and while it is (depth,
by libyaml: PyYAML's own parser takes seconds for 16 KB of "["). Source: API docs, skills.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from corral.catalog.skills.layout import SKILL_MD
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    REPOSITORY_FRONT_MATTER_BYTES_MAX,
    SKILL_DESCRIPTION_CHARS_MAX,
    SKILL_FRONT_MATTER_BYTES_MAX,
    SKILL_FRONT_MATTER_DEPTH_MAX,
    SKILL_MD_BYTES_MAX,
    SKILL_NAME_CHARS_MAX,
)

__all__ = ["RESERVED", "Manifest", "check_name", "read_foreign", "read_manifest"]

RESERVED: Final = ("anthropic", "claude")
"""Words that no name of an uploaded skill may have. Source: API docs, skills."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TAG = re.compile(r"<[A-Za-z/!?][^<>]*>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FENCE = re.compile(rb"^---[ \t]*\r?\n", re.MULTILINE)
_END = re.compile(rb"^---[ \t]*(\r?\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`name` is a slug. `description` is one line."""

    name: str
    description: str


def read_manifest(raw: bytes, *, directory: str, is_trusted: bool = False) -> Manifest:
    """directory: what the skill is called if its front matter does not say.
    is_trusted: the operator's own; its name may have a reserved word.

    Raises InvalidRequest naming the field.
    """
    fields = _fields(_front_matter(raw))
    for field in ("name", "description"):
        if field in fields and fields[field] is None:
            raise _wrong(field, "must be text")
    given = fields.get("name")
    name = directory if given is None else given
    check_name(name, where="name" if given is not None else "the directory's name", is_trusted=is_trusted)
    if (said := fields.get("description")) is None:
        raise _wrong("description", "is missing; say in a sentence what the skill does and when to use it")
    description = " ".join(said.split())
    if not description:
        raise _wrong("description", "is empty; say in a sentence what the skill does and when to use it")
    if len(description) > SKILL_DESCRIPTION_CHARS_MAX:
        raise _wrong(
            "description", f"has {len(description)} characters; at most {SKILL_DESCRIPTION_CHARS_MAX}"
        )
    if _CONTROL.search(description):
        raise _wrong("description", "has a control character")
    if tag := _TAG.search(description):
        raise _wrong("description", f"must not contain XML tags, such as {tag.group()[:40]!r}")
    return Manifest(name=name, description=description)


def read_foreign(text: str, *, directory: str) -> Manifest | None:
    """Of a skill that nobody has checked: anybody may have written it. What can be told of it, made fit for
    a line; None if it says nothing of itself."""
    try:
        raw = text.encode(errors="replace")
        fields = _fields(_front_matter(raw, bytes_max=REPOSITORY_FRONT_MATTER_BYTES_MAX))
    except InvalidRequest:
        return None
    name, description = (_one_line(fields.get(field) or "") for field in ("name", "description"))
    if not description:
        return None
    return Manifest(
        name=(name or _one_line(directory))[:SKILL_NAME_CHARS_MAX],
        description=description[:SKILL_DESCRIPTION_CHARS_MAX],
    )


def check_name(name: str, *, where: str = "name", is_trusted: bool = False) -> None:
    """Raises InvalidRequest."""
    if len(name) > SKILL_NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise _wrong(
            where,
            f"{name[: SKILL_NAME_CHARS_MAX + 1]!r} is not a name: 1 to {SKILL_NAME_CHARS_MAX} lower-case"
            " letters and digits, in words joined by single hyphens",
        )
    word = next((word for word in RESERVED if word in name), None)
    if word is not None and not is_trusted:
        raise _wrong(where, f"{name!r} must not contain the reserved word {word!r}")


def _front_matter(raw: bytes, *, bytes_max: int = SKILL_FRONT_MATTER_BYTES_MAX) -> bytes:
    if len(raw) > SKILL_MD_BYTES_MAX:
        raise InvalidRequest(f"files: {SKILL_MD} has {len(raw)} bytes; at most {SKILL_MD_BYTES_MAX}")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"files: {SKILL_MD} is not UTF-8 (byte {error.start})") from None
    begin = _FENCE.match(raw)
    if begin is None:
        raise InvalidRequest(
            f"files: {SKILL_MD} must begin with front matter: a line '---', name and description, and a"
            " line '---'"
        )
    end = _END.search(raw, begin.end())
    if end is None:
        raise InvalidRequest(f"files: {SKILL_MD}: its front matter has no end; close it with a line '---'")
    found = raw[begin.end() : end.start()]
    if len(found) > bytes_max:
        raise InvalidRequest(
            f"files: {SKILL_MD}: its front matter has {len(found)} bytes; at most {bytes_max}"
        )
    return found


def _fields(raw: bytes) -> dict[str, str | None]:
    """What the front matter has at its top; None for what is no text. Raises InvalidRequest."""
    try:
        return _of_mapping(_top(raw.decode()))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 2}"  # the fence is the first
        what = getattr(error, "problem", None) or "it cannot be read"
        raise InvalidRequest(f"files: {SKILL_MD}: its front matter is not YAML{where}: {what}") from None


def _top(text: str) -> Iterator[tuple[int, yaml.Event]]:
    """(depth, event) of everything in the only document; a collection's own two events are at the depth of
    what is around it. Raises InvalidRequest, YAMLError."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.CBaseLoader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise InvalidRequest(f"files: {SKILL_MD}: its front matter is more than one document")
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            yield depth, event
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > SKILL_FRONT_MATTER_DEPTH_MAX:
                raise InvalidRequest(f"files: {SKILL_MD}: its front matter is nested too deeply")


def _of_mapping(events: Iterator[tuple[int, yaml.Event]]) -> dict[str, str | None]:
    _, top = next(events, (0, None))
    if not isinstance(top, yaml.MappingStartEvent):
        raise InvalidRequest(
            f"files: {SKILL_MD}: its front matter must have fields, as in 'name: my-skill'"
        )
    fields: dict[str, str | None] = {}
    key: str | None = None
    for depth, event in events:
        if depth != 1 or isinstance(event, yaml.CollectionEndEvent):
            continue  # inside of a value, or the end of one
        text = str(event.value) if isinstance(event, yaml.ScalarEvent) else None
        if key is not None:
            fields[key], key = text, None
        elif text is None:
            raise InvalidRequest(
                f"files: {SKILL_MD}: a field of its front matter has a name that is no text"
            )
        elif text in fields:
            raise _wrong(text, "is there twice")
        else:
            key = text
    return fields


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", _TAG.sub(" ", text)).split())


def _wrong(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"files: {SKILL_MD}: {field}: {problem}")
