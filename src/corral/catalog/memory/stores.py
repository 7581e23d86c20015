"""Memory stores: pure rules from request to record. Mappings hold exactly what the client set."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from corral.catalog.metadata import merged
from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.errors import MemoryRefused
from corral.kernel.ids import MemoryStoreId

__all__ = ["archived", "new_memory_store", "refuse_archived", "updated_memory_store"]

Fields = Mapping[str, Any]


def new_memory_store(given: Fields, *, memory_store_id: MemoryStoreId, now: datetime) -> Wire:
    """Raises InvalidRequest naming the field."""
    return {
        "id": memory_store_id,
        "type": "memory_store",
        "name": given["name"],
        "description": given.get("description") or "",
        "metadata": merged({}, given.get("metadata")),
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
        "archived_at": None,
    }


def updated_memory_store(current: Wire, given: Fields, *, now: datetime) -> Wire:
    """The record after an update, or `current` itself if nothing changes. Raises InvalidRequest."""
    refuse_archived(current["id"], is_archived=current["archived_at"] is not None)
    after = dict(current)
    if given.get("name") is not None:
        after["name"] = given["name"]
    if "description" in given:
        after["description"] = given["description"] or ""
    after["metadata"] = merged(current["metadata"], given.get("metadata"))
    return current if after == current else {**after, "updated_at": rfc3339(now)}


def archived(current: Wire, *, now: datetime) -> Wire:
    """Repeat: safe, the first time stays."""
    if current["archived_at"] is not None:
        return current
    return {**current, "archived_at": rfc3339(now), "updated_at": rfc3339(now)}


def refuse_archived(memory_store_id: MemoryStoreId, *, is_archived: bool) -> None:
    """Before anything is created or updated. Raises MemoryRefused (EROFS)."""
    if is_archived:
        raise MemoryRefused(
            f"Memory store {memory_store_id} is archived: memories can be read and deleted, not changed",
            errno="EROFS",
        )
