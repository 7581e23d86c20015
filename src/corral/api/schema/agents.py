"""Request shapes of agents. Rules that need more than the request are in `catalog/agents.py`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from corral.api.schema.strict import OMITTED, Metadata, MetadataPatch, Strict, not_yet, pattern
from corral.kernel.limits import (
    AGENT_DESCRIPTION_CHARS_MAX,
    AGENT_NAME_CHARS_MAX,
    AGENT_SYSTEM_CHARS_MAX,
    INTEGER_MAX,
    MCP_SERVER_NAME_CHARS_MAX,
    MCP_SERVERS_PER_AGENT_MAX,
    MCP_URL_CHARS_MAX,
    MODEL_ID_CHARS_MAX,
    ROLE_ARN_CHARS_MAX,
    SKILL_REFERENCE_CHARS_MAX,
    SKILLS_PER_AGENT_MAX,
    TOOL_DESCRIPTION_CHARS_MAX,
    TOOL_NAME_CHARS_MAX,
    TOOLS_PER_AGENT_MAX,
    WEB_LOCATION_CHARS_MAX,
)


def _widen(field: str) -> BeforeValidator:
    """A bare string stands for an object with this one field."""
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


Version = Annotated[int, Field(ge=1, le=INTEGER_MAX)]


class Effort(Strict):
    type: Literal["low", "medium", "high", "xhigh", "max"]


class Model(Strict):
    id: Annotated[str, StringConstraints(min_length=1, max_length=MODEL_ID_CHARS_MAX)]
    effort: Annotated[Effort, _widen("type")] | None = None
    inference_geo: Literal["us", "global"] | None = None
    speed: Literal["standard", "fast"] | None = None


# -- tools --------------------------------------------------------------------------------------------

Place = Annotated[str, StringConstraints(min_length=1, max_length=WEB_LOCATION_CHARS_MAX)]


class PermissionPolicy(Strict):
    type: Literal["always_allow", "always_ask", "auto"]


class ToolsetDefaults(Strict):
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class UserLocation(Strict):
    """Where a search is asked from, about."""

    type: Literal["approximate"]
    city: Place | None = None
    region: Place | None = None
    country: Place | None = None
    timezone: Place | None = None


class ToolReference(Strict):
    type: Literal["tool_reference"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=TOOL_NAME_CHARS_MAX)]


class WholeSource(Strict):
    type: Literal["all", "none"]


class FilteredSource(Strict):
    type: Literal["only", "except"]
    tools: list[ToolReference]


Source = Annotated[WholeSource, _widen("type")]
FilterableSource = Annotated[
    Annotated[WholeSource | FilteredSource, Field(discriminator="type")], _widen("type")
]


class UrlSources(Strict):
    """Where a URL must have been seen to be fetched. Omitted or null: everywhere in that source."""

    user_input: Source | None = None
    client_tool_results: FilterableSource | None = None
    server_tool_results: FilterableSource | None = None


class AgentToolConfig(Strict):
    """One built-in tool. The fields from `allowed_domains` on belong to the web tools
    (`catalog/web` checks them)."""

    name: Literal["bash", "read", "write", "edit", "glob", "grep", "web_fetch", "web_search"]
    type: str | None = None
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    max_content_tokens: int | None = None
    url_sources: UrlSources | None = None
    user_location: UserLocation | None = None


class AgentToolset(Strict):
    type: Literal["agent_toolset_20260401"]
    default_config: ToolsetDefaults | None = None
    configs: list[AgentToolConfig] = OMITTED


class McpToolConfig(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=TOOL_NAME_CHARS_MAX)]
    enabled: bool | None = None
    permission_policy: PermissionPolicy | None = None


class McpToolset(Strict):
    type: Literal["mcp_toolset"]
    mcp_server_name: Annotated[str, StringConstraints(min_length=1, max_length=MCP_SERVER_NAME_CHARS_MAX)]
    default_config: ToolsetDefaults | None = None
    configs: list[McpToolConfig] = OMITTED


class CustomTool(Strict):
    """`input_schema` is a JSON Schema: its unknown keywords are kept (`catalog/toolset.py` checks it)."""

    type: Literal["custom"]
    name: Annotated[
        str, StringConstraints(min_length=1, max_length=TOOL_NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9_-]+$")
    ]
    description: Annotated[str, StringConstraints(min_length=1, max_length=TOOL_DESCRIPTION_CHARS_MAX)]
    input_schema: dict[str, Any]


Tool = Annotated[AgentToolset | McpToolset | CustomTool, Field(discriminator="type")]
Tools = Annotated[list[Tool], Field(max_length=TOOLS_PER_AGENT_MAX)]


class McpServer(Strict):
    type: Literal["url"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=MCP_SERVER_NAME_CHARS_MAX)]
    url: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MCP_URL_CHARS_MAX),
        pattern(r"^https?://[^\s]+$", "must be a URL such as https://mcp.example.com/v1"),
    ]


McpServers = Annotated[list[McpServer], Field(max_length=MCP_SERVERS_PER_AGENT_MAX)]


class ServiceAccount(Strict):
    type: Literal["service_account"]


class AwsRole(Strict):
    type: Literal["aws_role"]
    role_arn: Annotated[str, StringConstraints(min_length=1, max_length=ROLE_ARN_CHARS_MAX)]


ExecutionIdentity = Annotated[ServiceAccount | AwsRole, Field(discriminator="type")]

Name = Annotated[str, StringConstraints(min_length=1, max_length=AGENT_NAME_CHARS_MAX)]
Description = Annotated[str, StringConstraints(max_length=AGENT_DESCRIPTION_CHARS_MAX)]
System = Annotated[str, StringConstraints(max_length=AGENT_SYSTEM_CHARS_MAX)]
ModelOrName = Annotated[Model, _widen("id")]


class SkillReference(Strict):
    """`version`: an id, a number of the older API, or "latest"; left out, the latest."""

    type: Literal["custom", "anthropic"]
    skill_id: Annotated[str, StringConstraints(min_length=1, max_length=SKILL_REFERENCE_CHARS_MAX)]
    version: (
        Annotated[str, StringConstraints(min_length=1, max_length=SKILL_REFERENCE_CHARS_MAX)] | None
    ) = None


Skills = Annotated[list[SkillReference], Field(max_length=SKILLS_PER_AGENT_MAX)]
NoMultiagent = Annotated[dict[str, Any] | None, not_yet("multiagent is")]


class AgentCreate(Strict):
    name: Name
    model: ModelOrName
    system: System | None = None
    description: Description | None = None
    tools: Tools | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None
    multiagent: NoMultiagent = None
    execution_identity: ExecutionIdentity | None = None
    metadata: Metadata | None = None


class AgentUpdate(Strict):
    """Omitted: keep. Null: clear, where the field can be cleared."""

    version: Version | None = None
    name: Name = OMITTED
    model: ModelOrName = OMITTED
    system: System | None = None
    description: Description | None = None
    tools: Tools | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None
    multiagent: NoMultiagent = None
    execution_identity: ExecutionIdentity | None = None
    metadata: MetadataPatch | None = None


class AgentRef(Strict):
    type: Literal["agent"]
    id: str
    version: Version | None = None


class AgentWithOverrides(Strict):
    """Omitted: inherit. Null or []: run without. A value replaces completely."""

    type: Literal["agent_with_overrides"]
    id: str
    version: Version | None = None
    model: ModelOrName | None = None
    system: System | None = None
    tools: Tools | None = None
    mcp_servers: McpServers | None = None
    skills: Skills | None = None


AgentChoice = Annotated[
    Annotated[AgentRef | AgentWithOverrides, Field(discriminator="type")],
    BeforeValidator(lambda value: {"type": "agent", "id": value} if isinstance(value, str) else value),
]
