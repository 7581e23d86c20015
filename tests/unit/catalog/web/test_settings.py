"""Settings of the web tools. Source: API docs, tools "Web tool restrictions"."""

import pytest

from corral.catalog.toolset import built_in, offers, resolve_tools
from corral.kernel.errors import InvalidRequest

LOOKUP = {"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}}


def resolve(*configs, has_search=True, custom=()):
    toolset = {"type": "agent_toolset_20260401", "configs": list(configs)}
    return resolve_tools([toolset, *custom], [], has_search=has_search)


def only(*configs, **options):
    return resolve(*configs, **options)[0]["configs"][0]


def sources(**given):
    return only({"name": "web_fetch", "url_sources": given}, custom=[LOOKUP])["url_sources"]


def named(kind, *names):
    return {"type": kind, "tools": [{"type": "tool_reference", "name": name} for name in names]}


def test_every_setting_is_shown_null_where_nothing_is_set() -> None:
    assert only({"name": "web_fetch"}) == {
        "type": "web_fetch",
        "name": "web_fetch",
        "enabled": True,
        "permission_policy": {"type": "always_allow"},
        "allowed_domains": None,
        "blocked_domains": None,
        "max_content_tokens": None,
        "url_sources": None,
    }
    assert only({"name": "web_search"}) == {
        "type": "web_search",
        "name": "web_search",
        "enabled": True,
        "permission_policy": {"type": "always_allow"},
        "allowed_domains": None,
        "blocked_domains": None,
        "user_location": None,
    }


def test_what_was_resolved_resolves_to_itself() -> None:
    once = resolve(
        {"name": "web_fetch", "url_sources": {"user_input": "none"}, "max_content_tokens": 5},
        {"name": "web_search", "user_location": {"type": "approximate", "country": "DE"}},
    )
    assert resolve_tools(once, [], has_search=True) == once


def test_without_a_search_engine_web_search_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\.0\.configs\.0\.name: .*CORRAL_SEARCH_URL"):
        resolve({"name": "web_search"}, has_search=False)
    assert only({"name": "web_search", "enabled": False}, has_search=False)["enabled"] is False
    assert offers(resolve(has_search=False), "web_fetch")  # a toolset of defaults is fine


def test_url_sources_are_shown_as_objects() -> None:
    assert sources() == {
        "user_input": None,
        "client_tool_results": None,
        "server_tool_results": None,
    }
    assert sources(
        user_input="all", client_tool_results=named("only", "lookup"), server_tool_results="none"
    ) == {
        "user_input": {"type": "all"},
        "client_tool_results": named("only", "lookup"),
        "server_tool_results": {"type": "none"},
    }
    assert sources(server_tool_results=named("except", "web_search"))["server_tool_results"] == named(
        "except", "web_search"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            dict.fromkeys(("user_input", "client_tool_results", "server_tool_results"), "none"),
            "url_sources: all three",
        ),
        ({"client_tool_results": named("only")}, "client_tool_results.tools: must have 1 to 128"),
        (
            {"client_tool_results": named("only", "lookup", "lookup")},
            "client_tool_results.tools.1.name: 'lookup' is named twice",
        ),
        (
            {"client_tool_results": named("only", "web_fetch")},
            "client_tool_results.tools.0.name: 'web_fetch' is not a custom tool",
        ),
        (
            {"client_tool_results": named("only", "Lookup")},
            "client_tool_results.tools.0.name: 'Lookup' is not a custom tool",
        ),
        (
            {"server_tool_results": named("except", "lookup")},
            "server_tool_results.tools.0.name: 'lookup' is not web_search or web_fetch",
        ),
    ],
)
def test_wrong_url_sources(given, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sources(**given)
    assert refused.value.message.startswith("tools.0.configs.0.url_sources")
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "web_fetch", "max_content_tokens": 0}, "max_content_tokens: must be a positive"),
        ({"name": "web_search", "max_content_tokens": 5}, "max_content_tokens: Extra inputs"),
        ({"name": "web_search", "url_sources": {}}, "url_sources: Extra inputs"),
        ({"name": "web_fetch", "user_location": {"type": "approximate"}}, "user_location: Extra inputs"),
        ({"name": "bash", "allowed_domains": ["example.com"]}, "allowed_domains: Extra inputs"),
        (
            {"name": "web_search", "user_location": {"type": "approximate", "country": "de"}},
            "user_location.country: 'de'",
        ),
        (
            {"name": "web_search", "user_location": {"type": "approximate", "timezone": "Mars/Base"}},
            "user_location.timezone: 'Mars/Base'",
        ),
        ({"name": "web_fetch", "allowed_domains": ["example.com/a"]}, "allowed_domains.0: "),
    ],
)
def test_wrong_settings_are_named(config, message: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"tools\.0\.configs\.0\.{message}"):
        resolve(config)


def test_a_location_shows_each_part() -> None:
    location = {"type": "approximate", "city": "Berlin", "timezone": "Europe/Berlin"}
    assert only({"name": "web_search", "user_location": location})["user_location"] == {
        "type": "approximate",
        "city": "Berlin",
        "region": None,
        "country": None,
        "timezone": "Europe/Berlin",
    }


def test_a_tool_is_found_where_it_is_configured() -> None:
    tools = resolve({"name": "bash"}, {"name": "web_fetch", "max_content_tokens": 7})
    found = built_in(tools, "web_fetch")
    assert found is not None
    assert (found.path, found.config["max_content_tokens"]) == ("tools.0.configs.1", 7)
    default = built_in(tools, "web_search")
    assert default is not None
    assert default.path == "tools.0.default_config"
