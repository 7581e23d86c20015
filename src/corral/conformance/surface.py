"""Every endpoint and event type of the managed agents API around one agent, as the official SDK 2.10.0 has
them."""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["EVENT_TYPES", "EVENT_TYPES_LATER", "SURFACE", "Endpoint"]


class Endpoint(NamedTuple):
    """`sdk`: the method of `anthropic.Anthropic`, below `.beta`."""

    group: str
    method: str
    path: str
    sdk: str

    @property
    def name(self) -> str:
        """`GET /v1/agents`; what cases say they cover."""
        return f"{self.method} {self.path}"


SURFACE: tuple[Endpoint, ...] = (
    Endpoint("agents", "POST", "/v1/agents", "agents.create"),
    Endpoint("agents", "GET", "/v1/agents/{agent_id}", "agents.retrieve"),
    Endpoint("agents", "POST", "/v1/agents/{agent_id}", "agents.update"),
    Endpoint("agents", "GET", "/v1/agents", "agents.list"),
    Endpoint("agents", "POST", "/v1/agents/{agent_id}/archive", "agents.archive"),
    Endpoint("agents", "GET", "/v1/agents/{agent_id}/versions", "agents.versions.list"),
    Endpoint("environments", "POST", "/v1/environments", "environments.create"),
    Endpoint("environments", "GET", "/v1/environments/{environment_id}", "environments.retrieve"),
    Endpoint("environments", "POST", "/v1/environments/{environment_id}", "environments.update"),
    Endpoint("environments", "GET", "/v1/environments", "environments.list"),
    Endpoint("environments", "DELETE", "/v1/environments/{environment_id}", "environments.delete"),
    Endpoint("environments", "POST", "/v1/environments/{environment_id}/archive", "environments.archive"),
    Endpoint(
        "environments",
        "GET",
        "/v1/environments/{environment_id}/work/{work_id}",
        "environments.work.retrieve",
    ),
    Endpoint(
        "environments",
        "POST",
        "/v1/environments/{environment_id}/work/{work_id}",
        "environments.work.update",
    ),
    Endpoint("environments", "GET", "/v1/environments/{environment_id}/work", "environments.work.list"),
    Endpoint(
        "environments",
        "POST",
        "/v1/environments/{environment_id}/work/{work_id}/ack",
        "environments.work.ack",
    ),
    Endpoint(
        "environments",
        "POST",
        "/v1/environments/{environment_id}/work/{work_id}/heartbeat",
        "environments.work.heartbeat",
    ),
    Endpoint(
        "environments", "GET", "/v1/environments/{environment_id}/work/poll", "environments.work.poll"
    ),
    Endpoint(
        "environments", "GET", "/v1/environments/{environment_id}/work/stats", "environments.work.stats"
    ),
    Endpoint(
        "environments",
        "POST",
        "/v1/environments/{environment_id}/work/{work_id}/stop",
        "environments.work.stop",
    ),
    Endpoint("sessions", "POST", "/v1/sessions", "sessions.create"),
    Endpoint("sessions", "GET", "/v1/sessions/{session_id}", "sessions.retrieve"),
    Endpoint("sessions", "POST", "/v1/sessions/{session_id}", "sessions.update"),
    Endpoint("sessions", "GET", "/v1/sessions", "sessions.list"),
    Endpoint("sessions", "DELETE", "/v1/sessions/{session_id}", "sessions.delete"),
    Endpoint("sessions", "POST", "/v1/sessions/{session_id}/archive", "sessions.archive"),
    Endpoint("sessions", "GET", "/v1/sessions/{session_id}/events", "sessions.events.list"),
    Endpoint("sessions", "POST", "/v1/sessions/{session_id}/events", "sessions.events.send"),
    Endpoint("sessions", "GET", "/v1/sessions/{session_id}/events/stream", "sessions.events.stream"),
    Endpoint(
        "sessions",
        "GET",
        "/v1/sessions/{session_id}/resources/{resource_id}",
        "sessions.resources.retrieve",
    ),
    Endpoint(
        "sessions", "POST", "/v1/sessions/{session_id}/resources/{resource_id}", "sessions.resources.update"
    ),
    Endpoint("sessions", "GET", "/v1/sessions/{session_id}/resources", "sessions.resources.list"),
    Endpoint(
        "sessions",
        "DELETE",
        "/v1/sessions/{session_id}/resources/{resource_id}",
        "sessions.resources.delete",
    ),
    Endpoint("sessions", "POST", "/v1/sessions/{session_id}/resources", "sessions.resources.add"),
    Endpoint(
        "sessions", "GET", "/v1/sessions/{session_id}/threads/{thread_id}", "sessions.threads.retrieve"
    ),
    Endpoint("sessions", "GET", "/v1/sessions/{session_id}/threads", "sessions.threads.list"),
    Endpoint(
        "sessions",
        "POST",
        "/v1/sessions/{session_id}/threads/{thread_id}/archive",
        "sessions.threads.archive",
    ),
    Endpoint(
        "sessions",
        "GET",
        "/v1/sessions/{session_id}/threads/{thread_id}/events",
        "sessions.threads.events.list",
    ),
    Endpoint(
        "sessions",
        "GET",
        "/v1/sessions/{session_id}/threads/{thread_id}/stream",
        "sessions.threads.events.stream",
    ),
    Endpoint("vaults", "POST", "/v1/vaults", "vaults.create"),
    Endpoint("vaults", "GET", "/v1/vaults/{vault_id}", "vaults.retrieve"),
    Endpoint("vaults", "POST", "/v1/vaults/{vault_id}", "vaults.update"),
    Endpoint("vaults", "GET", "/v1/vaults", "vaults.list"),
    Endpoint("vaults", "DELETE", "/v1/vaults/{vault_id}", "vaults.delete"),
    Endpoint("vaults", "POST", "/v1/vaults/{vault_id}/archive", "vaults.archive"),
    Endpoint("vaults", "POST", "/v1/vaults/{vault_id}/credentials", "vaults.credentials.create"),
    Endpoint(
        "vaults", "GET", "/v1/vaults/{vault_id}/credentials/{credential_id}", "vaults.credentials.retrieve"
    ),
    Endpoint(
        "vaults", "POST", "/v1/vaults/{vault_id}/credentials/{credential_id}", "vaults.credentials.update"
    ),
    Endpoint("vaults", "GET", "/v1/vaults/{vault_id}/credentials", "vaults.credentials.list"),
    Endpoint(
        "vaults", "DELETE", "/v1/vaults/{vault_id}/credentials/{credential_id}", "vaults.credentials.delete"
    ),
    Endpoint(
        "vaults",
        "POST",
        "/v1/vaults/{vault_id}/credentials/{credential_id}/archive",
        "vaults.credentials.archive",
    ),
    Endpoint(
        "vaults",
        "POST",
        "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate",
        "vaults.credentials.mcp_oauth_validate",
    ),
    Endpoint("memory_stores", "POST", "/v1/memory_stores", "memory_stores.create"),
    Endpoint("memory_stores", "GET", "/v1/memory_stores/{memory_store_id}", "memory_stores.retrieve"),
    Endpoint("memory_stores", "POST", "/v1/memory_stores/{memory_store_id}", "memory_stores.update"),
    Endpoint("memory_stores", "GET", "/v1/memory_stores", "memory_stores.list"),
    Endpoint("memory_stores", "DELETE", "/v1/memory_stores/{memory_store_id}", "memory_stores.delete"),
    Endpoint(
        "memory_stores", "POST", "/v1/memory_stores/{memory_store_id}/archive", "memory_stores.archive"
    ),
    Endpoint(
        "memory_stores",
        "POST",
        "/v1/memory_stores/{memory_store_id}/memories",
        "memory_stores.memories.create",
    ),
    Endpoint(
        "memory_stores",
        "GET",
        "/v1/memory_stores/{memory_store_id}/memories/{memory_id}",
        "memory_stores.memories.retrieve",
    ),
    Endpoint(
        "memory_stores",
        "POST",
        "/v1/memory_stores/{memory_store_id}/memories/{memory_id}",
        "memory_stores.memories.update",
    ),
    Endpoint(
        "memory_stores",
        "GET",
        "/v1/memory_stores/{memory_store_id}/memories",
        "memory_stores.memories.list",
    ),
    Endpoint(
        "memory_stores",
        "DELETE",
        "/v1/memory_stores/{memory_store_id}/memories/{memory_id}",
        "memory_stores.memories.delete",
    ),
    Endpoint(
        "memory_stores",
        "GET",
        "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}",
        "memory_stores.memory_versions.retrieve",
    ),
    Endpoint(
        "memory_stores",
        "GET",
        "/v1/memory_stores/{memory_store_id}/memory_versions",
        "memory_stores.memory_versions.list",
    ),
    Endpoint(
        "memory_stores",
        "POST",
        "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact",
        "memory_stores.memory_versions.redact",
    ),
    Endpoint("skills", "POST", "/v1/skills", "skills.create"),
    Endpoint("skills", "GET", "/v1/skills/{skill_id}", "skills.retrieve"),
    Endpoint("skills", "GET", "/v1/skills", "skills.list"),
    Endpoint("skills", "DELETE", "/v1/skills/{skill_id}", "skills.delete"),
    Endpoint("skills", "POST", "/v1/skills/{skill_id}/versions", "skills.versions.create"),
    Endpoint("skills", "GET", "/v1/skills/{skill_id}/versions/{version}", "skills.versions.retrieve"),
    Endpoint("skills", "GET", "/v1/skills/{skill_id}/versions", "skills.versions.list"),
    Endpoint("skills", "DELETE", "/v1/skills/{skill_id}/versions/{version}", "skills.versions.delete"),
    Endpoint(
        "skills", "GET", "/v1/skills/{skill_id}/versions/{version}/content", "skills.versions.download"
    ),
    Endpoint("files", "GET", "/v1/files", "files.list"),
    Endpoint("files", "DELETE", "/v1/files/{file_id}", "files.delete"),
    Endpoint("files", "GET", "/v1/files/{file_id}/content", "files.download"),
    Endpoint("files", "GET", "/v1/files/{file_id}", "files.retrieve_metadata"),
    Endpoint("files", "POST", "/v1/files", "files.upload"),
    Endpoint("models", "GET", "/v1/models/{model_id}", "models.retrieve"),
    Endpoint("models", "GET", "/v1/models", "models.list"),
    Endpoint("models", "POST", "/v1/messages/count_tokens", "messages.count_tokens"),
)

