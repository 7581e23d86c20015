"""What memories and their versions look like on the wire. Every field of the official types."""

from corral.catalog.memory.ports import Actor, ActorType, Memory, MemoryVersion
from corral.kernel.clock import rfc3339
from corral.session.content import Json

__all__ = ["memory_view", "prefix_view", "version_view"]

_ID_OF: dict[ActorType, str] = {
    "session_actor": "session_id",
    "api_actor": "api_key_id",
    "user_actor": "user_id",
    "service_account_actor": "service_account_id",
}


def memory_view(memory: Memory, *, is_full: bool) -> dict[str, Json]:
    return {
        "id": memory.memory_id,
        "type": "memory",
        "memory_store_id": memory.memory_store_id,
        "path": memory.path,
        "content": memory.content if is_full else None,
        "content_sha256": memory.content_sha256,
        "content_size_bytes": memory.content_size_bytes,
        "memory_version_id": memory.memory_version_id,
        "created_at": rfc3339(memory.created_at),
        "updated_at": rfc3339(memory.updated_at),
    }


def prefix_view(path: str) -> dict[str, Json]:
    return {"type": "memory_prefix", "path": path}


def version_view(version: MemoryVersion) -> dict[str, Json]:
    """With the content that it was read with."""
    return {
        "id": version.memory_version_id,
        "type": "memory_version",
        "memory_store_id": version.memory_store_id,
        "memory_id": version.memory_id,
        "operation": version.operation,
        "path": version.path,
        "content": version.content,
        "content_sha256": version.content_sha256,
        "content_size_bytes": version.content_size_bytes,
        "created_at": rfc3339(version.created_at),
        "created_by": _actor(version.created_by),
        "redacted_at": None if version.redacted_at is None else rfc3339(version.redacted_at),
        "redacted_by": _actor(version.redacted_by),
    }


def _actor(actor: Actor | None) -> Json:
    return None if actor is None else {"type": actor.type, _ID_OF[actor.type]: actor.id}
