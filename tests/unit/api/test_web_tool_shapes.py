"""Settings of the web tools as requests bring them."""

import orjson
import pytest

from corral.api.schema.agents import AgentCreate
from corral.api.schema.strict import parse
from corral.catalog.toolset import resolve_tools
from corral.kernel.errors import InvalidRequest


def resolved(**config):
    toolset = {"type": "agent_toolset_20260401", "configs": [config]}
    body = {"name": "a", "model": "claude-opus-4-5", "tools": [toolset]}
    given = parse(AgentCreate, orjson.dumps(body)).given()
    return resolve_tools(given["tools"], [], has_search=True)[0]["configs"][0]


def test_short_and_long_forms_are_one() -> None:
    short = resolved(name="web_fetch", url_sources={"user_input": "none", "server_tool_results": "all"})
    long = resolved(
        name="web_fetch",
        url_sources={"user_input": {"type": "none"}, "server_tool_results": {"type": "all"}},
    )
    assert short == long
    assert short["url_sources"] == {
        "user_input": {"type": "none"},
        "client_tool_results": None,
        "server_tool_results": {"type": "all"},
    }


def test_what_was_answered_can_be_sent_again() -> None:
    once = resolved(
        name="web_fetch",
        url_sources={
            "server_tool_results": {
                "type": "only",
                "tools": [{"type": "tool_reference", "name": "web_search"}],
            }
        },
    )
    assert resolved(**once) == once


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"name": "web_fetch", "url_sources": {"user_input": "some"}}, "url_sources.user_input"),
        ({"name": "web_fetch", "url_sources": {"else": "all"}}, "url_sources.else"),
        (
            {"name": "web_fetch", "url_sources": {"user_input": {"type": "only", "tools": []}}},
            "url_sources.user_input",
        ),
        ({"name": "web_search", "user_location": {"type": "exact"}}, "user_location.type"),
        ({"name": "web_search", "user_location": {"city": "Berlin"}}, "user_location.type"),
        ({"name": "web_fetch", "allowed_domains": "example.com"}, "allowed_domains"),
        ({"name": "web_fetch", "allowed_domains": [7]}, "allowed_domains.0"),
        ({"name": "web_fetch", "max_content_tokens": "5"}, "max_content_tokens"),
    ],
)
def test_wrong_shapes_are_named(config, path: str) -> None:
    with pytest.raises(InvalidRequest, match=path.replace(".", r"\.")):
        resolved(**config)
