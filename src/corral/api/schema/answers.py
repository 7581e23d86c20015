"""What answers look like, for the OpenAPI document: the fields that are always there, and their types.

Answers may have more fields than are named here; a client that is not told of one must not stumble over it.
A test holds every answer of the isolation walk against this.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["ERRORS", "answer_schemas", "answer_to"]

Schema = dict[str, Any]

_FIELDS: Mapping[str, str] = {
    "Agent": "id type=agent version:int name description? system? model:object tools:array"
    " mcp_servers:array skills:array metadata:object created_at:time updated_at:time archived_at:time?",
    "Environment": "id type=environment name config:object metadata:object created_at:time updated_at:time"
    " archived_at:time?",
    "Session": "id type=session status title? agent:object environment_id vault_ids:array resources:array"
    " metadata:object usage:object stats:object created_at:time updated_at:time archived_at:time?",
    "SessionThread": "id type=session_thread session_id parent_thread_id? agent:object status stats:object?"
    " usage:object? created_at:time updated_at:time archived_at:time?",
    "SessionResource": "id type created_at:time updated_at:time",
    "Event": "id type",
    "File": "id type=file filename mime_type size_bytes:int downloadable:bool created_at:time"
    " expires_at:time?",
    "MemoryStore": "id type=memory_store name metadata:object created_at:time updated_at:time"
    " archived_at:time?",
    "Memory": "type path",  # or a prefix of paths
    "MemoryVersion": "id type=memory_version memory_store_id memory_id operation path? content?"
    " created_at:time redacted_at:time?",
    "Skill": "id type=skill display_name latest_version_id? source:object created_at:time updated_at:time",
    "SkillVersion": "id type=skill_version skill_id name description created_at:time",
    "Vault": "id type=vault display_name metadata:object created_at:time updated_at:time archived_at:time?",
    "Credential": "id type=vault_credential vault_id auth:object metadata:object created_at:time"
    " updated_at:time archived_at:time?",
    "ModelInfo": "id type=model display_name created_at:time",
    "Tokens": "input_tokens:int",
    "Work": "id type=work environment_id data:object state metadata:object secret? created_at:time"
    " acknowledged_at:time? started_at:time? latest_heartbeat_at:time? stop_requested_at:time?"
    " stopped_at:time?",
    "WorkHeartbeat": "type=work_heartbeat last_heartbeat lease_extended:bool state ttl_seconds:int",
    "WorkQueueStats": "type=work_queue_stats depth:int pending:int oldest_queued_at:time?"
    " workers_polling:int",
    "EnvironmentKey": "id type=environment_key environment_id name hint created_at:time revoked_at:time?",
    "ApiKey": "id type=api_key name hint role workspace_id created_at:time last_used_at:time?"
    " revoked_at:time?",
    "Workspace": "id type=workspace name created_at:time? archived_at:time?",
    "Sandbox": "type=sandbox host_id session_id is_busy:bool disk_bytes:int",
    "AuditEntry": "id type=audit_entry created_at:time session_id host port:int method decision reason?"
    " credential_id? sent_bytes:int? received_bytes:int? seconds:float? failed?",
    "Killed": "type=killed session_ids:array next_page?",
    "VaultKeys": "type=vault_keys is_rotating:bool keys:array",
    "Deleted": "id type",
}
"""`name` is a string, `name:type` of another type, `name=word` always this word; `?`: or null."""

_NOUNS: Mapping[str, str] = {
    "agents": "Agent",
    "agents/versions": "Agent",
    "environments": "Environment",
    "sessions": "Session",
    "threads": "SessionThread",
    "resources": "SessionResource",
    "events": "Event",
    "files": "File",
    "memory_stores": "MemoryStore",
    "memories": "Memory",
    "memory_versions": "MemoryVersion",
    "skills": "Skill",
    "skills/versions": "SkillVersion",
    "vaults": "Vault",
    "credentials": "Credential",
    "models": "ModelInfo",
    "v1/keys": "ApiKey",
    "workspaces": "Workspace",
    "sandboxes": "Sandbox",
    "audit": "AuditEntry",
    "work": "Work",
    "stats": "WorkQueueStats",
    "heartbeat": "WorkHeartbeat",
    "environments/keys": "EnvironmentKey",
}
"""What the last word of a path stands for that is no verb; some only below another."""

_VERBS = frozenset({"archive", "redact", "evict", "ack", "stop"})
_OTHERWISE: Mapping[tuple[str, str], Schema] = {
    ("GET", "/v1/environments/{environment_id}/work/poll"): {
        "anyOf": [{"$ref": "#/components/schemas/Work"}, {"type": "null"}]
    },
    ("GET", "/v1/environments/{environment_id}/work/stats"): {
        "$ref": "#/components/schemas/WorkQueueStats"
    },
    ("POST", "/v1/messages/count_tokens"): {"$ref": "#/components/schemas/Tokens"},
    ("POST", "/corral/v1/kill"): {"$ref": "#/components/schemas/Killed"},
    ("GET", "/corral/v1/vault/keys"): {"$ref": "#/components/schemas/VaultKeys"},
    ("POST", "/corral/v1/vault/rotate_key"): {"$ref": "#/components/schemas/VaultKeys"},
    ("POST", "/v1/sessions/{session_id}/events"): {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}}},
    },
}
_TYPES: Mapping[str, Schema] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "time": {"type": "string", "format": "date-time"},
    "object": {"type": "object"},
    "array": {"type": "array"},
}

ERRORS: Mapping[str, str] = {
    "400": "InvalidRequest: a field, parameter or header is wrong, or the state does not allow it",
    "401": "Unauthenticated: no valid credential",
    "403": "Forbidden: the credential's role or workspace does not allow it",
    "404": "NotFound: there is none, or it belongs to another workspace",
    "408": "TooSlow: the body did not come fast enough; send it again",
    "409": "Conflict: somebody else was first, or it is in use",
    "413": "TooLarge: the body is larger than it may be",
    "415": "UnsupportedMediaType: a content-encoding that is not known",
    "429": "RateLimited: wait for as long as retry-after says",
    "500": "Internal: a bug of the server; the request id is in its log",
    "529": "Overloaded: nothing was written; wait for as long as retry-after says",
}
"""`Name: meaning`, by status."""


def answer_schemas() -> dict[str, Schema]:
    """By name, for the document's components."""
    error = {
        "type": "object",
        "required": ["type", "error", "request_id"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "details": {"type": "object", "properties": {"error_code": {"type": "string"}}},
                },
            },
            "request_id": {"type": "string"},
        },
    }
    return {"Error": error, **{name: _object(fields) for name, fields in _FIELDS.items()}}


