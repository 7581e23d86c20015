"""`corral sandboxes`: what lies on which host, and letting it go."""

import json

from corral.cli.connect import Api
from corral.cli.render import print_table, safe

__all__ = ["evict_sandbox", "list_sandboxes"]


def list_sandboxes(api: Api, *, as_json: bool) -> None:
    """One line per sandbox or workspace, of every host that answers. Raises Problem."""
    found = api.get("/corral/v1/sandboxes")["data"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (
            safe(each["host_id"]),
            safe(each["session_id"]),
            each["provider"] or "-",
            "busy" if each["is_busy"] else f"idle {each['idle_seconds']:.0f} s",
            _size(each["disk_bytes"]),
            (each["checkpoint_at"] or "-")[:19] + ("  (changed since)" if each["has_changed"] else ""),
        )
        for each in found
    ]
    print_table(("host", "session", "sandbox", "state", "disk", "checkpoint"), rows)


def evict_sandbox(api: Api, *, session_id: str, as_json: bool) -> None:
    """Raises Problem: while a call runs, or there is nothing to evict."""
    evicted = api.post(f"/corral/v1/sandboxes/{session_id}/evict")
    if as_json:
        print(json.dumps(evicted, indent=2))
    else:
        print(f"{session_id} left {evicted['host_id']} ({_size(evicted['disk_bytes'])})")


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
