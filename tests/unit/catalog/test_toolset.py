"""Tools: what may be configured and how it is stored. Source: API docs, tools."""

import pytest

from corral.catalog.toolset import resolve_tools
from corral.kernel.errors import InvalidRequest


def toolset(*configs, **default):
    return {
        "type": "agent_toolset_20260401",
        "configs": list(configs),
        **({"default_config": default} if default else {}),
    }


def custom(name="lookup", schema=None, **fields):
    return {
        "type": "custom",
        "name": name,
        "description": "d",
        "input_schema": schema or {"type": "object"},
        **fields,
    }


def resolve(*tools):
    return resolve_tools(tools, [])


def test_configs_are_completed_and_keep_their_order() -> None:
    (made,) = resolve(
        toolset(
            {"name": "bash", "permission_policy": {"type": "always_ask"}}, {"name": "read"}, enabled=False
        )
    )
    assert made["configs"] == [
        {"type": "bash", "name": "bash", "enabled": False, "permission_policy": {"type": "always_ask"}},
        {"type": "read", "name": "read", "enabled": False, "permission_policy": {"type": "always_allow"}},
    ]


def test_a_resolved_toolset_resolves_to_itself() -> None:
    made = resolve(toolset({"name": "bash"}, permission_policy={"type": "always_ask"}), custom())
    assert resolve(*made) == made


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([toolset(), toolset()], r"tools.1.type: .*once"),
        (
            [toolset({"name": "bash"}, {"name": "bash"})],
            r"tools.0.configs.1.name: 'bash' is configured twice",
        ),
        ([toolset({"name": "bash", "type": "read"})], r"tools.0.configs.0.type"),
        ([toolset({"name": "web_search"})], r"tools.0.configs.0.name: web_search needs a search engine"),
        ([toolset({"name": "bash", "allowed_domains": ["a.example"]})], r"allowed_domains: Extra inputs"),
        ([custom("bash")], r"tools.0.name: 'bash' is the name of a built-in"),
        ([custom("web_search")], r"built-in"),
        ([custom("mcp__x")], r"must not start with 'mcp__'"),
        ([custom(), custom()], r"tools.1.name: 'lookup' is used twice"),
        ([custom(schema={"type": "array"})], r"input_schema.type"),
        ([custom(schema={"type": "object", "oneOf": []})], r"input_schema.oneOf"),
        (
            [custom(schema={"type": "object", "properties": []})],
            r"input_schema.properties: must be an object",
        ),
        ([custom(schema={"type": "object", "required": [1]})], r"input_schema.required"),
        ([custom(schema={"type": "object", "properties": {"a b": {}}})], r"'a b'"),
        ([custom(schema={"type": "object", "properties": {"a": {"items": [{"$ref": "#"}]}}})], r"\$ref"),
        ([custom(f"t{n}") for n in range(250)] + [toolset()], r"258 tools; at most 256"),
    ],
)
def test_refusals(tools, message) -> None:
    with pytest.raises(InvalidRequest, match=message):
        resolve(*tools)


def test_schema_depth_is_bounded() -> None:
    def nested(levels: int) -> dict[str, object]:
        schema: dict[str, object] = {"type": "object"}
        for _ in range(levels):
            schema = {"type": "object", "properties": {"a": schema}}
        return schema

    resolve(custom(schema=nested(30)))
    with pytest.raises(InvalidRequest, match="deeper than 64"):
        resolve(custom(schema=nested(32)))


def test_disabled_web_tools_are_accepted() -> None:
    (made,) = resolve(toolset({"name": "web_search", "enabled": False}))
    assert made["configs"][0]["enabled"] is False


def test_other_schema_keywords_are_kept() -> None:
    schema = {
        "type": "object",
        "title": "T",
        "additionalProperties": False,
        "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "required": ["a"],
    }
    assert resolve(custom(schema=schema))[0]["input_schema"] == schema


def test_mcp_toolsets_ask_by_default() -> None:
    tool = {"type": "mcp_toolset", "mcp_server_name": "s", "configs": [{"name": "search"}]}
    (made,) = resolve_tools([tool], [{"type": "url", "name": "s", "url": "https://s.example"}])
    assert made["default_config"]["permission_policy"] == {"type": "always_ask"}
    assert made["configs"] == [
        {"name": "search", "enabled": True, "permission_policy": {"type": "always_ask"}}
    ]
