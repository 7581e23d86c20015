"""Agents: pure rules from request to record, from update to next version, from overrides to snapshot.

The request's shape was checked at the edge: mappings here hold exactly the fields that the client set.
Source: API docs, agents.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from corral.catalog.metadata import merged
from corral.catalog.models import ModelTable
from corral.catalog.records import Wire
from corral.catalog.skills.attached import check_readable
from corral.catalog.toolset import resolve_tools
from corral.kernel.clock import rfc3339
from corral.kernel.errors import Conflict, InvalidRequest
from corral.kernel.ids import AgentId

Fields = Mapping[str, Any]

_IN_SESSION = (
    "id",
    "type",
    "version",
    "name",
    "description",
    "system",
    "model",
    "execution_identity",
    "tools",
    "mcp_servers",
    "skills",
    "multiagent",
)


def new_agent(
    given: Fields, *, agent_id: AgentId, models: ModelTable, now: datetime, has_search: bool = False
) -> Wire:
    """Version 1. `skills` are resolved already. has_search: as for `resolve_tools`. Raises InvalidRequest
    naming the field."""
    mcp_servers, skills = given.get("mcp_servers") or [], given.get("skills") or []
    tools = resolve_tools(given.get("tools") or [], mcp_servers, has_search=has_search)
    check_readable(skills, tools)
    return {
        "id": agent_id,
        "type": "agent",
        "version": 1,
        "name": given["name"],
        "description": given.get("description") or None,
        "system": given.get("system") or None,
        "model": resolve_model(given["model"], models=models),
        "execution_identity": given.get("execution_identity") or {"type": "service_account"},
        "tools": tools,
        "mcp_servers": mcp_servers,
        "skills": skills,
        "multiagent": None,
        "metadata": merged({}, given.get("metadata")),
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
        "archived_at": None,
    }


def updated_agent(
    current: Wire, given: Fields, *, models: ModelTable, now: datetime, has_search: bool = False
) -> Wire:
    """The next version, or `current` itself if nothing changes. `skills` are resolved already.

    Raises Conflict for a `version` that is not the current one, even if nothing would change;
    InvalidRequest for an archived agent and for wrong fields.
    """
    if current["archived_at"] is not None:
        raise InvalidRequest(f"Agent {current['id']} is archived and cannot be updated")
    expected = given.get("version")
    if expected is not None and expected != current["version"]:
        raise Conflict(
            f"version: agent {current['id']} is at version {current['version']}, not {expected};"
            " read it again and repeat the update"
        )
    after = dict(current)
    after.update({name: given[name] for name in ("name",) if name in given})
    after.update({name: given[name] or None for name in ("description", "system") if name in given})
    after.update({name: given[name] or [] for name in ("tools", "mcp_servers", "skills") if name in given})
    if "execution_identity" in given:
        after["execution_identity"] = given["execution_identity"] or {"type": "service_account"}
    if "model" in given:
        same = given["model"]["id"] == current["model"]["id"]
        after["model"] = resolve_model(
            given["model"], models=models, kept_effort=current["model"]["effort"] if same else None
        )
    after["metadata"] = merged(current["metadata"], given.get("metadata"))
    after["tools"] = resolve_tools(after["tools"], after["mcp_servers"], has_search=has_search)
    check_readable(after["skills"], after["tools"])
    if after == current:
        return current
    return {**after, "version": current["version"] + 1, "updated_at": rfc3339(now)}


def resolve_model(given: Fields, *, models: ModelTable, kept_effort: Wire | None = None) -> Wire:
    """A model object with every field. Without an effort: the kept one, else the model's default.

    Raises InvalidRequest for a name no provider claims, or a setting the model does not have.
    """
    effort = given.get("effort") or kept_effort
    try:
        info = models.resolve(given["id"])
        info.check(
            effort=effort["type"] if effort else None,
            speed=given.get("speed"),
            inference_geo=given.get("inference_geo"),
        )
    except InvalidRequest as wrong:
        raise InvalidRequest(f"model: {wrong.message}") from None
    if effort is None and info.efforts:
        effort = {"type": info.default_effort}
    return {
        "id": given["id"],
        "speed": given.get("speed") or "standard",
        "effort": effort,
        "inference_geo": given.get("inference_geo"),
    }


def session_agent(agent: Wire, overrides: Fields, *, models: ModelTable, has_search: bool = False) -> Wire:
    """The snapshot that a session keeps: the agent with its overrides, under the agent's id and version.

    Omitted: inherit; null or []: run without; a value replaces completely (skills are resolved already).
    Raises InvalidRequest, also for what no session can run yet.
    """
    if agent["archived_at"] is not None:
        raise InvalidRequest(f"agent: agent {agent['id']} is archived; new sessions need another one")
    snapshot: dict[str, Any] = {name: agent[name] for name in _IN_SESSION}
    if "model" in overrides:
        if overrides["model"] is None:
            raise InvalidRequest(
                "agent.model: a session needs a model; leave it out to use the agent's",
                error_code="agent_model_required",
            )
        try:
            snapshot["model"] = resolve_model(overrides["model"], models=models)
        except InvalidRequest as wrong:
            raise InvalidRequest(f"agent.{wrong.message}") from None
    if "system" in overrides:
        snapshot["system"] = overrides["system"] or None
    for name in ("tools", "mcp_servers", "skills"):
        if name in overrides:
            snapshot[name] = overrides[name] or []
    snapshot["tools"] = resolve_tools(
        snapshot["tools"], snapshot["mcp_servers"], where="agent.", has_search=has_search
    )
    check_readable(snapshot["skills"], snapshot["tools"], where="agent.")
    check_runnable(snapshot)
    return snapshot


def check_budgetable(snapshot: Wire, *, models: ModelTable) -> None:
    """Whether a budget can be held: all models that the session may ask have a list price.
    Raises InvalidRequest."""
    model = snapshot["model"]
    if not models.resolve(model["id"]).is_budgetable(model.get("speed") or "standard"):
        speed = " at speed fast" if model.get("speed") == "fast" else ""
        raise InvalidRequest(
            f"budget: the model {model['id']!r} has no list price{speed} on this server, so a budget cannot"
            " be held. Leave it out, or let the operator enter a price: corral models price set",
            error_code="model_not_budgetable",
        )


def session_tools(given: Fields, *, has_search: bool = False) -> list[Wire] | None:
    """The tools of a session update, resolved; None if it leaves them alone. Whether they fit the session's
    MCP servers is seen where those are known. Raises InvalidRequest."""
    if "tools" not in given:
        return None
    return resolve_tools(given["tools"] or [], None, where="agent.", has_search=has_search)


def check_runnable(agent: Wire) -> None:
    """Refuse what a saved agent may have but no session of this server can run. Raises InvalidRequest."""
    identity = agent.get("execution_identity")
    if identity is not None and identity["type"] != "service_account":
        raise InvalidRequest(
            f"agent.execution_identity: sessions cannot run as {identity['type']!r} on this server;"
            " only 'service_account' works"
        )


def thread_agent(snapshot: Wire) -> Wire:
    """What a thread shows: the session's snapshot without `multiagent`."""
    return {name: value for name, value in snapshot.items() if name != "multiagent"}
