"""Tools of an agent: what may be configured, and the form in which it is stored and shown.

Stored tools are resolved: every submitted entry has `enabled` and `permission_policy`, so that whoever
reads them needs no defaults. Source: API docs, tools.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from corral.catalog.records import Wire
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INPUT_SCHEMA_DEPTH_MAX, TOOLS_PER_AGENT_MAX

SANDBOX_TOOLS = ("bash", "read", "write", "edit", "glob", "grep")
WEB_TOOLS = ("web_fetch", "web_search")
AGENT_TOOLSET = "agent_toolset_20260401"

_ALLOW, _ASK = {"type": "always_allow"}, {"type": "always_ask"}
_WEB_SETTINGS = ("allowed_domains", "blocked_domains", "max_content_tokens", "url_sources", "user_location")
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def resolve_tools(tools: Sequence[Wire], mcp_servers: Sequence[Wire], *, where: str = "") -> list[Wire]:
    """Check and complete submitted tools. `where` prefixes field paths, such as `agent.`.

    Raises InvalidRequest naming the field.
    """
    resolved: list[Wire] = []
    custom_names: set[str] = set()
    toolset_servers: set[str] = set()
    count = 0
    for number, tool in enumerate(tools):
        path = f"{where}tools.{number}"
        if tool["type"] == AGENT_TOOLSET:
            if any(earlier["type"] == AGENT_TOOLSET for earlier in resolved):
                raise InvalidRequest(f"{path}.type: {AGENT_TOOLSET} may be listed once")
            resolved.append(_agent_toolset(tool, path))
            count += len(SANDBOX_TOOLS) + len(WEB_TOOLS)
        elif tool["type"] == "mcp_toolset":
            resolved.append(_mcp_toolset(tool, path, toolset_servers))
            count += len(tool.get("configs", ()))
        else:
            resolved.append(_custom_tool(tool, path, custom_names))
            count += 1
    if count > TOOLS_PER_AGENT_MAX:
        raise InvalidRequest(
            f"{where}tools: {count} tools; at most {TOOLS_PER_AGENT_MAX} over all toolsets"
        )
    _check_servers(mcp_servers, toolset_servers, where)
    return resolved


def offers(tools: Sequence[Wire], name: str) -> bool:
    """Whether these resolved tools have that built-in tool, enabled."""
    return any(
        next(
            (config["enabled"] for config in tool["configs"] if config["name"] == name),
            tool["default_config"]["enabled"],
        )
        for tool in tools
        if tool["type"] == AGENT_TOOLSET
    )


def _agent_toolset(tool: Wire, path: str) -> Wire:
    default = _settings(tool.get("default_config") or {}, f"{path}.default_config", True, _ALLOW)
    configs: list[Wire] = []
    for number, config in enumerate(tool.get("configs", ())):
        at, name = f"{path}.configs.{number}", config["name"]
        if any(earlier["name"] == name for earlier in configs):
            raise InvalidRequest(f"{at}.name: {name!r} is configured twice")
        if config.get("type", name) != name:
            raise InvalidRequest(f"{at}.type: must equal the name {name!r}, or be left out")
        settings = _settings(config, at, default["enabled"], default["permission_policy"])
        for setting in _WEB_SETTINGS:
            if config.get(setting) is not None:
                if name in SANDBOX_TOOLS:
                    raise InvalidRequest(f"{at}.{setting}: Extra inputs are not permitted for {name!r}")
                raise InvalidRequest(f"{at}.{setting}: {name} is not available on this server yet")
        if name in WEB_TOOLS and settings["enabled"]:
            raise InvalidRequest(
                f"{at}.name: {name} is not available on this server yet;"
                " leave it out, or set enabled to false"
            )
        configs.append({"type": name, "name": name, **settings})
    return {"type": AGENT_TOOLSET, "default_config": default, "configs": configs}


def _mcp_toolset(tool: Wire, path: str, servers: set[str]) -> Wire:
    name = tool["mcp_server_name"]
    if name in servers:
        raise InvalidRequest(f"{path}.mcp_server_name: {name!r} has an mcp_toolset already")
    servers.add(name)
    default = _settings(tool.get("default_config") or {}, f"{path}.default_config", True, _ASK)
    configs: list[Wire] = []
    for number, config in enumerate(tool.get("configs", ())):
        at = f"{path}.configs.{number}"
        if any(earlier["name"] == config["name"] for earlier in configs):
            raise InvalidRequest(f"{at}.name: {config['name']!r} is configured twice")
        settings = _settings(config, at, default["enabled"], default["permission_policy"])
        configs.append({"name": config["name"], **settings})
    return {"type": "mcp_toolset", "mcp_server_name": name, "default_config": default, "configs": configs}


def _settings(given: Wire, path: str, enabled: bool, policy: Wire) -> dict[str, Any]:
    """`enabled` and `permission_policy`, from the entry or else its default."""
    chosen = given.get("permission_policy") or policy
    own = given.get("enabled")
    return {"enabled": enabled if own is None else own, "permission_policy": dict(chosen)}


def _custom_tool(tool: Wire, path: str, names: set[str]) -> Wire:
    name = tool["name"]
    if name in SANDBOX_TOOLS or name in WEB_TOOLS:
        raise InvalidRequest(f"{path}.name: {name!r} is the name of a built-in tool")
    if name.startswith("mcp__"):
        raise InvalidRequest(f"{path}.name: {name!r} must not start with 'mcp__'")
    if name in names:
        raise InvalidRequest(f"{path}.name: {name!r} is used twice")
    names.add(name)
    _check_schema(tool["input_schema"], f"{path}.input_schema")
    return {
        "type": "custom",
        "name": name,
        "description": tool["description"],
        "input_schema": tool["input_schema"],
    }


def _check_schema(schema: Mapping[str, Any], path: str) -> None:
    """What a model can be given. Other keywords are kept as they are."""
    if schema.get("type") != "object":
        raise InvalidRequest(f"{path}.type: must be 'object'")
    for keyword in ("oneOf", "anyOf", "allOf"):
        if keyword in schema:
            raise InvalidRequest(f"{path}.{keyword}: not allowed at the top level")
    properties, required = schema.get("properties"), schema.get("required")
    if properties is not None and not isinstance(properties, Mapping):
        raise InvalidRequest(f"{path}.properties: must be an object")
    if required is not None and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise InvalidRequest(f"{path}.required: must be an array of strings")
    for name in properties or ():
        if not _PROPERTY_NAME.fullmatch(name):
            raise InvalidRequest(
                f"{path}.properties: {name!r} must be 1 to 64 letters, digits, '_', '.' or '-'"
            )
    level: list[Any] = [schema]
    for _ in range(INPUT_SCHEMA_DEPTH_MAX):
        if any(isinstance(node, Mapping) and "$ref" in node for node in level):
            raise InvalidRequest(f"{path}: $ref is not supported; write the schema out")
        level = [child for node in level for child in _children(node)]
    if level:
        raise InvalidRequest(f"{path}: deeper than {INPUT_SCHEMA_DEPTH_MAX} levels")


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list) else ()


def _check_servers(mcp_servers: Sequence[Wire], toolset_servers: set[str], where: str) -> None:
    declared: set[str] = set()
    for number, server in enumerate(mcp_servers):
        name = server["name"]
        if name in declared:
            raise InvalidRequest(f"{where}mcp_servers.{number}.name: {name!r} is used twice")
        if name not in toolset_servers:
            raise InvalidRequest(
                f"{where}mcp_servers.{number}.name: no mcp_toolset in tools names {name!r}; add one"
                " (sessions of such an agent cannot be started on this server yet)"
            )
        declared.add(name)
    for name in sorted(toolset_servers - declared):
        raise InvalidRequest(f"{where}tools: an mcp_toolset names {name!r}, which is not in mcp_servers")