EVENT_TYPES: tuple[str, ...] = (
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.custom_tool_result",
    "user.tool_result",
    "system.message",
    "agent.message",
    "agent.thinking",
    "agent.tool_use",
    "agent.tool_result",
    "agent.mcp_tool_use",
    "agent.mcp_tool_result",
    "agent.custom_tool_use",
    "agent.thread_context_compacted",
    "session.status_running",
    "session.status_rescheduled",
    "session.status_idle",
    "session.status_terminated",
    "session.thread_status_running",
    "session.thread_status_rescheduled",
    "session.thread_status_idle",
    "session.thread_status_terminated",
    "session.error",
    "session.updated",
    "session.usage",
    "session.deleted",
    "span.model_request_start",
    "span.model_request_end",
    "event_start",
    "event_delta",
)
"""What an event stream of a session with one agent can bring, previews included."""

EVENT_TYPES_LATER: Mapping[str, str] = {
    "agent.thread_message_sent": "many agents",
    "agent.thread_message_received": "many agents",
    "session.thread_created": "many agents",
    "user.define_outcome": "outcomes",
    "span.outcome_evaluation_start": "outcomes",
    "span.outcome_evaluation_ongoing": "outcomes",
    "span.outcome_evaluation_end": "outcomes",
    "workflow_run.created": "many agents",
    "workflow_run.status_running": "many agents",
    "workflow_run.status_idle": "many agents",
    "workflow_run.status_ended": "many agents",
    "workflow_run.phase_started": "many agents",
    "workflow_run.phase_ended": "many agents",
    "workflow_run.error": "many agents",
}
"""The rest of what the SDK knows, and what it needs first."""
