"""Memory stores attached to a session: where each is mounted, and what its agent is told. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.catalog.records import Wire
from corral.kernel.limits import MEMORIES_PER_STORE_MAX, MEMORY_CONTENT_BYTES_MAX

__all__ = ["MEMORY_ROOT", "memory_note", "memory_resource", "mount_paths", "slug_of"]

MEMORY_ROOT: Final = "/mnt/memory"
_OTHERS: Final = re.compile(r"[^a-z0-9]+")


def slug_of(name: str, *, memory_store_id: str) -> str:
    """Lower-cased, each run of anything but ASCII letters and digits as one hyphen, none at an end; of a
    name without any, the store's id. Source: API docs, memory "Mounts"."""
    return _OTHERS.sub("-", name.lower()).strip("-") or memory_store_id


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
