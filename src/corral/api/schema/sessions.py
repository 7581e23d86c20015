"""Request shapes of sessions."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from corral.api.schema.agents import AgentChoice, McpServers, Tools
from corral.api.schema.events import InitialEvents
from corral.api.schema.resources import ResourceMount
from corral.api.schema.strict import OMITTED, Metadata, MetadataPatch, Strict, pattern
from corral.kernel.limits import (
    BUDGET_DIGITS_MAX,
    RESOURCES_PER_REQUEST_MAX,
    SESSION_VAULTS_MAX,
    TITLE_CHARS_MAX,
)


def _never(value: Any) -> Any:
    raise ValueError("vault_ids cannot be changed after a session is created")


Title = Annotated[str, StringConstraints(max_length=TITLE_CHARS_MAX)]


class MonetaryAmount(Strict):
    """Whole cents, as text."""

    amount: Annotated[
        str,
        StringConstraints(max_length=BUDGET_DIGITS_MAX),
        pattern(r"^[1-9][0-9]*$", 'must be whole cents as text, at least one: "250" is 2.50 USD'),
    ]
    currency: Literal["USD"]


class BudgetLimit(Strict):
    type: Literal["limit"]
    max_list_cost: MonetaryAmount


class SessionCreate(Strict):
    agent: AgentChoice
    environment_id: str
    title: Title | None = None
    metadata: Metadata | None = None
    initial_events: InitialEvents | None = None
    resources: Annotated[list[ResourceMount], Field(max_length=RESOURCES_PER_REQUEST_MAX)] | None = None
    vault_ids: Annotated[list[str], Field(max_length=SESSION_VAULTS_MAX)] | None = None
    budget: BudgetLimit | None = None


class SessionAgentUpdate(Strict):
    tools: Tools | None = None
    mcp_servers: McpServers | None = None


class SessionUpdate(Strict):
    """Omitted: keep."""

    title: Title | None = None
    metadata: MetadataPatch | None = None
    agent: SessionAgentUpdate | None = None
    vault_ids: Annotated[Any, AfterValidator(_never)] = OMITTED
    budget: BudgetLimit | None = None
