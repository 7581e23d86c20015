"""Credentials: pure rules from request to record, and what a session would have to use.

The request's shape was checked at the edge: mappings here hold exactly the fields that the client set.
Secrets are taken out first (`without_secrets`): a record never holds one, and no rule looks at one.
Source: API docs, vaults.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from corral.catalog.metadata import merged
from corral.catalog.networking import NetworkPolicy
from corral.catalog.records import Wire
from corral.catalog.vaults import SecretPlace, changed_at, check_active
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CredentialId, SessionId, VaultId, WorkspaceId

__all__ = [
    "check_session_vaults",
    "first_of_each_use",
    "new_credential",
    "place_of",
    "placeholder_of",
    "server_key",
    "unreachable_hosts",
    "updated_credential",
    "use_of",
    "variables_of",
    "without_secrets",
]

Fields = Mapping[str, Any]

_SECRETS: Final = frozenset({"access_token", "token", "secret_value", "refresh_token", "client_secret"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(
    r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.I
)
_PLACEHOLDER: Final = "corral_ph_"
_NUMBERS: Final = re.compile(r"[0-9.]+")


def without_secrets(auth: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
    """What may be seen of `auth`, and its secrets by name. A secret that is null is not given."""
    shown: dict[str, Any] = {}
    secrets: dict[str, Any] = {}
    for name, value in auth.items():
        if name in _SECRETS:
            if value is not None:
                secrets[name] = value
        elif name in ("refresh", "token_endpoint_auth") and value is not None:
            shown[name], inner = without_secrets(value)
            secrets |= inner
        else:
            shown[name] = value
    return shown, secrets


def new_credential(given: Fields, *, vault_id: VaultId, credential_id: CredentialId, now: datetime) -> Wire:
    """Raises InvalidRequest naming the field."""
    return {
        "id": credential_id,
        "type": "vault_credential",
        "vault_id": vault_id,
        "display_name": given.get("display_name"),
        "auth": _NEW[given["auth"]["type"]](given["auth"], now),
        "metadata": merged({}, given.get("metadata")),
        "created_at": rfc3339(now),
        "updated_at": rfc3339(now),
        "archived_at": None,
    }


def updated_credential(current: Wire, given: Fields, secrets: Iterable[str], *, now: datetime) -> Wire:
    """The record after an update, or `current` itself if nothing changes and no secret does.

    secrets: names of those that are given anew. In `auth` null keeps; what a credential is for never
    changes. Raises InvalidRequest, also for an archived credential.
    """
    check_active(current)
    after = dict(current)
    if "display_name" in given:
        after["display_name"] = given["display_name"]
    after["metadata"] = merged(current["metadata"], given.get("metadata"))
    if given.get("auth") is not None:
        auth, type_ = given["auth"], current["auth"]["type"]
        if auth["type"] != type_:
            raise InvalidRequest(
                f"auth.type: the credential is {type_!r}, which cannot be changed; make another one"
            )
        after["auth"] = _UPDATED[type_](current["auth"], auth, now)
    if after == current and not any(secrets):
        return current
    return {**after, "updated_at": changed_at(current, now)}


def use_of(auth: Fields) -> bytes:
    """What a credential is for, as it is unique among the active ones of a vault: the MCP server that its
    URL means, or the variable. A digest, because a URL may be longer than a key of an index."""
    if auth["type"] == "environment_variable":
        return sha256(b"variable\0" + auth["secret_name"].encode()).digest()
    return sha256(b"server\0" + server_key(auth["mcp_server_url"]).encode()).digest()


def server_key(url: str) -> str:
    """The URL as MCP servers are matched by it: scheme and host in lower case, without default port and
    trailing slash. Raises ValueError: it is no URL of a server."""
    parts = urlsplit(url)
    scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    if scheme not in _DEFAULT_PORTS or not host:
        raise ValueError("not http://host... or https://host...")
    name = f"[{host}]" if ":" in host else host
    where = name if port in (None, _DEFAULT_PORTS[scheme]) else f"{name}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{where}{parts.path.rstrip('/')}{query}"


def first_of_each_use(credentials: Iterable[Wire]) -> list[Wire]:
    """Those that a session has of these, which are in the order of its vaults: the first that is for a
    server or a variable is the one that is used. Source: API docs, vaults "Multiple vaults"."""
    found: dict[bytes, Wire] = {}
    for credential in credentials:
        found.setdefault(use_of(credential["auth"]), credential)
    return list(found.values())


def placeholder_of(session_id: SessionId, secret_name: str) -> str:
    """What stands for the secret in a session's sandbox. It is derived, so whoever makes the sandbox and
    whoever opens the secret need not tell each other; it is no secret: outside of its session it means
    nothing. Of the name and not of the credential, so a new credential takes an archived one's place."""
    digest = sha256(f"placeholder\0{session_id}\0{secret_name}".encode()).hexdigest()
    return f"{_PLACEHOLDER}{digest[:32]}"


