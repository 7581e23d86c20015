"""`corral keys`: list, create, revoke API keys of a server."""

import json

from corral.cli.connect import Api
from corral.cli.render import print_table

__all__ = ["create_key", "list_keys", "revoke_key"]


def list_keys(api: Api, *, as_json: bool) -> None:
    keys = api.get("/corral/v1/keys")["data"]
    if as_json:
        print(json.dumps(keys, indent=2))
        return
    rows = [
        (key["id"], key["name"], key["hint"], key["created_at"][:19], (key["revoked_at"] or "")[:19])
        for key in keys
    ]
    print_table(("id", "name", "ends in", "created (UTC)", "revoked (UTC)"), rows)


def create_key(api: Api, *, name: str, as_json: bool) -> None:
    """The secret goes to standard output alone, and is shown only now."""
    key = api.post("/corral/v1/keys", {"name": name})
    print(json.dumps(key, indent=2) if as_json else key["key"])


def revoke_key(api: Api, *, api_key_id: str) -> None:
    api.post(f"/corral/v1/keys/{api_key_id}/revoke")
    print(f"{api_key_id} is revoked")
