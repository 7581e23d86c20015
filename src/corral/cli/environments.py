"""`corral environments`: what sandboxes may take, and what workers of a self-hosted one come in with."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table, safe

__all__ = [
    "create_environment_key",
    "environment_limits",
    "list_environment_keys",
    "revoke_environment_key",
]

_UNITS: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def environment_limits(api: Api, environment_id: str, given: Mapping[str, str], *, as_json: bool) -> None:
    """given: words by member of the request. Raises Problem."""
    path = f"/corral/v1/environments/{environment_id}/sandbox"
    asked = {name: _value(name, word) for name, word in given.items()}
    limits = api.post(path, asked) if asked else api.get(path)
    if as_json:
        print(json.dumps(limits, indent=2))
        return
    shown = [name for name in limits if name not in ("type", "environment_id")]
    print_table(("limit", "value"), [(name, _words(name, limits[name])) for name in shown])


def _value(name: str, word: str) -> Any:
    if word == "default":
        return None
    if name == "provider":
        return word
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]iB)?", word)
    is_size = name.endswith("_bytes")
    if number is None or (number[2] and not is_size):
        option = "--" + name.removesuffix("_bytes").replace("_", "-")
        wanted = "a size such as 512MiB or 4GiB" if is_size else "a number"
        raise Problem(f"{option}: {word!r} is not {wanted}, nor the word default", exit=Exit.USAGE)
    value = float(number[1]) * _UNITS[number[2] or ""]
    return value if name == "cpus" else int(value)


def _words(name: str, value: Any) -> str:
    if value is None:
        return "the server's" if name == "provider" else "a fair share"
    if not name.endswith("_bytes"):
        return safe(str(value))
    unit = next(unit for unit, size in reversed(_UNITS.items()) if value >= size)
    return f"{value / _UNITS[unit]:g} {unit or 'B'}"


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
