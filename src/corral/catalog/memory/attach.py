"""Memory stores attached to a session: where each is mounted, and what its agent is told. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.catalog.records import Wire
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import (
    MEMORIES_PER_STORE_MAX,
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_STORES_PER_SESSION_MAX,
)

__all__ = [
    "MEMORY_ROOT",
    "check_attachable",
    "check_together",
    "memory_note",
    "memory_resource",
    "mount_paths",
    "slug_of",
]

MEMORY_ROOT: Final = "/mnt/memory"
_OTHERS: Final = re.compile(r"[^a-z0-9]+")


def slug_of(name: str, *, memory_store_id: str) -> str:
    """Lower-cased, each run of anything but ASCII letters and digits as one hyphen; of a name without any,
    the store's id. Source: the SDK's docstring of a store's `name`."""
    slug = _OTHERS.sub("-", name.lower())
    return memory_store_id if slug in ("", "-") else slug


def mount_paths(stores: Sequence[Wire]) -> list[str]:
    """Of the stores of one session, in their order: an equal slug gets `-2`, `-3`, ... (our choice)."""
    taken: set[str] = set()
    paths = []
    for store in stores:
        slug = first = slug_of(store["name"], memory_store_id=store["id"])
        number = 1
        while slug in taken:
            number += 1
            slug = f"{first}-{number}"
        taken.add(slug)
        paths.append(f"{MEMORY_ROOT}/{slug}")
    return paths


def check_attachable(store: Wire, *, where: str) -> None:
    """Raises InvalidRequest: it is archived."""
    if store["archived_at"] is not None:
        raise InvalidRequest(
            f"{where}memory_store_id: memory store {store['id']} is archived, so it cannot be attached"
        )


def check_together(stores: Sequence[Wire], agent: Mapping[str, Any]) -> None:
    """Whether a session with this agent can have all of these. Raises InvalidRequest."""
    if len(stores) > MEMORY_STORES_PER_SESSION_MAX:
        raise InvalidRequest(
            f"resources: a session has at most {MEMORY_STORES_PER_SESSION_MAX} memory stores,"
            f" not {len(stores)}"
        )
    ids = [store["id"] for store in stores]
    if twice := next((id_ for id_ in ids if ids.count(id_) > 1), None):
        raise InvalidRequest(f"resources: memory store {twice!r} is attached twice")
    if stores and not any(str(tool["type"]).startswith("agent_toolset_") for tool in agent["tools"]):
        raise InvalidRequest(
            "resources: a memory store needs an agent with the agent toolset, which reads and writes it"
        )


def memory_resource(
    store: Wire, *, access: str | None, instructions: str | None, mount_path: str
) -> dict[str, Any]:
    """The resource as the wire shows it, for as long as the session lives: name and description are those
    of this moment."""
    return {
        "type": "memory_store",
        "memory_store_id": store["id"],
        "access": access or "read_write",
        "instructions": instructions,
        "name": store["name"],
        "description": store["description"],
        "mount_path": mount_path,
    }


def memory_note(resources: Sequence[Mapping[str, Any]]) -> str | None:
    """The part of the system prompt about these resources; None if there are no memory stores."""
    stores = [each for each in resources if each["type"] == "memory_store"]
    if not stores:
        return None
    lines = [
        "Memory stores are mounted in your sandbox: directories of text files that outlive this session and"
        " may be shared with others. Look into them before you begin, and keep there what will be of use"
        " later. What you write is saved after each tool call: UTF-8 text, at most"
        f" {MEMORY_CONTENT_BYTES_MAX} bytes a file, at most {MEMORIES_PER_STORE_MAX} files a store."
    ]
    for store in stores:
        mode = "read-only" if store["access"] == "read_only" else "read-write"
        lines.append(f"\n{store['mount_path']} ({mode}): {store['name']}")
        if store.get("description"):
            lines.append(f"Description: {store['description']}")
        if store.get("instructions"):
            lines.append(f"Instructions: {store['instructions']}")
    return "\n".join(lines)
