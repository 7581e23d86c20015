"""`corral environments key`: what the workers of a self-hosted environment come in with."""

import json

from corral.cli.connect import Api
from corral.cli.render import print_table, safe

__all__ = ["create_environment_key", "list_environment_keys", "revoke_environment_key"]


def list_environment_keys(api: Api, environment_id: str, *, as_json: bool) -> None:
    keys = api.get(f"/corral/v1/environments/{environment_id}/keys")["data"]
    if as_json:
        print(json.dumps(keys, indent=2))
        return
    rows = [
        (key["id"], safe(key["name"]), key["hint"], key["created_at"][:19], (key["revoked_at"] or "")[:19])
        for key in keys
    ]
    print_table(("id", "name", "ends in", "created (UTC)", "revoked (UTC)"), rows)


def create_environment_key(api: Api, environment_id: str, *, name: str, as_json: bool) -> None:
    """The secret goes to standard output alone, and is shown only now."""
    key = api.post(f"/corral/v1/environments/{environment_id}/keys", {"name": name})
    print(json.dumps(key, indent=2) if as_json else key["key"])


def revoke_environment_key(api: Api, environment_id: str, environment_key_id: str) -> None:
    api.post(f"/corral/v1/environments/{environment_id}/keys/{environment_key_id}/revoke")
    print(f"{environment_key_id} is revoked")
