import time

import pytest

from corral.catalog.skills.manifest import read_foreign, read_manifest
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    REPOSITORY_FRONT_MATTER_BYTES_MAX,
    SKILL_FRONT_MATTER_BYTES_MAX,
    SKILL_MD_BYTES_MAX,
)


def read(text: str | bytes, **options: bool) -> tuple[str, str]:
    raw = text.encode() if isinstance(text, str) else text
    found = read_manifest(raw, directory="from-directory", **options)
    return found.name, found.description


def front(**fields: str) -> str:
    return "---\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "---\nText."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (front(name="my-skill", description="Does."), ("my-skill", "Does.")),
        (front(description="Does."), ("from-directory", "Does.")),
        ("---\r\nname: a\r\ndescription: b\r\n---\r\n", ("a", "b")),
        ("﻿---\nname: a\ndescription: b\n---", ("a", "b")),
        (
            "---\nname: a\ndescription: >\n  One\n  two.\n\n  Three: four.\n---\n",
            ("a", "One two. Three: four."),
        ),
        (front(name="'123'", description="yes"), ("123", "yes")),
        (front(name="1", description="2026-01-01", license="MIT"), ("1", "2026-01-01")),
        ("---\nname: a\ndescription: !!python/object/apply:os.system ['x']\n---\n", None),
        ("---\nname: a\ndescription: !!python/name:os.system x\n---\n", ("a", "x")),
        ("---\nname: a\ndescription: b\nmetadata:\n  deep: [1, {x: y}]\n---\n---\n", ("a", "b")),
        (front(name="x" * 64, description="ü" * 1024), ("x" * 64, "ü" * 1024)),
    ],
)
def test_what_it_says(text: str, expected: tuple[str, str] | None) -> None:
    if expected is None:
        with pytest.raises(InvalidRequest, match="description: must be text"):
            read(text)
    else:
        assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# Hello", "must begin with front matter"),
        ("", "must begin with front matter"),
        ("\n" + front(name="a", description="b"), "must begin with front matter"),
        ("---\nname: a\ndescription: b\n", "has no end"),
        ("---\n---\n", "must have fields"),
        ("---\n- a\n---\n", "must have fields"),
        ("---\nname: [\n---\n", "is not YAML in line"),
        ("---\nname: a\n\tdescription: b\n---\n", "is not YAML in line 3"),
        ("---\nname: a\nname: b\ndescription: c\n---\n", "name: is there twice"),
        ("---\n? [a]\n: b\n---\n", "a name that is no text"),
        ("---\nname: a\x01\ndescription: b\n---\n", "is not YAML"),
        ("---\n" + "x: " + "[" * 5000 + "\n---\n", "nested too deeply|not YAML"),
        (front(name="a"), "description: is missing"),
        (front(name="a", description="''"), "description: is empty"),
        (front(name="a", description="x" * 1025), "1025 characters; at most 1024"),
        (front(name="a", description="[b]"), "description: must be text"),
        (front(name="a", description="Use <system>this</system>"), "XML tags, such as '<system>'"),
        (front(name="{}", description="b"), "name: must be text"),
        (front(name="A-b", description="b"), "name: 'A-b' is not a name"),
        (front(name="a--b", description="b"), "is not a name"),
        (front(name="-a", description="b"), "is not a name"),
        (front(name="a_b", description="b"), "is not a name"),
        (front(name="a/b", description="b"), "is not a name"),
        (front(name="''", description="b"), "is not a name"),
        (front(name="x" * 65, description="b"), "is not a name"),
        (front(name="my-claude", description="b"), "reserved word 'claude'"),
        (front(name="a", description="b", x="y" * SKILL_FRONT_MATTER_BYTES_MAX), "front matter has"),
        (front(name="a", description="b") + "x" * SKILL_MD_BYTES_MAX, "SKILL.md has"),
        (b"---\nname: a\ndescription: \xff\n---\n", r"not UTF-8 \(byte 25\)"),
    ],
)
def test_what_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        read(text)


def test_the_directory_gives_the_name_and_must_be_one() -> None:
    with pytest.raises(InvalidRequest, match="the directory's name: 'My Skill' is not a name"):
        read_manifest(front(description="b").encode(), directory="My Skill")


def test_the_operator_may_use_reserved_words() -> None:
    assert read(front(name="claude-api", description="b"), is_trusted=True) == ("claude-api", "b")


def test_aliases_are_not_followed() -> None:
    """A few lines that would come to a billion words."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 40))
    assert read(f"---\nl0: &l0 [x]\n{levels}name: a\ndescription: b\n---\n") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (front(name="a", description="b"), ("a", "b")),
        (front(description="b"), ("dir", "b")),
        (front(name="Any Name <system>!", description="Use <b>this</b>."), ("Any Name !", "Use this .")),
        (front(name="x" * 99, description="y" * 2000), ("x" * 64, "y" * 1024)),
        ('---\nname: "a\\u0007b\\nc"\ndescription: "d\\ne"\n---\n', ("a b c", "d e")),
        (front(name="a"), None),
        ("---\nname: [\n---\n", None),
        ("# nothing", None),
        (front(name="a", description="b", x="y" * REPOSITORY_FRONT_MATTER_BYTES_MAX), None),
    ],
)
def test_what_anybody_wrote_is_made_fit_for_a_line(text: str, expected: tuple[str, str] | None) -> None:
    found = read_foreign(text, directory="dir")
    assert (None if found is None else (found.name, found.description)) == expected


@pytest.mark.parametrize(
    "deep",
    [
        "x: " + "[" * 16_000,
        "x: [\n" + "[\n" * 8_000,
        "x: " + "{" * 16_000,
        "x: " + "[" * 8_000 + "]" * 8_000,
        "x:\n" + "- " * 8_000,
        "? " * 8_000,
        "&a " * 5_000,
        "x: [" + "?," * 7_900 + "]",
    ],
)
def test_text_made_to_be_slow_is_not(deep: str) -> None:
    began = time.thread_time()
    with pytest.raises(InvalidRequest):
        read(f"---\n{deep}\n---\n")
    assert time.thread_time() - began < 0.5


def test_what_is_within_the_bound_may_be_deep() -> None:
    deep = "".join(f"{' ' * level}k:\n" for level in range(10))
    assert read(f"---\nname: a\ndescription: b\n{deep}---\n") == ("a", "b")


def test_one_document() -> None:
    with pytest.raises(InvalidRequest, match="more than one document"):
        read("---\nname: a\ndescription: b\n...\n--- c\n---\n")
