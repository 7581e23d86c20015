"""Request shapes of sessions."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from corral.api.schema.agents import AgentChoice, McpServers, Tools
from corral.api.schema.events import InitialEvents
from corral.api.schema.strict import OMITTED, Metadata, MetadataPatch, Strict, not_yet
from corral.kernel.limits import SESSION_VAULTS_MAX, TITLE_CHARS_MAX


def _never(value: Any) -> Any:
    raise ValueError("vault_ids cannot be changed after a session is created")


Title = Annotated[str, StringConstraints(max_length=TITLE_CHARS_MAX)]


class SessionCreate(Strict):
    agent: AgentChoice
    environment_id: str
    title: Title | None = None
    metadata: Metadata | None = None
    initial_events: InitialEvents | None = None
    resources: Annotated[list[Any] | None, not_yet("resources are")] = None
    vault_ids: Annotated[list[str], Field(max_length=SESSION_VAULTS_MAX)] | None = None
    budget: Annotated[dict[str, Any] | None, not_yet("budgets are")] = None


class SessionAgentUpdate(Strict):
    tools: Tools | None = None
    mcp_servers: McpServers | None = None


class SessionUpdate(Strict):
    """Omitted: keep."""

    title: Title | None = None
    metadata: MetadataPatch | None = None
    agent: SessionAgentUpdate | None = None
    vault_ids: Annotated[Any, AfterValidator(_never)] = OMITTED
    budget: Annotated[dict[str, Any] | None, not_yet("budgets are")] = None
