"""`corral keys` and `corral workspaces`: who may come in, and into what."""

import json

from corral.cli.connect import Api
from corral.cli.render import print_table, safe

__all__ = [
    "archive_workspace",
    "create_key",
    "create_workspace",
    "list_keys",
    "list_workspaces",
    "revoke_key",
]


def list_keys(api: Api, *, as_json: bool) -> None:
    keys = api.get("/corral/v1/keys")["data"]
    if as_json:
        print(json.dumps(keys, indent=2))
        return
    rows = [
        (
            key["id"],
            safe(key["name"]),
            key["hint"],
            key["role"],
            key["workspace_id"],
            key["created_at"][:19],
            (key["last_used_at"] or "never")[:19],
            (key["revoked_at"] or "")[:19],
        )
        for key in keys
    ]
    headings = ("id", "name", "ends in", "role", "workspace", "created (UTC)", "last used", "revoked")
    print_table(headings, rows)


def create_key(api: Api, *, name: str, role: str, workspace_id: str | None, as_json: bool) -> None:
    """The secret goes to standard output alone, and is shown only now."""
    key = api.post("/corral/v1/keys", {"name": name, "role": role, "workspace_id": workspace_id})
    print(json.dumps(key, indent=2) if as_json else key["key"])


def revoke_key(api: Api, *, api_key_id: str) -> None:
    api.post(f"/corral/v1/keys/{api_key_id}/revoke")
    print(f"{api_key_id} is revoked")


def list_workspaces(api: Api, *, as_json: bool) -> None:
    found = api.get("/corral/v1/workspaces")["data"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (each["id"], safe(each["name"]), (each["created_at"] or "-")[:19], (each["archived_at"] or "")[:19])
        for each in found
    ]
    print_table(("id", "name", "created (UTC)", "archived (UTC)"), rows)


def create_workspace(api: Api, *, name: str, as_json: bool) -> None:
    made = api.post("/corral/v1/workspaces", {"name": name})
    print(json.dumps(made, indent=2) if as_json else made["id"])


def archive_workspace(api: Api, *, workspace_id: str) -> None:
    api.post(f"/corral/v1/workspaces/{workspace_id}/archive")
    print(f"{workspace_id} is archived; its keys let nobody in any more")