def variables_of(credentials: Iterable[Wire], session_id: SessionId) -> dict[str, str]:
    """The placeholders of a session's sandboxes, by the names of their variables."""
    names = (each["auth"].get("secret_name") for each in credentials)
    return {name: placeholder_of(session_id, name) for name in names if name is not None}


def unreachable_hosts(
    credential: Wire, networking: Fields, *, mcp_endpoints: Iterable[tuple[str, int]] = ()
) -> list[str]:
    """Which of the hosts that a variable's credential names an environment's networking does not allow.
    What `allow_package_managers` opens is known in the sandbox alone: then none is called unreachable.
    mcp_endpoints: what `allow_mcp_servers` opens."""
    wanted = credential["auth"].get("networking") or {}
    policy = NetworkPolicy.of(networking, mcp_endpoints=mcp_endpoints)
    if wanted.get("type") != "limited" or policy.hosts is None or networking.get("allow_package_managers"):
        return []
    return [host for host in wanted["allowed_hosts"] if not policy.allows_all(host.lower())]


def place_of(credential: Wire, name: str, *, workspace_id: WorkspaceId) -> SecretPlace:
    """Where the secret of this name belongs."""
    auth = credential["auth"]
    if auth["type"] == "environment_variable":
        destination = auth["secret_name"]
    elif name in ("refresh_token", "client_secret"):
        destination = auth["refresh"]["token_endpoint"]
    else:
        destination = auth["mcp_server_url"]
    return SecretPlace(
        workspace_id=workspace_id,
        vault_id=credential["vault_id"],
        credential_id=credential["id"],
        name=name,
        destination=destination,
    )


def check_session_vaults(vaults: Iterable[tuple[Wire, Sequence[Wire]]], environment: Fields) -> None:
    """vaults: each with its active credentials. environment: its config. Raises InvalidRequest for an
    archived vault, and for a variable where nobody could put it into what a sandbox sends."""
    for number, (vault, credentials) in enumerate(vaults):
        where = f"vault_ids.{number}: vault {vault['id']}"
        if vault["archived_at"] is not None:
            raise InvalidRequest(f"{where} is archived; new sessions need another one")
        variables = [each for each in credentials if each["auth"]["type"] == "environment_variable"]
        if variables and environment["type"] == "self_hosted":
            raise InvalidRequest(
                f"{where}: its credential {variables[0]['id']} is an 'environment_variable', which is not"
                " supported with self-hosted environments; give the worker what it needs, and use another"
                " vault"
            )


# -- auth of each type ------------------------------------------------------------------------------------


