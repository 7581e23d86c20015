"""What models call the tools of MCP servers: legal, and never the same for two of them."""

import re

from hypothesis import given
from hypothesis import strategies as st

from corral.catalog.mcp.names import is_mcp_name, model_name, server_prefix

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,128}")
NAMES = st.text(min_size=1, max_size=60) | st.text("ab_-", min_size=1, max_size=60)


def test_plain_names_are_kept() -> None:
    assert model_name("github", "create_issue") == "mcp__github__create_issue"


def test_what_is_not_legal_is_changed_and_stays_apart() -> None:
    assert model_name("my notes", "a.b") != model_name("my.notes", "a.b")
    assert model_name("notes", "a.b") != model_name("notes", "a_b") == "mcp__notes__a_b"
    assert model_name("notes", "x" * 300) != model_name("notes", "x" * 301)
    assert re.fullmatch(r"mcp__my_notes-[0-9a-f]{8}__a_b-[0-9a-f]{8}", model_name("my notes", "a.b"))


def test_a_server_cannot_take_names_of_another() -> None:
    assert model_name("a", "b__c") != model_name("a__b", "c")
    assert model_name("a", "_b") != model_name("a_", "b")


@given(NAMES, NAMES, NAMES, NAMES)
def test_names_are_legal_and_injective(server: str, tool: str, other: str, another: str) -> None:
    name = model_name(server, tool)
    assert LEGAL.fullmatch(name) and is_mcp_name(name) and name.startswith(server_prefix(server))
    if (server, tool) != (other, another):
        assert name != model_name(other, another)
