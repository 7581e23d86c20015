"""DIVERGENCES is complete, and each of its entries is proved by tests that it names."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from corral.kernel import limits
from tests.unit.docs.markdown import ROOT

TEXT = (ROOT / "docs" / "DIVERGENCES.md").read_text()
ENTRIES = {
    title: body.partition("\n## ")[0]
    for title, _, body in (entry.partition("\n") for entry in re.split(r"^### ", TEXT, flags=re.M)[1:])
}

# `[path](../path) (`test`, `test`)`
_NAMED = re.compile(r"\]\(\.\./([^)]+\.py)\)\s+\(((?:`\w+`,?\s*)+)\)")


def refused_features() -> set[str]:
    """What requests are refused for because it is not built: the words given to `not_yet`."""
    found: set[str] = set()
    for source in (ROOT / "src" / "corral" / "api").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "not_yet":
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value).removeprefix("the ").rsplit(" ", 1)[0])
    return found


def test_what_is_refused_is_a_divergence() -> None:
    text = TEXT.lower()
    features = refused_features()
    assert features
    assert {feature for feature in features if feature.lower() not in text} == set()


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_has_three_lines(title: str) -> None:
    assert re.findall(r"^\* (\w+):", ENTRIES[title], re.MULTILINE) == ["Hosted", "Ours", "Evidence"]


@cache
def names_in(path: str) -> frozenset[str]:
    """Tests of a file, and checks of a suite that is shipped."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {
        node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, functions)
    }
    return frozenset(name for name in names if name.startswith(("test_", "check_")))


def named(evidence: str) -> Iterator[tuple[str, str]]:
    """(path, test) of each test that an entry names."""
    for path, names in _NAMED.findall(evidence):
        for name in re.findall(r"\w+", names):
            yield path, name


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_names_tests_that_exist(title: str) -> None:
    evidence = ENTRIES[title].partition("* Evidence:")[2]
    tests = list(named(evidence))
    assert tests, "no test is named behind a link to its file"
    assert [each for each in tests if each[1] not in names_in(each[0])] == []
    words = set(re.findall(r"`((?:test|check)_\w+)`", evidence))
    assert words == {name for _, name in tests}, "a test is named without a link to its file"


def test_numbers_we_chose() -> None:
    said = " ".join(ENTRIES["Numbers we chose"].split())
    for words in (
        f"{limits.EVENTS_PER_SEND_MAX} events per request",
        f"{limits.INBOX_EVENTS_MAX:,} unprocessed inputs or {limits.INBOX_BYTES_MAX >> 20} MiB of them",
        f"pages of {limits.PAGE_LIMIT_DEFAULT} (most {limits.PAGE_LIMIT_MAX};",
        f"events {limits.EVENT_PAGE_LIMIT_MAX:,})",
        f"keep-alive every {limits.SSE_KEEPALIVE_SECONDS:g} s",
        f"fall {limits.SSE_BUFFER_EVENTS_MAX:,} events behind",
        f"{limits.MODEL_ATTEMPTS_MAX} attempts per model request",
        f"{limits.TOOL_ROUNDS_PER_TURN_MAX} model replies per turn",
        f"{limits.MODEL_OUTPUT_TOKENS:,} output tokens",
    ):
        assert words in said
