"""Vaults, credentials and what sessions may do with them, through the official SDK."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import pytest

from corral.vault.ring import FileKeys, KeyRing

CANARY = "canary-s3cr3t"
URL = "https://mcp.example.com/v1"
ANYWHERE = {"type": "unrestricted"}
LATER = "2099-01-01T00:00:00Z"
OAUTH = {
    "type": "mcp_oauth",
    "mcp_server_url": URL,
    "access_token": f"{CANARY}-access",
    "expires_at": LATER,
    "refresh": {
        "client_id": "client",
        "refresh_token": f"{CANARY}-refresh",
        "token_endpoint": "https://auth.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": f"{CANARY}-client"},
        "scope": "read",
    },
}
BEARER = {"type": "static_bearer", "mcp_server_url": URL, "token": f"{CANARY}-token"}
VARIABLE = {
    "type": "environment_variable",
    "secret_name": "API_KEY",
    "secret_value": f"{CANARY}-value",
    "networking": ANYWHERE,
}


@pytest.fixture
def strict(server):
    with server.client(_strict_response_validation=True) as made:
        yield made


@pytest.fixture
def vault(strict):
    return strict.beta.vaults.create(display_name="V")


def opened(server: Any, credential_id: str) -> dict[str, str]:
    """Every secret of a credential, as the egress process would open it."""
    ring = KeyRing(FileKeys(server.vault_keys))
    keys = [key_id for key_id, _ in ring.public()]
    stored = server.run(server.deps.vault_keys.sealed_otherwise(keys, after=None, limit=9999))
    return {
        secret.place.name: ring.open(
            secret.sealed, key_id=secret.key_id, place=secret.place.encode()
        ).decode()
        for secret in stored
        if secret.place.credential_id == credential_id
    }


def refusal(call: Any, error: type[Exception] = anthropic.BadRequestError) -> str:
    """The message, which repeats no secret."""
    with pytest.raises(error) as refused:
        call()
    assert CANARY not in str(refused.value)
    return str(refused.value.body["error"]["message"])  # type: ignore[attr-defined]


def test_vault_life(strict) -> None:
    vaults = strict.beta.vaults
    made = vaults.create(display_name="Ada's", metadata={"team": "a"})
    assert made.id.startswith("vlt_")
    assert (made.type, made.display_name, made.archived_at) == ("vault", "Ada's", None)
    assert vaults.retrieve(made.id) == made
    changed = vaults.update(made.id, display_name="new", metadata={"team": None, "x": "1"})
    assert (changed.display_name, changed.metadata) == ("new", {"x": "1"})
    assert vaults.update(made.id, display_name=None, metadata=None) == changed
    archived = vaults.archive(made.id)
    assert archived.archived_at is not None
    assert vaults.archive(made.id) == archived == vaults.retrieve(made.id)
    assert "archived" in refusal(lambda: vaults.update(made.id, display_name="x"))
    assert made.id not in [vault.id for vault in vaults.list()]
    assert made.id in [vault.id for vault in vaults.list(include_archived=True)]
    assert vaults.delete(made.id).type == "vault_deleted"
    for call in (vaults.retrieve, vaults.delete, vaults.archive, vaults.update):
        refusal(lambda call=call: call(made.id), anthropic.NotFoundError)
    for fields in ({"display_name": ""}, {"display_name": "x" * 256}):
        assert refusal(lambda fields=fields: vaults.create(**fields)).startswith("display_name: ")
    for metadata in ({"k" * 65: "v"}, {"k": "v" * 513}, {f"k{n}": "" for n in range(17)}):
        refusal(lambda metadata=metadata: vaults.create(display_name="x", metadata=metadata))
    full = vaults.create(display_name="x", metadata={f"k{n}": "" for n in range(16)})
    assert "16" in refusal(lambda: vaults.update(full.id, metadata={"more": "1"}))


def test_vault_pages(strict) -> None:
    vaults = strict.beta.vaults
    ids = [vaults.create(display_name=f"p{n}").id for n in range(5)]
    assert [vault.id for vault in vaults.list(limit=2)][:5] == ids[::-1]
    first = vaults.list(limit=2)
    assert [vault.id for vault in first.data] == ids[:2:-1]
    refusal(lambda: vaults.list(limit=101))
    refusal(lambda: strict.beta.agents.list(page=first.next_page))


def test_an_oauth_credential(server, strict, vault) -> None:
    credentials = strict.beta.vaults.credentials
    made = credentials.create(vault.id, auth=OAUTH, display_name="C", metadata={"a": "b"})
    assert made.id.startswith("vcrd_")
    assert (made.type, made.vault_id, made.display_name) == ("vault_credential", vault.id, "C")
    assert CANARY not in made.to_json()
    assert made.auth.refresh.token_endpoint_auth.type == "client_secret_basic"
    assert (made.auth.mcp_server_url, made.auth.refresh.scope) == (URL, "read")
    assert credentials.retrieve(made.id, vault_id=vault.id) == made
    assert opened(server, made.id) == {
        "access_token": f"{CANARY}-access",
        "refresh_token": f"{CANARY}-refresh",
        "client_secret": f"{CANARY}-client",
    }

    def update(**fields: Any) -> Any:
        auth = {"type": "mcp_oauth", **fields}
        return credentials.update(made.id, vault_id=vault.id, auth=auth)

    other_kind = {"type": "client_secret_post", "client_secret": "c2"}
    changed = update(access_token="a2", refresh={"scope": "", "token_endpoint_auth": other_kind})
    assert changed.auth.expires_at == made.auth.expires_at  # a new token keeps the old expiry
    assert changed.auth.refresh.token_endpoint_auth.type == "client_secret_basic"  # the kind is kept
    assert changed.auth.refresh.scope is None
    assert opened(server, made.id) == {
        "access_token": "a2", "refresh_token": f"{CANARY}-refresh", "client_secret": "c2",
    }  # fmt: skip
    update(refresh={"refresh_token": "r2", "scope": None}, expires_at=None, access_token=None)
    assert opened(server, made.id)["refresh_token"] == "r2"
    assert update(expires_at="2098-01-01T00:00:00Z").auth.expires_at.year == 2098
    assert credentials.retrieve(made.id, vault_id=vault.id).auth.refresh.client_id == "client"
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    for fields, named in (
        ({"expires_at": past}, "auth.expires_at: "),
        ({"mcp_server_url": URL}, "auth.mcp_server_url: cannot be changed"),
        ({"refresh": {"client_id": "x"}}, "auth.refresh.client_id: cannot be changed"),
        ({"refresh": {"token_endpoint": "x"}}, "auth.refresh.token_endpoint: cannot be changed"),
        ({"refresh": {"resource": "x"}}, "auth.refresh.resource: cannot be changed"),
        ({"refresh": {"token_endpoint_auth": {"type": "none"}}}, "auth.refresh.token_endpoint_auth.type: "),
        ({"refresh": {"token_endpoint_auth": None}}, "auth.refresh.token_endpoint_auth: "),
        ({"type": "static_bearer", "token": CANARY}, "auth.type: the credential is 'mcp_oauth'"),
    ):
        assert refusal(lambda fields=fields: update(**fields)).startswith(named)
    plain = credentials.create(
        vault.id,
        auth={"type": "mcp_oauth", "mcp_server_url": f"{URL}/other", "access_token": CANARY},
    )
    assert (plain.auth.expires_at, plain.auth.refresh) == (None, None)
    message = refusal(
        lambda: credentials.update(
            plain.id, vault_id=vault.id, auth={"type": "mcp_oauth", "refresh": {"refresh_token": CANARY}}
        )
    )
    assert message.startswith("auth.refresh: ")
    public = {**OAUTH["refresh"], "token_endpoint_auth": {"type": "none"}}
    none = credentials.create(vault.id, auth={**OAUTH, "mcp_server_url": f"{URL}/none", "refresh": public})
    assert none.auth.refresh.token_endpoint_auth.type == "none"
    message = refusal(
        lambda: credentials.update(
            none.id,
            vault_id=vault.id,
            auth={"type": "mcp_oauth", "refresh": {"token_endpoint_auth": other_kind}},
        )
    )
    assert "'none'" in message
    # There is no egress process in these tests; tests/sdk/turns/test_mcp_credentials.py has one.
    with pytest.raises(anthropic.APIStatusError) as away:
        credentials.mcp_oauth_validate(made.id, vault_id=vault.id)
    assert (away.value.status_code, "egress process" in away.value.message) == (529, True)
    credentials.archive(none.id, vault_id=vault.id)
    assert "archived" in refusal(lambda: credentials.mcp_oauth_validate(none.id, vault_id=vault.id))


def test_a_bearer_and_a_variable(server, strict, vault) -> None:
    credentials = strict.beta.vaults.credentials
    bearer = credentials.create(vault.id, auth=BEARER)
    assert (bearer.auth.mcp_server_url, bearer.display_name, bearer.metadata) == (URL, None, {})
    auth = {"type": "static_bearer", "token": "t2"}
    again = credentials.update(bearer.id, vault_id=vault.id, auth=auth, display_name="D")
    assert (again.display_name, opened(server, bearer.id)) == ("D", {"token": "t2"})
    assert credentials.update(bearer.id, vault_id=vault.id, display_name=None).display_name is None
    assert credentials.update(bearer.id, vault_id=vault.id, display_name="").display_name == ""
    assert opened(server, bearer.id) == {"token": "t2"}
    assert "mcp_oauth" in refusal(lambda: credentials.mcp_oauth_validate(bearer.id, vault_id=vault.id))

    variable = credentials.create(vault.id, auth=VARIABLE)
    assert variable.auth.injection_location.model_dump() == {"header": True, "body": True}
    assert variable.auth.networking.type == "unrestricted"

    def update(**fields: Any) -> Any:
        auth = {"type": "environment_variable", **fields}
        return credentials.update(variable.id, vault_id=vault.id, auth=auth).auth

    hosts = ["api.example.com", "*.example.com", "192.0.2.1"]
    limited = update(networking={"type": "limited", "allowed_hosts": hosts}, secret_value="v2")
    assert limited.networking.allowed_hosts == hosts
    assert update(networking=None, secret_value=None).networking == limited.networking
    assert opened(server, variable.id) == {"secret_value": "v2"}
    merged = update(injection_location={"body": False}).injection_location
    assert merged.model_dump() == {"header": True, "body": False}
    for fields, named in (
        ({"injection_location": {"header": False}}, "auth.injection_location: "),
        ({"injection_location": None}, "auth.injection_location: "),
        ({"injection_location": {"body": None}}, "auth.injection_location.body: "),
        ({"secret_name": "API_KEY"}, "auth.secret_name: cannot be changed"),
        ({"networking": {"type": "limited", "allowed_hosts": ["x"] * 17}}, "auth.networking.allowed_hosts"),
        *(
            (
                {"networking": {"type": "limited", "allowed_hosts": [host]}},
                "auth.networking.allowed_hosts.0",
            )
            for host in ("https://a.b", "a.b:80", "a.b/c", "::1", "*", "*.*.a", "1.2.3", "256.1.1.1", "")
        ),
    ):
        assert refusal(lambda fields=fields: update(**fields)).startswith(named)
    for where, expected in (({"header": True}, (True, False)), ({"body": True}, (False, True))):
        name = f"NAME_{expected[0]}"
        made = credentials.create(
            vault.id, auth={**VARIABLE, "secret_name": name, "injection_location": where}
        )
        location = made.auth.injection_location
        assert (location.header, location.body) == expected


def test_refused_credentials_repeat_no_secret(http, vault, caplog) -> None:
    """Whatever is wrong with a body, its secrets are in no answer and no log line."""
    caplog.set_level(logging.DEBUG)
    refresh = OAUTH["refresh"]
    bad: list[Any] = [
        {**OAUTH, "mcp_server_url": "ftp://x"},
        {**OAUTH, "mcp_server_url": "https://user:pw@x"},
        {**OAUTH, "mcp_server_url": "https://x/#f"},
        {**OAUTH, "mcp_server_url": "https://x:99999"},
        {**OAUTH, "expires_at": "2001-01-01T00:00:00Z"},
        {**OAUTH, "expires_at": CANARY},
        {**OAUTH, "access_token": [CANARY]},
        {**OAUTH, "access_token": {"x": CANARY}},
        {**OAUTH, "access_token": f"{CANARY}\r\nx: y"},
        {**OAUTH, "access_token": f"{CANARY}\0"},
        {**OAUTH, "access_token": CANARY * 9000},
        {**OAUTH, "access_token": ""},
        {**OAUTH, "refresh": {**refresh, "refresh_token": [CANARY]}},
        {**OAUTH, "refresh": {**refresh, "token_endpoint_auth": {"type": "none", "client_secret": CANARY}}},
        {**OAUTH, "refresh": {**refresh, "token_endpoint_auth": {"type": CANARY}}},
        {**OAUTH, "refresh": {**refresh, "token_endpoint": "nowhere"}},
        {**BEARER, "type": CANARY},
        {**BEARER, "unknown": CANARY},
        {**BEARER, "token": None},
        {**VARIABLE, "secret_name": "9A"},
        {**VARIABLE, "secret_name": "A B"},
        {**VARIABLE, "networking": CANARY},
        {**VARIABLE, "injection_location": {}},
        {**VARIABLE, "injection_location": None},
        {**VARIABLE, "secret_value": 1},
        CANARY,
        [CANARY],
    ]
    path = f"/v1/vaults/{vault.id}/credentials"
    for auth in bad:
        answer = http.post(path, json={"auth": auth})
        assert answer.status_code == 400, (auth, answer.text)
        assert CANARY not in answer.text
    for raw in (b'{"auth": "canary-s3cr3t', b'"canary-s3cr3t" canary-s3cr3t', b"\xffcanary-s3cr3t"):
        answer = http.post(path, content=raw)
        assert (answer.status_code, CANARY in answer.text) == (400, False)
    lost = http.post("/v1/vaults/vlt_none/credentials", json={"auth": BEARER})
    assert (lost.status_code, CANARY in lost.text) == (404, False)
    assert CANARY not in caplog.text
    assert http.get(path).json()["data"] == []


def test_one_active_credential_for_each_use(strict, vault) -> None:
    """Inferred: URLs that match the same server are the same."""
    credentials = strict.beta.vaults.credentials
    first = credentials.create(vault.id, auth=OAUTH)
    same = {**BEARER, "mcp_server_url": "HTTPS://MCP.Example.com:443/v1/"}
    assert first.id in refusal(lambda: credentials.create(vault.id, auth=same), anthropic.ConflictError)
    for url in (
        "https://mcp.example.com/v2",
        "https://mcp.example.com:444/v1",
        "http://mcp.example.com/v1",
    ):
        credentials.create(vault.id, auth={**BEARER, "mcp_server_url": url})
    other = strict.beta.vaults.create(display_name="other")
    credentials.create(other.id, auth=same)
    archived = credentials.archive(first.id, vault_id=vault.id)
    assert archived.archived_at is not None
    assert credentials.archive(first.id, vault_id=vault.id) == archived
    again = credentials.create(vault.id, auth=same)
    update = {"auth": {"type": "mcp_oauth", "access_token": CANARY}}
    assert "archived" in refusal(lambda: credentials.update(first.id, vault_id=vault.id, **update))
    listed = [each.id for each in credentials.list(vault.id)]
    assert (listed[0], len(listed), first.id in listed) == (again.id, 4, False)
    everything = [each.id for each in credentials.list(vault.id, limit=2, include_archived=True)]
    assert (everything[-1], len(everything)) == (first.id, 5)
    assert credentials.delete(again.id, vault_id=vault.id).type == "vault_credential_deleted"
    for call in (credentials.retrieve, credentials.delete, credentials.archive):
        refusal(lambda call=call: call(again.id, vault_id=vault.id), anthropic.NotFoundError)
        refusal(lambda call=call: call(first.id, vault_id=other.id), anthropic.NotFoundError)


def test_archived_credentials_do_not_count(strict, vault) -> None:
    """Inferred: the twenty of a vault are those that can be used."""
    credentials = strict.beta.vaults.credentials
    made = [credentials.create(vault.id, auth={**VARIABLE, "secret_name": f"V{n}"}).id for n in range(20)]
    more = {**VARIABLE, "secret_name": "MORE"}
    assert "at most 20" in refusal(lambda: credentials.create(vault.id, auth=more))
    credentials.archive(made[0], vault_id=vault.id)
    credentials.create(vault.id, auth=more)


def test_an_archived_vault_takes_its_credentials_along(server, strict, vault) -> None:
    credentials = strict.beta.vaults.credentials
    made = credentials.create(vault.id, auth=OAUTH)
    strict.beta.vaults.archive(vault.id)
    assert credentials.retrieve(made.id, vault_id=vault.id).archived_at is not None
    assert opened(server, made.id) == {}
    assert "archived" in refusal(lambda: credentials.create(vault.id, auth=BEARER))
    strict.beta.vaults.delete(vault.id)
    refusal(lambda: credentials.retrieve(made.id, vault_id=vault.id), anthropic.NotFoundError)


def test_repeated_requests_record_no_secret(server, http, vault) -> None:
    """The digest of a keyed body is not one that could be guessed from."""
    from hashlib import sha256

    path = f"/v1/vaults/{vault.id}/credentials"
    body = json.dumps({"auth": {**BEARER, "token": "pin-1234"}}).encode()
    headers = {"idempotency-key": "vault-1"}
    first = http.post(path, content=body, headers=headers)
    again = http.post(path, content=body, headers=headers)
    assert (first.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert http.post(path, content=body + b" ", headers=headers).status_code == 409
    bearer = {**headers, "authorization": f"Bearer {server.key}"}
    del http.headers["x-api-key"]
    assert http.post(path, content=body, headers=bearer).json() == first.json()
    content = b"".join(each.read_bytes() for each in Path(server.vault_keys).parent.glob("corral.db*"))
    assert first.json()["id"].encode() in content
    assert sha256(body).digest() not in content
    for secret in (b"pin-1234", CANARY.encode()):
        assert secret not in content


def test_session_vaults(strict, vault, agent_id, environment_id) -> None:
    """Whatever is in them, unless they are archived."""
    credentials = strict.beta.vaults.credentials

    def create(*vault_ids: str) -> Any:
        return strict.beta.sessions.create(
            agent=agent_id, environment_id=environment_id, vault_ids=list(vault_ids)
        )

    other = strict.beta.vaults.create(display_name="other")
    credentials.create(vault.id, auth=OAUTH)  # the agent has no MCP server
    made = create(other.id, vault.id)
    assert made.vault_ids == [other.id, vault.id]
    assert strict.beta.sessions.retrieve(made.id).vault_ids == [other.id, vault.id]
    assert made.id in [each.id for each in strict.beta.sessions.list() if each.vault_ids]
    assert create().vault_ids == []
    credentials.create(other.id, auth=VARIABLE)
    assert create(vault.id, other.id).vault_ids == [vault.id, other.id]
    strict.beta.vaults.archive(other.id)
    assert "archived" in refusal(lambda: create(other.id))
    refusal(lambda: create("vlt_none"), anthropic.NotFoundError)
    refusal(lambda: create(*[vault.id] * 51))
    assert "cannot be changed" in refusal(
        lambda: strict.beta.sessions.update(made.id, vault_ids=[vault.id])
    )


def test_vault_keys(server, http, vault) -> None:
    """Nobody is here to rotate: that it was asked for is seen."""
    found = http.get("/corral/v1/vault/keys").json()
    [key] = found["keys"]
    assert (key["state"], found["is_rotating"]) == ("current", False)
    assert http.post("/corral/v1/vault/rotate_key").json()["is_rotating"]
    assert http.post("/corral/v1/vault/rotate_key").json()["is_rotating"]
