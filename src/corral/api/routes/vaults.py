"""/v1/vaults. Source: API docs, vaults.

A credential's secrets are sealed here, before anything else is done with them: what is recorded, logged or
answered afterwards never had them.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from corral.api.answer import json_answer, json_response
from corral.api.caller import caller
from corral.api.dependencies import Dependencies
from corral.api.idempotency import OnceOnly, secret_digest
from corral.api.openapi import takes
from corral.api.routes.agents import page_response
from corral.api.schema.query import NoQuery, parse_query
from corral.api.schema.strict import Parsed, parse, parse_empty
from corral.api.schema.vaults import (
    CredentialCreate,
    CredentialUpdate,
    VaultCreate,
    VaultListQuery,
    VaultUpdate,
)
from corral.api.sealing import seal_all, taken_body, wipe
from corral.catalog.credentials import new_credential, updated_credential, without_secrets
from corral.catalog.records import Wire
from corral.catalog.tokens import Where
from corral.catalog.vaults import check_active, new_vault, updated_vault
from corral.kernel.clock import rfc3339
from corral.kernel.errors import InvalidRequest
from corral.kernel.ids import CREDENTIAL, VAULT, CredentialId, VaultId, WorkspaceId

__all__ = ["vault_routes"]


def vault_routes(deps: Dependencies, once: OnceOnly) -> APIRouter:
    router = APIRouter(tags=["vaults"])
    _add_vaults(router, deps, once)
    _add_credentials(router, deps, once)
    return router


def _add_vaults(router: APIRouter, deps: Dependencies, once: OnceOnly) -> None:
    @router.post("/v1/vaults", openapi_extra=takes(body=VaultCreate))
    @once.per_key
    async def create_vault(request: Request) -> Response:
        parse_query(NoQuery, request.query_params)
        given = parse(VaultCreate, await request.body()).given()
        vault = new_vault(given, vault_id=VaultId(deps.ids.mint(VAULT)), now=deps.clock.now())
        return await once.perform(
            request,
            lambda: deps.vaults.create(vault, workspace_id=_workspace(request)),
            lambda _: json_answer(vault),
        )

    @router.get("/v1/vaults", openapi_extra=takes(query=VaultListQuery))
    async def list_vaults(request: Request) -> Response:
        query = parse_query(VaultListQuery, request.query_params)
        page = await deps.vaults.page(
            workspace_id=_workspace(request),
            limit=query.limit,
            cursor=query.page,
            include_archived=query.include_archived,
        )
        return page_response(page)

    @router.get("/v1/vaults/{vault_id}")
    async def retrieve_vault(request: Request, vault_id: VaultId) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(await deps.vaults.read(vault_id, workspace_id=_workspace(request)))

    @router.post("/v1/vaults/{vault_id}", openapi_extra=takes(body=VaultUpdate))
    @once.per_key
    async def update_vault(request: Request, vault_id: VaultId) -> Response:
        parse_query(NoQuery, request.query_params)
        given, now = parse(VaultUpdate, await request.body()).given(), deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.vaults.update(
                vault_id,
                lambda current: updated_vault(current, given, now=now),
                workspace_id=_workspace(request),
            ),
            json_answer,
        )

    @router.delete("/v1/vaults/{vault_id}")
    @once.per_key
    async def delete_vault(request: Request, vault_id: VaultId) -> Response:
        parse_query(NoQuery, request.query_params)
        return await once.perform(
            request,
            lambda: deps.vaults.delete(vault_id, workspace_id=_workspace(request)),
            lambda _: json_answer({"id": vault_id, "type": "vault_deleted"}),
        )

    @router.post("/v1/vaults/{vault_id}/archive")
    @once.per_key
    async def archive_vault(request: Request, vault_id: VaultId) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        now = deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.vaults.archive(vault_id, workspace_id=_workspace(request), now=now),
            json_answer,
        )


def _add_credentials(router: APIRouter, deps: Dependencies, once: OnceOnly) -> None:
    path = "/v1/vaults/{vault_id}/credentials"

    @router.post(path, openapi_extra=takes(body=CredentialCreate))
    async def create_credential(request: Request, vault_id: VaultId) -> Response:
        raw = await taken_body(request)
        digest = secret_digest(request, raw)
        if (replayed := await once.replay(request, digest)) is not None:
            wipe(raw)
            return replayed
        parse_query(NoQuery, request.query_params)
        given, secrets = _taken_apart(CredentialCreate, raw)
        workspace_id = _workspace(request)
        credential = new_credential(
            given,
            vault_id=vault_id,
            credential_id=CredentialId(deps.ids.mint(CREDENTIAL)),
            now=deps.clock.now(),
        )
        sealed = await seal_all(deps, credential, secrets, workspace_id=workspace_id)
        return await once.perform(
            request,
            lambda: deps.credentials.create(credential, sealed, workspace_id=workspace_id),
            lambda _: json_answer(credential),
            digest=digest,
        )

    @router.get(path, openapi_extra=takes(query=VaultListQuery))
    async def list_credentials(request: Request, vault_id: VaultId) -> Response:
        query = parse_query(VaultListQuery, request.query_params)
        page = await deps.credentials.page(
            vault_id,
            workspace_id=_workspace(request),
            limit=query.limit,
            cursor=query.page,
            include_archived=query.include_archived,
        )
        return page_response(page)

    @router.get(path + "/{credential_id}")
    async def retrieve_credential(
        request: Request, vault_id: VaultId, credential_id: CredentialId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        return json_response(
            await deps.credentials.read(vault_id, credential_id, workspace_id=_workspace(request))
        )

    @router.post(path + "/{credential_id}", openapi_extra=takes(body=CredentialUpdate))
    async def update_credential(
        request: Request, vault_id: VaultId, credential_id: CredentialId
    ) -> Response:
        raw = await taken_body(request)
        digest = secret_digest(request, raw)
        if (replayed := await once.replay(request, digest)) is not None:
            wipe(raw)
            return replayed
        parse_query(NoQuery, request.query_params)
        given, secrets = _taken_apart(CredentialUpdate, raw)
        names, workspace_id, now = tuple(secrets), _workspace(request), deps.clock.now()

        def change(current: Wire) -> Wire:
            return updated_credential(current, given, names, now=now)

        # Where a secret belongs never changes, so it is sealed for what the credential is now. What the
        # update may not do is refused before that, and again by the row's lock.
        current = await deps.credentials.read(vault_id, credential_id, workspace_id=workspace_id)
        sealed = await seal_all(deps, change(current), secrets, workspace_id=workspace_id)
        return await once.perform(
            request,
            lambda: deps.credentials.update(
                vault_id, credential_id, change, sealed, workspace_id=workspace_id
            ),
            json_answer,
            digest=digest,
        )

    @router.delete(path + "/{credential_id}")
    @once.per_key
    async def delete_credential(
        request: Request, vault_id: VaultId, credential_id: CredentialId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        return await once.perform(
            request,
            lambda: deps.credentials.delete(vault_id, credential_id, workspace_id=_workspace(request)),
            lambda _: json_answer({"id": credential_id, "type": "vault_credential_deleted"}),
        )

    @router.post(path + "/{credential_id}/archive")
    @once.per_key
    async def archive_credential(
        request: Request, vault_id: VaultId, credential_id: CredentialId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        now = deps.clock.now()
        return await once.perform(
            request,
            lambda: deps.credentials.archive(
                vault_id, credential_id, workspace_id=_workspace(request), now=now
            ),
            json_answer,
        )

    @router.post(path + "/{credential_id}/mcp_oauth_validate")
    async def validate_credential(
        request: Request, vault_id: VaultId, credential_id: CredentialId
    ) -> Response:
        parse_query(NoQuery, request.query_params)
        parse_empty(await request.body())
        credential = await deps.credentials.read(vault_id, credential_id, workspace_id=_workspace(request))
        if credential["auth"]["type"] != "mcp_oauth":
            raise InvalidRequest(
                f"Credential {credential_id} is {credential['auth']['type']!r}; only 'mcp_oauth' can be"
                " validated"
            )
        check_active(credential)
        found = await deps.validation.validate(
            Where(workspace_id=_workspace(request), vault_id=vault_id, credential_id=credential_id)
        )
        return json_response(
            {
                "type": "vault_credential_validation",
                "vault_id": vault_id,
                "credential_id": credential_id,
                "validated_at": rfc3339(deps.clock.now()),
                **found,
            }
        )


def _workspace(request: Request) -> WorkspaceId:
    return caller(request).workspace_id


def _taken_apart(shape: type[Parsed], raw: bytearray) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given without its secrets, and these by name. `raw` is wiped. Raises InvalidRequest."""
    try:
        given = parse(shape, raw).model_dump(exclude_unset=True)
    finally:
        wipe(raw)
    if given.get("auth") is None:
        return given, {}
    given["auth"], secrets = without_secrets(given["auth"])
    return given, secrets
