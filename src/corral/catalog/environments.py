"""Environments: pure rules from request to record, and what a session can run in.

Mappings hold exactly the fields that the client set. Source: API docs, environments.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from corral.catalog.metadata import merged
from corral.catalog.packages import PACKAGE_MANAGERS
from corral.catalog.records import Wire
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import EnvironmentId

Fields = Mapping[str, Any]

_UNRESTRICTED = {"type": "unrestricted"}
_NO_HOST = {"allowed_hosts": [], "allow_mcp_servers": False, "allow_package_managers": False}
_HOST = re.compile(
    r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.I
)


def new_environment(given: Fields, *, environment_id: EnvironmentId, now: datetime) -> Wire:
    """Raises InvalidRequest naming the field."""
    _check_scope(given.get("scope"))
    return {
        "id": environment_id,
        "type": "environment",
        "name": given["name"],
        "description": given.get("description"),
        "config": _config({}, given.get("config") or {"type": "cloud"}),
        "metadata": merged({}, given.get("metadata")),
        "scope": "organization",
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
        "archived_at": None,
    }


def updated_environment(current: Wire, given: Fields, *, now: datetime) -> Wire:
    """The record after an update, or `current` itself if nothing changes. Raises InvalidRequest."""
    if current["archived_at"] is not None:
        raise InvalidRequest(
            f"Environment {current['id']} is archived and cannot be updated",
            error_code="environment_archived",
        )
    _check_scope(given.get("scope"))
    after = dict(current)
    if given.get("name") is not None:
        after["name"] = given["name"]
    if "description" in given:
        after["description"] = given["description"]
    if given.get("config") is not None:
        after["config"] = _config(current["config"], given["config"])
    after["metadata"] = merged(current["metadata"], given.get("metadata"), empty_deletes=True)
    return current if after == current else {**after, "updated_at": rfc3339(now)}


def check_session_environment(environment: Wire) -> None:
    """Refuse an environment whose promises no session of this server can keep. Raises InvalidRequest."""
    where = f"environment_id: environment {environment['id']}"
    if environment["archived_at"] is not None:
        raise InvalidRequest(f"{where} is archived; new sessions need another one")
    config = environment["config"]
    if config["type"] == "self_hosted":  # its workers' machines are what they are
        return


def _check_scope(scope: str | None) -> None:
    if scope == "account":
        raise InvalidRequest("scope: 'account' needs user accounts; API environments have 'organization'")


def _config(current: Fields, given: Fields) -> Wire:
    """A complete config: `given` over `current`, member by member. An explicit null means the default."""
    if current and given["type"] != current["type"]:
        raise InvalidRequest(
            f"config.type: cannot change from {current['type']!r} to {given['type']!r}",
            error_code="invalid_config_type_change",
        )
    if given["type"] == "self_hosted":
        return {"type": "self_hosted"}
    networking = current.get("networking", _UNRESTRICTED)
    if "networking" in given:
        networking = _networking(networking, given["networking"] or _UNRESTRICTED)
    packages = dict(
        current.get("packages") or {"type": "packages", **{name: [] for name in PACKAGE_MANAGERS}}
    )
    if "packages" in given:
        asked = given["packages"] or dict.fromkeys(PACKAGE_MANAGERS)
        packages |= {name: asked[name] or [] for name in PACKAGE_MANAGERS if name in asked}
    if (
        networking["type"] == "limited"
        and not networking["allow_package_managers"]
        and any(packages[name] for name in PACKAGE_MANAGERS)
    ):
        raise InvalidRequest(
            "config.networking.allow_package_managers: must be true when packages are set under 'limited'"
        )
    return {"type": "cloud", "networking": networking, "packages": packages}


def _networking(current: Fields, given: Fields) -> Wire:
    if given["type"] == "unrestricted":
        return dict(_UNRESTRICTED)
    kept = current if current["type"] == "limited" else _NO_HOST
    result: dict[str, Any] = {"type": "limited", **{name: kept[name] for name in _NO_HOST}}
    for name, default in _NO_HOST.items():
        if name in given:
            result[name] = default if given[name] is None else given[name]
    result["allowed_hosts"] = _hosts(result["allowed_hosts"])
    return result


def _hosts(hosts: Sequence[str]) -> list[str]:
    for number, host in enumerate(hosts):
        if not _HOST.fullmatch(host):
            raise InvalidRequest(
                f"config.networking.allowed_hosts.{number}: {host!r} is not a bare host name or '*.' and a"
                " name; leave out scheme, port and path"
            )
    return list(hosts)
