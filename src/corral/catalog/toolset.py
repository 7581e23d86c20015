"""Tools of an agent: what may be configured, and the form in which it is stored and shown.

Stored tools are resolved: every submitted entry has `enabled` and `permission_policy`, so that whoever
reads them needs no defaults. Source: API docs, tools.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corral.catalog.networking import NetworkPolicy
from corral.catalog.records import Wire
from corral.catalog.web.domains import split_domain
from corral.catalog.web.rules import limited_to
from corral.catalog.web.settings import NO_SEARCH, WEB_SETTINGS, WEB_TOOLS, resolve_web_tool
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import INPUT_SCHEMA_DEPTH_MAX, TOOLS_PER_AGENT_MAX

SANDBOX_TOOLS = ("bash", "read", "write", "edit", "glob", "grep")
AGENT_TOOLSET = "agent_toolset_20260401"

_ALLOW, _ASK = {"type": "always_allow"}, {"type": "always_ask"}
PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def resolve_tools(
    tools: Sequence[Wire], mcp_servers: Sequence[Wire] | None, *, where: str = "", has_search: bool = False
) -> list[Wire]:
    """Check and complete submitted tools. `where` prefixes field paths, such as `agent.`. has_search: there
    is a search engine to ask, so `web_search` may be enabled. mcp_servers: None if whoever knows them
    checks them (`check_servers`).

    Raises InvalidRequest naming the field.
    """
    all_custom = {tool["name"] for tool in tools if tool["type"] == "custom"}
    resolved: list[Wire] = []
    custom_names: set[str] = set()
    toolset_servers: set[str] = set()
    count = 0
    for number, tool in enumerate(tools):
        path = f"{where}tools.{number}"
        if tool["type"] == AGENT_TOOLSET:
            if any(earlier["type"] == AGENT_TOOLSET for earlier in resolved):
                raise InvalidRequest(f"{path}.type: {AGENT_TOOLSET} may be listed once")
            resolved.append(_agent_toolset(tool, path, custom_tools=all_custom, has_search=has_search))
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
    if mcp_servers is not None:
        check_servers(resolved, mcp_servers, where=where)
    return resolved


def offers(tools: Sequence[Wire], name: str) -> bool:
    """Whether these resolved tools have that built-in tool, enabled."""
    return any(_configured(tool, name)["enabled"] for tool in tools if tool["type"] == AGENT_TOOLSET)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTool:
    """A built-in tool in resolved tools, and where: `tools.0.configs.1`, or its default config."""

    path: str
    config: Wire


def built_in(tools: Sequence[Wire], name: str) -> FoundTool | None:
    """The built-in tool of resolved tools, enabled or not; None without a toolset that has it."""
    for number, tool in enumerate(tools):
        if tool["type"] == AGENT_TOOLSET:
            names = [config["name"] for config in tool["configs"]]
            at = f"configs.{names.index(name)}" if name in names else "default_config"
            return FoundTool(path=f"tools.{number}.{at}", config=_configured(tool, name))
    return None


def check_web_networking(tools: Sequence[Wire], environment: Wire, *, where: str = "agent.") -> None:
    """Whether the lists of these stored tools can be kept in this environment (its stored config).

    Raises InvalidRequest for an enabled web tool that allows a domain outside of `allowed_hosts`.
    """
    for name in WEB_TOOLS:
        found = built_in(tools, name)
        if found is not None and found.config["enabled"]:
            _check_networking(found, environment, where)


def check_web_settings(tools: Sequence[Wire], environment: Wire, name: str) -> None:
    """Whether the settings of this web tool, stored some time ago, could be stored now: what is a registry
    suffix changes, as do the rules of a newer server. Raises InvalidRequest naming the field."""
    found = built_in(tools, name)
    if found is not None and found.config["enabled"]:
        custom_tools = {tool["name"] for tool in tools if tool["type"] == "custom"}
        resolve_web_tool(name, found.config, f"agent.{found.path}", custom_tools=custom_tools)
        _check_networking(found, environment, "agent.")


def _check_networking(found: FoundTool, environment: Wire, where: str) -> None:
    policy = NetworkPolicy(hosts=limited_to(environment))
    for number, entry in enumerate(found.config.get("allowed_domains") or ()):
        if not policy.allows(split_domain(entry)[0]):
            raise InvalidRequest(
                f"{where}{found.path}.allowed_domains.{number}: {entry!r} is not among the"
                " networking.allowed_hosts of the environment, which is limited to those"
            )


def _configured(toolset: Wire, name: str) -> Wire:
    found = next((config for config in toolset["configs"] if config["name"] == name), None)
    return found or {"type": name, "name": name, **toolset["default_config"]}


def _agent_toolset(tool: Wire, path: str, *, custom_tools: Collection[str], has_search: bool) -> Wire:
    default = _settings(tool.get("default_config") or {}, f"{path}.default_config", True, _ALLOW)
    configs: list[Wire] = []
    for number, config in enumerate(tool.get("configs", ())):
        at, name = f"{path}.configs.{number}", config["name"]
        if any(earlier["name"] == name for earlier in configs):
            raise InvalidRequest(f"{at}.name: {name!r} is configured twice")
        if config.get("type", name) != name:
            raise InvalidRequest(f"{at}.type: must equal the name {name!r}, or be left out")
        settings = _settings(config, at, default["enabled"], default["permission_policy"])
        if name in WEB_TOOLS:
            settings |= resolve_web_tool(name, config, at, custom_tools=custom_tools)
        else:
            for setting in sorted({each for names in WEB_SETTINGS.values() for each in names}):
                if config.get(setting) is not None:
                    raise InvalidRequest(f"{at}.{setting}: Extra inputs are not permitted for {name!r}")
        if name == "web_search" and settings["enabled"] and not has_search:
            raise InvalidRequest(f"{at}.name: {NO_SEARCH}")
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
        if not PROPERTY_NAME.fullmatch(name):
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


def check_servers(tools: Sequence[Wire], mcp_servers: Sequence[Wire], *, where: str = "") -> None:
    """Whether resolved tools and servers name each other. Raises InvalidRequest."""
    toolset_servers = {tool["mcp_server_name"] for tool in tools if tool["type"] == "mcp_toolset"}
    declared: set[str] = set()
    for number, server in enumerate(mcp_servers):
        name = server["name"]
        if name in declared:
            raise InvalidRequest(f"{where}mcp_servers.{number}.name: {name!r} is used twice")
        if name not in toolset_servers:
            raise InvalidRequest(
                f"{where}mcp_servers.{number}.name: no mcp_toolset in tools names {name!r}; add one"
            )
        declared.add(name)
    for name in sorted(toolset_servers - declared):
        raise InvalidRequest(f"{where}tools: an mcp_toolset names {name!r}, which is not in mcp_servers")