def _new_oauth(given: Fields, now: datetime) -> Wire:
    refresh = given.get("refresh")
    return {
        "type": "mcp_oauth",
        "mcp_server_url": _url(given["mcp_server_url"], "auth.mcp_server_url"),
        "expires_at": _expiry(given.get("expires_at"), now),
        "refresh": None
        if refresh is None
        else {
            "client_id": refresh["client_id"],
            "token_endpoint": _url(refresh["token_endpoint"], "auth.refresh.token_endpoint"),
            "token_endpoint_auth": {"type": refresh["token_endpoint_auth"]["type"]},
            "resource": refresh.get("resource"),
            "scope": refresh.get("scope") or None,
        },
    }


def _updated_oauth(current: Fields, given: Fields, now: datetime) -> Wire:
    after = dict(current)
    if given.get("expires_at") is not None:
        after["expires_at"] = _expiry(given["expires_at"], now)
    refresh = given.get("refresh")
    if refresh is None:
        return after
    if current["refresh"] is None:
        raise InvalidRequest(
            "auth.refresh: the credential was made without a refresh token, which cannot be added; make"
            " another one"
        )
    kept = dict(current["refresh"])
    if refresh.get("scope") is not None:
        kept["scope"] = refresh["scope"] or None
    if "token_endpoint_auth" in refresh and kept["token_endpoint_auth"]["type"] == "none":
        raise InvalidRequest(
            "auth.refresh.token_endpoint_auth: the credential's is 'none', which has no secret and cannot"
            " be changed; make another one"
        )
    return {**after, "refresh": kept}  # of the two kinds with a secret it keeps its own


def _new_bearer(given: Fields, now: datetime) -> Wire:
    return {
        "type": "static_bearer",
        "mcp_server_url": _url(given["mcp_server_url"], "auth.mcp_server_url"),
    }


def _new_variable(given: Fields, now: datetime) -> Wire:
    where = given.get("injection_location")
    return {
        "type": "environment_variable",
        "secret_name": given["secret_name"],
        "networking": _networking(given["networking"]),
        "injection_location": _location(
            {"header": True, "body": True} if where is None else {"header": False, "body": False, **where}
        ),
    }


def _updated_variable(current: Fields, given: Fields, now: datetime) -> Wire:
    after = dict(current)
    if given.get("networking") is not None:
        after["networking"] = _networking(given["networking"])
    after["injection_location"] = _location(
        {**current["injection_location"], **given.get("injection_location", {})}
    )
    return after


_NEW: Final = {
    "mcp_oauth": _new_oauth,
    "static_bearer": _new_bearer,
    "environment_variable": _new_variable,
}
_UPDATED: Final = {
    "mcp_oauth": _updated_oauth,
    "static_bearer": lambda current, given, now: current,
    "environment_variable": _updated_variable,
}


def _expiry(moment: datetime | None, now: datetime) -> str | None:
    if moment is None:
        return None
    if moment <= now:
        raise InvalidRequest(f"auth.expires_at: {rfc3339(moment)} is not in the future")
    return rfc3339(moment)


def _url(url: str, where: str) -> str:
    try:
        server_key(url)
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidRequest(f"{where}: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(f"{where}: must not contain a user name or password")
    if parts.fragment:
        raise InvalidRequest(f"{where}: must not have a fragment")
    return url


def _location(location: Mapping[str, bool]) -> Wire:
    if not any(location.values()):
        raise InvalidRequest("auth.injection_location: at least one of header and body must be true")
    return {"header": location["header"], "body": location["body"]}


def _networking(given: Fields) -> Wire:
    if given["type"] == "unrestricted":
        return {"type": "unrestricted"}
    for number, host in enumerate(given["allowed_hosts"]):
        where = f"auth.networking.allowed_hosts.{number}"
        if not _HOST.fullmatch(host):
            raise InvalidRequest(
                f"{where}: {host!r} is not a bare host name, an IPv4 address or '*.' and a name; leave out"
                " scheme, port and path"
            )
        if _NUMBERS.fullmatch(host):
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise InvalidRequest(f"{where}: {host!r} is not an IPv4 address") from None
    return {"type": "limited", "allowed_hosts": list(given["allowed_hosts"])}