def answer_to(method: str, path: str) -> Schema:
    """The schema of a route's answer of 200; any object if nothing more is known."""
    if (method, path) in _OTHERWISE:
        return _OTHERWISE[method, path]
    words = [word for word in path.split("/") if word]
    last = words[-1]
    if method == "DELETE":
        return {"$ref": "#/components/schemas/Deleted"}
    nouns = [word for word in words if not word.startswith("{") and word not in _VERBS]
    name = _NOUNS.get("/".join(nouns[-2:])) or _NOUNS.get(nouns[-1])
    if name is None:
        return {"type": "object"}
    schema: Schema = {"$ref": f"#/components/schemas/{name}"}
    if method == "GET" and last == nouns[-1]:
        return {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "array", "items": schema},
                "next_page": {"type": ["string", "null"]},
            },
        }
    return schema


def _object(fields: str) -> Schema:
    properties: dict[str, Schema] = {}
    for field in fields.split():
        name, _, word = field.partition("=")
        name, _, kind = name.partition(":")
        may_be_null = (kind or name).endswith("?")
        schema: Schema = {"const": word} if word else dict(_TYPES.get(kind.rstrip("?"), {"type": "string"}))
        if may_be_null:
            schema["type"] = [schema["type"], "null"]
        properties[name.rstrip("?")] = schema
    return {"type": "object", "required": list(properties), "properties": properties}
