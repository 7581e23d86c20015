"""The reference agrees with the code: what is generated is current, what is hand-written is complete."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.docs import GENERATORS, _walk, rewritten
from typer.main import get_command

from corral.cli.main import app
from tests.unit.docs.markdown import ROOT, blocks, name_of, pages

_WORD = re.compile(r"(?:\S*bin/)?(corral|make) (.*)")
_INLINE = re.compile(r"`((?:corral|make) [a-z][^`]*)`")


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_generated_blocks_are_current(path: Path) -> None:
    text = path.read_text()
    assert rewritten(text) == text, "run `python -m scripts.docs`"


def test_everything_that_can_be_generated_is_shown() -> None:
    shown = {
        name for path in pages() for name in re.findall(r"<!-- generated: (\S+) -->", path.read_text())
    }
    assert shown == set(GENERATORS)


def commands_in(path: Path) -> Iterator[list[str]]:
    """Commands of ours in the shell examples of a page, and in its sentences."""
    lines = _INLINE.findall(path.read_text())
    for block in blocks(path):
        if block.language in ("bash", "ini"):
            lines += block.code.splitlines()
    for line in lines:
        for part in re.split(r"\||&&|;|=(?=/)", line):
            if match := _WORD.match(part.strip()):
                yield [match[1], *shlex.split(match[2], comments=True)]


def test_commands_in_examples_exist() -> None:
    """Every `corral ...` and `make ...` that a page tells a reader to type."""
    makefile = (ROOT / "Makefile").read_text()
    known = {path.split()[1]: command for path, command in _walk("corral", get_command(app))}
    full = dict(_walk("corral", get_command(app)))
    count = 0
    for path in pages():
        for words in commands_in(path):
            count += 1
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{name_of(path)}: {words}"
                continue
            assert words[1] in known, f"{name_of(path)}: {words}"
            paths = (" ".join(words[:length]) for length in (2, 3, 4))
            command = next(full[path] for path in paths if path in full)
            options = {option for parameter in command.params for option in parameter.opts}
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, f"{name_of(path)}: {words}"
    assert count > 5
