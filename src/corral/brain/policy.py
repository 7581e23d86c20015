"""Which tools an agent has, and whether a call may run. Source: API docs, tools "Permission policies"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from corral.brain.toolset import BUILT_IN
from corral.session.content import Json

Permission = Literal["allow", "ask", "deny"]
UNJUDGED: Mapping[str, Json] = {"type": "ask", "reason_code": "indeterminate"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`evaluation` is absent (None) only when the call was refused before any policy applied."""

    permission: Permission
    evaluation: Mapping[str, Json] | None
    is_custom: bool = False
    refusal: str | None = None


def offered(agent: Mapping[str, Json], *, has_search: bool = False) -> Sequence[Mapping[str, Json]]:
    """The tool definitions shown to the model: enabled built-in tools, then custom tools, in the order
    of the agent's `tools`. Stable for equal agents, so that prompts share their prefix.

    has_search: there is a search engine to ask; else nobody is told of `web_search`.
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
    return definitions


def needs_judge(agent: Mapping[str, Json], name: str) -> bool:
    """Whether calls of this tool are judged one by one."""
    evaluation = evaluate(agent, name).evaluation
    return evaluation is not None and evaluation["type"] == "auto"


def is_risky(evaluation: Mapping[str, Json]) -> bool:
    """Whether a call was denied for what it does."""
    return (evaluation.get("evaluated_permission") or {}).get("reason_code") == "high_risk"


def evaluate(agent: Mapping[str, Json], name: str, *, judged: Mapping[str, Json] = UNJUDGED) -> Verdict:
    """Decide on one call by tool name. judged: the judgement, for policy `auto`."""
    for entry in agent["tools"]:
        if entry["type"] == "custom" and entry["name"] == name:
            return Verdict(permission="allow", evaluation=None, is_custom=True)
        if entry["type"] == "agent_toolset_20260401" and name in BUILT_IN:
            config = _config(entry, name)
            if config["enabled"]:
                policy = config["permission_policy"]["type"]
                if policy == "auto":
                    evaluation = {"type": policy, "evaluated_permission": judged}
                    return Verdict(permission=judged["type"], evaluation=evaluation)
                permission: Permission = "allow" if policy == "always_allow" else "ask"
                return Verdict(permission=permission, evaluation={"type": policy})
    return Verdict(
        permission="deny",
        evaluation=None,
        refusal=f"The tool {name!r} is not enabled in this session.",
    )


def _config(toolset: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    default = {"enabled": True, "permission_policy": {"type": "always_allow"}}
    default |= {
        key: value for key, value in (toolset.get("default_config") or {}).items() if value is not None
    }
    for config in toolset.get("configs") or ():
        if config["name"] == name:
            return default | {key: value for key, value in config.items() if value is not None}
    return default
