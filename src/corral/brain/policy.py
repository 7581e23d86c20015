"""Which tools an agent has, and whether a call may run. Source: API docs, tools "Permission policies"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from corral.brain import mcp
from corral.brain.toolset import BUILT_IN
from corral.session.content import Json
from corral.session.state import PendingCall

Permission = Literal["allow", "ask", "deny"]
UNJUDGED: Mapping[str, Json] = {"type": "ask", "reason_code": "indeterminate"}
_NOTHING: Final[mcp.Told] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`evaluation` is absent (None) only when the call was refused before any policy applied. tool: of
    an MCP server, if it is one of those."""

    permission: Permission
    evaluation: Mapping[str, Json] | None
    is_custom: bool = False
    tool: mcp.McpTool | None = None


def offered(
    agent: Mapping[str, Json], *, has_search: bool = False, told: mcp.Told = _NOTHING
) -> Sequence[Mapping[str, Json]]:
    """The tool definitions shown to the model: enabled built-in tools, custom tools and those of MCP
    servers, in the order of the agent's `tools`. Stable for equal agents, so that prompts share their
    prefix.

    has_search: there is a search engine to ask; else nobody is told of `web_search`. told: as `Thread.mcp`.
    """
    definitions: list[Mapping[str, Json]] = []
    for entry in agent["tools"]:
        if entry["type"] == "agent_toolset_20260401":
            definitions += [
                definition
                for name, definition in BUILT_IN.items()
                if _config(entry, name)["enabled"] and (has_search or name != "web_search")
            ]
        elif entry["type"] == "custom":
            definitions.append(
                {key: entry[key] for key in ("name", "description", "input_schema") if key in entry}
            )
        elif entry["type"] == "mcp_toolset":
            definitions += mcp.offered(agent, entry, told)
    return definitions


def needs_judge(agent: Mapping[str, Json], name: str, *, told: mcp.Told = _NOTHING) -> bool:
    """Whether calls of this tool are judged one by one."""
    evaluation = evaluate(agent, name, told=told).evaluation
    return evaluation is not None and evaluation["type"] == "auto"


def is_risky(evaluation: Mapping[str, Json]) -> bool:
    """Whether a call was denied for what it does."""
    return (evaluation.get("evaluated_permission") or {}).get("reason_code") == "high_risk"


def evaluate(
    agent: Mapping[str, Json],
    name: str,
    *,
    judged: Mapping[str, Json] = UNJUDGED,
    told: mcp.Told = _NOTHING,
) -> Verdict:
    """Decide on one call by the name that the model gives. judged: the judgement, for policy `auto`."""
    tool = mcp.called(agent, told, name)
    if tool is not None:
        if tool.config["enabled"] and tool.is_listed:
            return _by_policy(tool.config["permission_policy"]["type"], judged, tool)
        return Verdict(permission="deny", evaluation=None, tool=tool)
    for entry in agent["tools"]:
        if entry["type"] == "custom" and entry["name"] == name:
            return Verdict(permission="allow", evaluation=None, is_custom=True)
        if entry["type"] == "agent_toolset_20260401" and name in BUILT_IN:
            config = _config(entry, name)
            if config["enabled"]:
                return _by_policy(config["permission_policy"]["type"], judged)
    return Verdict(permission="deny", evaluation=None)


def refusal(call: PendingCall) -> str:
    """What is said of a call that was refused before any policy applied."""
    if call.mcp_server is None:
        return f"The tool {call.name!r} is not enabled in this session."
    return f"The MCP server {call.mcp_server!r} has no tool {call.name!r} that is enabled in this session."


def _by_policy(policy: str, judged: Mapping[str, Json], tool: mcp.McpTool | None = None) -> Verdict:
    if policy == "auto":
        evaluation = {"type": policy, "evaluated_permission": judged}
        return Verdict(permission=judged["type"], evaluation=evaluation, tool=tool)
    permission: Permission = "allow" if policy == "always_allow" else "ask"
    return Verdict(permission=permission, evaluation={"type": policy}, tool=tool)


def _config(toolset: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    default = {"enabled": True, "permission_policy": {"type": "always_allow"}}
    default |= {
        key: value for key, value in (toolset.get("default_config") or {}).items() if value is not None
    }
    for config in toolset.get("configs") or ():
        if config["name"] == name:
            return default | {key: value for key, value in config.items() if value is not None}
    return default
