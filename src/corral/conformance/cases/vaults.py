"""Vaults and credentials; no secret is ever answered."""

from corral.conformance.case import Target, case, check, refused, same

CANARY = "conformance-canary-value"


UNANSWERED = "https://192.0.2.1/mcp"  # an address for documentation: nobody is there


async def _vault(to: Target) -> str:
    vault = await to.beta.vaults.create(display_name=to.name("vault"))
    to.later("vault", lambda: to.beta.vaults.delete(vault.id))
    return str(vault.id)


def _bearer(host: str) -> dict[str, str]:
    return {"type": "static_bearer", "mcp_server_url": f"https://{host}.example/mcp", "token": CANARY}


@case(
    "vaults",
    "POST /v1/vaults",
    "GET /v1/vaults/{vault_id}",
    "POST /v1/vaults/{vault_id}",
    "GET /v1/vaults",
    "POST /v1/vaults/{vault_id}/archive",
    "DELETE /v1/vaults/{vault_id}",
)
async def a_vault_lives_from_create_to_delete(to: Target) -> None:
    vault_id = await _vault(to)
    changed = await to.beta.vaults.update(vault_id, metadata={"a": "1"})
    same(changed.metadata, {"a": "1"}, "metadata")
    same((await to.beta.vaults.retrieve(vault_id)).to_dict(), changed.to_dict(), "as retrieved")
    check(vault_id in [v.id for v in await to.every(to.beta.vaults.list(limit=100))], "it is listed")
    archived = await to.beta.vaults.archive(vault_id)
    check(archived.archived_at, "archived_at is set")
    gone = await to.beta.vaults.delete(vault_id)
    same((gone.id, gone.type), (vault_id, "vault_deleted"), "the answer")
    with refused(404, "not_found_error"):
        await to.beta.vaults.retrieve(vault_id)


@case(
    "vaults",
    "POST /v1/vaults/{vault_id}/credentials",
    "GET /v1/vaults/{vault_id}/credentials/{credential_id}",
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}",
    "GET /v1/vaults/{vault_id}/credentials",
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive",
    "DELETE /v1/vaults/{vault_id}/credentials/{credential_id}",
)
async def a_credential_never_shows_its_secret(to: Target) -> None:
    vault_id = await _vault(to)
    made = await to.beta.vaults.credentials.create(vault_id, display_name="one", auth=_bearer("a"))
    path = f"/v1/vaults/{vault_id}/credentials"
    changed = await to.beta.vaults.credentials.update(made.id, vault_id=vault_id, display_name="two")
    same(changed.display_name, "two", "display_name")
    found = await to.beta.vaults.credentials.retrieve(made.id, vault_id=vault_id)
    same(found.auth.type, "static_bearer", "auth.type")
    for where in (path, f"{path}/{made.id}"):
        check(CANARY not in (await to.http.get(where)).text, f"the secret is not in GET {where}")
    with refused(409, "conflict_error"):
        await to.beta.vaults.credentials.create(vault_id, auth=_bearer("a"))
    archived = await to.beta.vaults.credentials.archive(made.id, vault_id=vault_id)
    check(archived.archived_at, "archived_at is set")
    again = await to.beta.vaults.credentials.create(vault_id, auth=_bearer("a"))
    gone = await to.beta.vaults.credentials.delete(again.id, vault_id=vault_id)
    same(gone.type, "vault_credential_deleted", "the answer")
    listed = await to.every(to.beta.vaults.credentials.list(vault_id, include_archived=True))
    same([each.id for each in listed], [made.id], "credentials, archived ones too")


@case("vaults", "POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate")
async def a_credential_is_validated_at_its_server(to: Target) -> None:
    """Nobody answers there, so nothing can be said of the token; and only OAuth is validated."""
    vault_id = await _vault(to)
    credentials = to.beta.vaults.credentials
    auth = {"type": "mcp_oauth", "mcp_server_url": UNANSWERED, "access_token": CANARY}
    made = await credentials.create(vault_id, auth=auth)
    found = await credentials.mcp_oauth_validate(made.id, vault_id=vault_id)
    same((found.type, found.status), ("vault_credential_validation", "unknown"), "the verdict")
    same((found.vault_id, found.credential_id), (vault_id, made.id), "of what it is")
    check(found.validated_at, "validated_at is set")
    same((found.has_refresh_token, found.refresh), (False, None), "refresh")
    check(found.mcp_probe is not None, "there is a step that failed")
    if found.mcp_probe is not None:
        same((found.mcp_probe.method, found.mcp_probe.http_response), ("initialize", None), "mcp_probe")
    bearer = await credentials.create(vault_id, auth=_bearer("b"))
    with refused(400, "invalid_request_error"):
        await credentials.mcp_oauth_validate(bearer.id, vault_id=vault_id)
